"""A framework of a few lines that fulfils runs.host.Host: its model is one number, the grey to draw."""

import json
from pathlib import Path

import numpy as np
import torch

from convnext_backbones.data.records import Record, Records
from convnext_backbones.errors import UserError
from convnext_backbones.runs.host import Classes, Entry, Example, Optimized, Result, Sample, View
from convnext_backbones.runs.preparation import existing_config

WORK_DIRS = "work_dirs/tiny"


class Tiny(torch.nn.Module):
    dataset_meta = "metadata"

    def __init__(self, grey=0.0):
        super().__init__()
        self.grey = torch.nn.Parameter(torch.tensor(grey))


def quiet_warnings():
    pass


def overrides(args):
    return dict(pair.split("=") for pair in args.turbo)


def load_config(path, *, sample=False, shrink=False, options=None):
    config = json.loads(existing_config(path).read_text())
    if config.get("tiny") != 1:
        raise UserError(f"config {path} is no tiny one")
    return {**config, "sample": sample, "shrink": shrink, **(options or {})}


def take_options(config, args):
    config["turbo"] = args.turbo


def work_dir(config):
    return Path(config["work_dir"]) if "work_dir" in config else None


def set_work_dir(config, folder):
    config["work_dir"] = str(folder)


def check_data(config, splits=("train", "val")):
    config["checked"] = list(splits)


def records(config, split, *, most=None):
    if split not in config:
        return None
    return Records(split, "boxes", ("grey",), [Record(picture) for picture in config[split]])


def samples(config, count, seed):
    grey = Classes(("grey",), [(200, 200, 200)])
    made = []
    for k in range(count):
        image = np.full((16, 16, 3), (seed + k) % 256, np.uint8)
        boxes = np.array([[1.0, 1.0, 8.0, 8.0]])
        truth = Result(grey, boxes=boxes, labels=np.zeros(1, int))
        made.append(Sample(image, (12, 16), truth, np.zeros((0, 4)), f"{k}.png", (0.0, 1.0)))
    return made


def fit_to_device(config):
    print("fitted")


def launch(work, args, config):
    for _ in range(config.get("processes", 1)):
        work(args, None if "processes" in config else config)


def set_up(config, args):
    Path(config["work_dir"]).mkdir(parents=True, exist_ok=True)


def is_main_process():
    return True


def train(config, *, resume):
    folder = Path(config["work_dir"])
    record = {"iteration": 1 + resume, "loss": 0.5, "mIoU": 40.0 + resume}
    with (folder / "log.json").open("a") as log:
        log.write(json.dumps(record) + "\n")
    torch.save({"grey": torch.tensor(200.0)}, folder / "last.pth")
    own_config(config).write_text(json.dumps(config))
    return Tiny(200.0)


def evaluate(config, checkpoint):
    load_model(config, checkpoint)
    return {"mIoU": 41.0}


def initial_weights(config):
    return config.get("weights", "")


def last_checkpoint(config):
    file = Path(config["work_dir"]) / "last.pth"
    return file if file.is_file() else None


def best_checkpoint(config):
    file = Path(config["work_dir"]) / "best.pth"
    return file if file.is_file() else None


def own_config(config):
    return Path(config["work_dir"]) / "config.json"


def read_log(work_dir):
    for line in (work_dir / "log.json").read_text().splitlines():
        record = json.loads(line)
        yield Entry(False, record["iteration"], {"loss": record["loss"]})
        yield Entry(True, record["iteration"], {"mIoU": record["mIoU"]})


def read_warnings(work_dir):
    return ()


def optimized(config, model):
    return Optimized(model, [dict(params=[model.grey], lr=0.1, weight_decay=0.0)])


def examples(config, model, count):
    image = np.zeros((8, 8, 3), np.uint8)
    for _ in range(count):
        grey = model.grey.item()
        yield Example(image, truth=100.0, prediction=grey, meta="metadata", file="grey.png")


def build_model(config, device):
    return Tiny().to(device)


def load_model(config, checkpoint, device=None):
    model = build_model(config, device or "cpu")
    if not Path(checkpoint).is_file():
        raise UserError(f"{checkpoint}: there is no such file")
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    return model


def infer(model, files):
    return [model.grey.item() for _ in files]


def result_of(prediction, meta, score):
    assert meta == "metadata"
    grey = [int(prediction)] * 3
    return Result(Classes(("grey",), [grey]), label_map=np.zeros((8, 8), int))


def truth_of(truth, meta, image):
    return result_of(truth, meta, 0)


def view(model, file):
    pixels = torch.zeros(1, 3, 8, 8)
    return View(pixels, (8, 8), lambda x: list(x[:, :1] + model.grey), False, Classes(("grey",)))
