"""Nothing that is read from data is executed: every way to read a file x every kind of payload.

A payload that ran would leave a file behind. What a reader answers is another test's affair: here it may
read the file, or refuse it.
"""

import contextlib
import functools
import importlib
import io
import json
import pickle
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hostile import Built, Called, Named, Raw, opcodes, pickled, tensor, torch_legacy, torch_zip

from convnext_backbones import create_backbone
from convnext_backbones.checkpoints import load_pretrained, read_checkpoint
from convnext_backbones.cli import check_weights, convert
from convnext_backbones.errors import UserError
from convnext_backbones.network.convnext import ConvNeXt

ROOT = Path(__file__).parents[2]
SIZE = dict(depths=[1, 1], dims=[8, 16])


# ---- payloads ------------------------------------------------------------------------------------
def system(marker):
    return Called(Named("os.system"), (f"touch {marker}",))


def evaluating(marker):
    return Called(Named("builtins.eval"), (f"open({str(marker)!r}, 'w')",))


def raw(value):
    return lambda folder, marker: (folder / "file.pth").write_bytes(pickled(value(marker)))


def in_zip(value):
    return lambda folder, marker: torch_zip(
        folder / "file.pth", pickled({"model": value(marker), "w": tensor()}), {"0": bytes(4)}
    )


def in_legacy(value):
    return lambda folder, marker: torch_legacy(
        folder / "file.pth", pickled({"state_dict": value(marker), "w": tensor()}), {"0": bytes(4)}
    )


def protocol_0(folder, marker):
    (folder / "file.pth").write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())


def in_tar(folder, marker):
    with tarfile.open(folder / "file.pth", "w") as archive:
        content = pickled(system(marker))
        for name in ("sys_info", "pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


class Runs:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


def numpy_objects(folder, marker):
    with (folder / "file.pth").open("wb") as file:
        pickle.dump({"model": {"w": np.array([Runs(marker)], dtype=object)}}, file, protocol=2)


def numpy_file(folder, marker):
    with (folder / "file.pth").open("wb") as file:
        np.save(file, np.array([Runs(marker)], dtype=object), allow_pickle=True)


def stored_config(text):
    """A checkpoint that a run can go on from, with a text where MMEngine keeps, and looks for, its config."""

    def write(folder, marker):
        model, config = ConvNeXt(SIZE), text.format(marker=marker)
        content = {
            "meta": {"epoch": 3, "iter": 12, "config": config, "cfg": config},
            "state_dict": model.state_dict(),
            "model": model.state_dict(),
            "message_hub": {"log_scalars": {}, "runtime_info": {"cfg": config}, "resumed_keys": {}},
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.1).state_dict(),
            "param_schedulers": [],
        }
        torch.save(content, folder / "file.pth")

    return write


def in_npz(folder, marker):
    with (folder / "file.pth").open("wb") as file:
        np.savez(file, w=np.array([Runs(marker)], dtype=object))


def by_protocol(protocol):
    def write(folder, marker):
        data = {"data_list": [{"img": Runs(marker)}], "metainfo": Runs(marker)}
        (folder / "file.pth").write_bytes(pickle.dumps(data, protocol))

    return write


def as_state(marker):
    """The call is what an object of MMDetection's proposals gets for its state."""
    instances = Named("mmengine.structures.instance_data.InstanceData")
    return {"a.jpg": Built(Called(instances, (), b"\x81"), {"bboxes": system(marker)})}


def instances_of(marker):
    """And what it is called with."""
    return [Called(Named("mmengine.structures.instance_data.InstanceData"), (system(marker),))]


PAYLOADS = {
    "os.system": raw(system),
    "eval": raw(evaluating),
    "in a list": raw(lambda marker: {"model": [[1, {"w": [system(marker)]}]]}),
    "as a key": raw(lambda marker: Raw(b"}(" + opcodes(system(marker)) + b"Nu")),
    "in protocol 0": protocol_0,
    "in a torch file": in_zip(system),
    "eval in a torch file": in_zip(evaluating),
    "in an old torch file": in_legacy(system),
    "eval in an old torch file": in_legacy(evaluating),
    "in a tar file": in_tar,
    "in an array": numpy_objects,
    "in numpy's file": numpy_file,
    "in numpy's archive": in_npz,
    **{f"an object's, protocol {protocol}": by_protocol(protocol) for protocol in range(6)},
    "in proposals": raw(as_state),
    "called in proposals": raw(instances_of),
    "after the end": lambda folder, marker: (folder / "file.pth").write_bytes(
        pickled({"w": 1}) + pickled(system(marker))
    ),
    "config: a statement": stored_config("open({marker!r}, 'w').close()\ngpu_ids = [0]\n"),
    "config: an import": stored_config("import pathlib\npathlib.Path({marker!r}).touch()\n"),
    "config: a lazy one": stored_config(
        "from mmengine.hooks import EMAHook\nhooks = [EMAHook, open({marker!r}, 'w').name]\n"
    ),
    "config: an expression": stored_config("a = dict(b=[open({marker!r}, 'w').name])\n"),
}  # fmt: skip


# ---- ways to read --------------------------------------------------------------------------------
def openmmlab():
    pytest.importorskip("mmengine")
    import convnext_backbones.adapters.openmmlab as adapter

    return adapter


def initialised(file):
    openmmlab()
    from mmengine.registry import MODELS

    MODELS.build(
        dict(
            type="convnext_backbones.ConvNeXt",
            arch=SIZE,
            init_cfg=dict(type="Pretrained", checkpoint=file),
        )
    ).init_weights()


class Trained(ConvNeXt):
    """What MMEngine's Runner trains."""

    def train_step(self, data, optim_wrapper):
        raise NotImplementedError


class AnotherTrained(torch.nn.Module):
    """The same without a network of this package; as many parameters, which the optimizer counts."""

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.ParameterList(torch.zeros(()) for _ in ConvNeXt(SIZE).parameters())

    train_step = Trained.train_step


@functools.cache
def runner_of(model):
    """MMEngine's Runner as it is when train() comes to load_or_resume(); built once for each model."""
    openmmlab()
    from mmengine.runner import Runner

    folder = tempfile.TemporaryDirectory()
    runner = Runner(
        model=Trained(SIZE) if model == "ConvNeXt" else AnotherTrained(),
        work_dir=folder.name,
        train_dataloader=torch.utils.data.DataLoader([0]),
        train_cfg=dict(by_epoch=False, max_iters=20),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        param_scheduler=[],
        log_level="ERROR",
        experiment_name=f"payloads {model}",
    )
    runner.folder = folder  # until both go
    runner.build_train_loop(runner.train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    return runner


def started(model, *, resume):
    def read(file):
        runner = runner_of(model)
        runner._has_loaded, runner._load_from, runner._resume = False, file, resume
        runner.train_loop._iter = 0
        runner.load_or_resume()
        assert runner.iter == (12 if resume else 0)

    return read


def inferred(file):
    """An inferencer without a config takes the one in the file."""
    openmmlab()
    from mmengine.config import Config
    from mmengine.infer import BaseInferencer

    BaseInferencer._init_model(None, Config(), file)


def detectron2(model, action):
    def read(file):
        pytest.importorskip("detectron2")
        from detectron2.checkpoint import DetectionCheckpointer

        import convnext_backbones.adapters.detectron2  # noqa: F401

        built = ConvNeXt(SIZE) if model == "ConvNeXt" else torch.nn.Linear(2, 2)
        folder = Path(file).parent
        checkpointer = DetectionCheckpointer(built, str(folder))
        if action == "resume":
            (folder / "last_checkpoint").write_text(Path(file).name)
            checkpointer.resume_or_load("", resume=True)
        else:
            renamed = Path(file).with_suffix(action)
            Path(file).rename(renamed)
            checkpointer.resume_or_load(str(renamed), resume=False)

    return read


def evaluated(host):
    """What test and predict load."""

    def read(file):
        module = pytest.importorskip("mmseg" if host == "openmmlab" else "detectron2")
        assert module
        import importlib

        run = importlib.import_module(f"convnext_backbones.adapters.{host}.run")
        run.load_trained(ConvNeXt(SIZE), file)

    return read


def annotations(file):
    openmmlab()
    import mmengine

    mmengine.load(file, file_format="pkl")


def proposals(file):
    pytest.importorskip("detectron2")
    from detectron2.data.build import load_proposals_into_dataset

    import convnext_backbones.adapters.detectron2  # noqa: F401

    load_proposals_into_dataset([], file)


def mmdetections_data(kind):
    """What MMDetection's data sets read by themselves."""

    def read(file):
        openmmlab()
        module = importlib.import_module(pytest.importorskip("mmdet").__name__ + ".datasets")
        from mmengine.registry import DATASETS

        DATASETS.get("mmdet.CocoDataset")
        renamed = str(Path(file).rename(Path(file).with_suffix(".pkl")))
        if kind == "relations":
            dataset = module.OpenImagesChallengeDataset.__new__(module.OpenImagesChallengeDataset)
            dataset.backend_args = None
            return dataset._get_relation_matrix(renamed)
        dataset = module.CocoDataset(lazy_init=True, proposal_file=renamed, data_root="")
        dataset.data_list = []
        return dataset.load_proposals()

    return read


def mmsegmentations_volume(file):
    """A picture of LoadBiomedicalImageFromFile."""
    openmmlab()
    pytest.importorskip("mmseg")
    from mmengine.registry import TRANSFORMS
    from mmseg.datasets.transforms import LoadBiomedicalImageFromFile  # noqa: F401

    load = TRANSFORMS.build(dict(type="mmseg.LoadBiomedicalImageFromFile", decode_backend="pickle"))
    load({"img_path": file})


def latest(file):
    """What --resume looks at."""
    openmmlab()
    from convnext_backbones.adapters.openmmlab.saving import last_whole

    last_whole(Path(file).parent)


WAYS = {
    "read_checkpoint": read_checkpoint,
    "create_backbone": lambda file: create_backbone("convnext_atto", pretrained=file),
    "load_pretrained": lambda file: load_pretrained(ConvNeXt(SIZE), file),
    "check-weights": lambda file: check_weights.main([file]),
    "convert": lambda file: convert.main([file, "--to", "timm", "--out", f"{file}.out"]),
    "init_cfg": initialised,
    **{
        f"{name}, {model}": started(model, resume=name == "resume")
        for model in ("ConvNeXt", "another")
        for name in ("load_from", "resume")
    },
    "inferencer": inferred,
    "newest": latest,
    "pickled annotations": annotations,
    "pickled proposals": proposals,
    "proposals, MMDetection": mmdetections_data("proposals"),
    "relations of classes, MMDetection": mmdetections_data("relations"),
    "volumes, MMSegmentation": mmsegmentations_volume,
    "test and predict, OpenMMLab": evaluated("openmmlab"),
    "test and predict, Detectron2": evaluated("detectron2"),
    **{
        f"Detectron2, {model}, {action}": detectron2(model, action)
        for model in ("ConvNeXt", "another")
        for action in (".pth", ".pkl", ".pyth", "resume")
    },
}

# What a way answers beside sentences: the host's own errors.
HOSTS = (AttributeError, TypeError, AssertionError, KeyError, ValueError)
OTHERS = {way: HOSTS for way in WAYS if way.startswith("Detectron2, another, ")}
OTHERS |= dict.fromkeys(
    ("proposals, MMDetection", "volumes, MMSegmentation", "resume, another"), HOSTS
)


@pytest.mark.parametrize("way", WAYS)
def test_no_payload_is_executed(way, tmp_path):
    executed = []
    for name, write in PAYLOADS.items():
        folder = tmp_path / name.replace(" ", "_").replace(":", "")
        folder.mkdir()
        marker = folder / "executed"
        write(folder, str(marker))
        with contextlib.suppress(UserError, SystemExit, *OTHERS.get(way, ())):
            WAYS[way](str(folder / "file.pth"))
        if marker.exists():
            executed.append(name)
    assert executed == []


@pytest.mark.parametrize("model", ["ConvNeXt", "another"])
def test_a_run_goes_on_past_a_stored_config_that_would_run_if_it_were_kept(
    model, tmp_path, monkeypatch
):
    """So that the table above reaches the place where MMEngine runs it."""
    openmmlab()
    from convnext_backbones.adapters.openmmlab import checkpoints

    def executed() -> list[str]:
        found = []
        for name in (name for name in PAYLOADS if name.startswith("config")):
            marker = tmp_path / "executed"
            PAYLOADS[name](tmp_path, str(marker))
            with contextlib.suppress(*([Exception] if kept else [])):
                started(model, resume=True)(str(tmp_path / "file.pth"))
            if marker.exists():
                found.append(name)
                marker.unlink()
        return found

    kept = False
    assert executed() == []
    kept = True
    monkeypatch.setattr(checkpoints, "without_config_text", lambda content: content)
    # "an import" is one of a lazy config, where a module cannot be called
    assert {*executed(), "config: an import"} == {n for n in PAYLOADS if n.startswith("config")}


# ---- configs -------------------------------------------------------------------------------------
TAGS = {
    "apply": "!!python/object/apply:os.system ['touch {marker}']",
    "apply, a function": "!!python/object/apply:builtins.eval [\"open('{marker}', 'w')\"]",
    "new": "!!python/object/new:os.system ['touch {marker}']",
    "new, in a list": "[1, [!!python/object/new:subprocess.Popen [['touch', '{marker}']]]]",
    "name": "!!python/name:os.system",
    "module": "!!python/module:antigravity",
}
BASES = ("", "_base_", "_BASE_")
# What a registry or `instantiate` would call without a tag of YAML's
CALLED = {
    "type": "{{type: os.system, command: touch {marker}}}",
    "type, below": "{{type: Pack, parts: [{{type: os.system, command: touch {marker}}}]}}",
    "type, of an expression": "{{nms: {{type: \"open('{marker}', 'w')\"}}}}",
    "type, through a host": "{{type: mmengine.os.system, command: touch {marker}}}",
    "_target_": "{{_target_: os.system, command: touch {marker}}}",
    "_target_, below": "{{_target_: torch.nn.Sequential, x: [{{_target_: os.system, command: touch {marker}}}]}}",
    "_target_, through a part": "{{_target_: detectron2.data.build.pickle.loads, data: 1}}",
    "_target_, of a file": "{{_target_: detectron2.utils.env.setup_custom_environment, custom_module: a.py}}",
}


def mmengine_config(file):
    openmmlab()
    from mmengine.config import Config

    Config.fromfile(file)


def openmmlab_run(file):
    pytest.importorskip("mmdet")
    pytest.importorskip("mmseg")
    from convnext_backbones.adapters.openmmlab import run

    run.load_config(file)


def detectron2_config(kind):
    def read(file):
        pytest.importorskip("detectron2")
        from detectron2.config import LazyConfig, get_cfg

        import convnext_backbones.adapters.detectron2  # noqa: F401
        from convnext_backbones.adapters.detectron2 import run

        {"yaml": get_cfg().merge_from_file, "lazy": LazyConfig.load, "run": run.load_config}[kind](
            file
        )

    return read


CONFIGS = {
    "MMEngine": mmengine_config,
    "OpenMMLab's commands": openmmlab_run,
    "Detectron2, YAML": detectron2_config("yaml"),
    "Detectron2, LazyConfig": detectron2_config("lazy"),
    "Detectron2's commands": detectron2_config("run"),
}


@pytest.mark.parametrize("way", CONFIGS)
def test_no_config_in_yaml_is_executed(way, tmp_path):
    executed, read = [], []
    for name, tag in TAGS.items():
        for base in BASES:
            folder = tmp_path / f"{name}{base}".replace(" ", "_")
            folder.mkdir()
            marker = folder / "executed"
            (folder / "file.yaml").write_text(f"MODEL: {tag.format(marker=marker)}\n")
            if base:
                (folder / "file.yaml").rename(folder / "base.yaml")
                (folder / "file.yaml").write_text(f"{base}: base.yaml\nVERSION: 2\n")
            with contextlib.suppress(UserError, KeyError):
                CONFIGS[way](str(folder / "file.yaml"))
                read.append((name, base))
            if marker.exists():
                executed.append((name, base))
    assert executed == []
    other = {"_BASE_"} if way in ("MMEngine", "OpenMMLab's commands") else {"_base_"}
    other |= {"_BASE_"} if way == "Detectron2, LazyConfig" else set()
    assert {base for _, base in read} <= other  # there no base, but a key


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@pytest.mark.parametrize("called", CALLED)
@pytest.mark.parametrize("way", CONFIGS)
def test_no_config_that_is_no_python_calls_what_it_likes(way, called, suffix, tmp_path):
    """Each is built, too, where it is read."""
    own = "_target_" if way.startswith("Detectron2") else "type"
    if not called.startswith(own) or way == "Detectron2, YAML" or (way, suffix) in NOT_READ:
        pytest.skip("not its kind of config")
    marker, file = tmp_path / "executed", tmp_path / f"file{suffix}"
    content = yaml.safe_load("model: " + CALLED[called].format(marker=marker))
    file.write_text((json.dumps if suffix == ".json" else yaml.safe_dump)(content))
    with pytest.raises(UserError, match=r"which (names a Python object that )?could run code"):
        CONFIGS[way](str(file))
    assert not marker.exists()


NOT_READ = [(way, ".json") for way in CONFIGS if way.startswith("Detectron2")]


def test_a_saved_lazy_config_is_read_again(tmp_path):
    """It names parts of Detectron2, torch and this package, and a user's own by import=FILE.py."""
    pytest.importorskip("detectron2")
    from detectron2.config import LazyConfig

    from convnext_backbones.adapters.detectron2 import own_data, run
    from convnext_backbones.adapters.detectron2.safe_reading import check_targets

    for file in sorted((ROOT / "configs/detectron2").glob("*convnextv2_*.py"))[:4]:
        LazyConfig.save(run.load_config(str(file)).cfg, str(tmp_path / "config.yaml"))
        run.load_config(str(tmp_path / "config.yaml"))
    (tmp_path / "own.py").write_text("import os\nclass Head: pass\n")
    before = set(sys.modules)  # other tests' files are modules too
    own_data.run_file(str(tmp_path / "own.py"))
    new = set(sys.modules) - before
    (name,) = (name for name in new if name.startswith("convnext_backbones_user_own_"))
    check_targets({"_target_": f"{name}.Head"}, "config.yaml")
    with pytest.raises(UserError, match="could run code"):
        check_targets({"_target_": f"{name}.os.system"}, "config.yaml")
