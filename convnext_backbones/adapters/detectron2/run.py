"""From a config of Detectron2, YAML or LazyConfig, to a finished, reported run.

The functions behind tools/train_detectron2.py and tools/predict.py. Both kinds of config run through
one loop of Detectron2's trainer, hooks and evaluators. Checkpoints are read without executing.
"""

import contextlib
import logging
import time
import warnings
from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.structures import BoxMode
from detectron2.structures.masks import polygons_to_bitmask
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, ListConfig
from PIL import Image

from ...checkpoints import read_checkpoint
from ...errors import UserError
from ...network.variants import nearest
from ...runs.report import detectron2_metrics
from ...runs.visualize import draw_instances, draw_label_map, enlarged, palette_of
from . import training as recipe
from .configs import Run, YamlRun
from .configs import load_config as load_config  # for the tools, beside what runs it

# Console lines that hide the ones one looks for; the log file keeps them.
TALKATIVE = (
    "Environment info", "Command line arguments", "Running with full config", "Full config saved",
    "Rank of current process", "[DatasetMapper]", "Serializing", "Serialized", "Distribution of",
    "Using training sampler", "Making batched data loader", "[DetectionCheckpointer]",
    "[Checkpointer]", "OrderedDict", "Start inference on", "Inference done", "Total inference", "Evaluation results",
    "Preparing results", "Evaluating predictions", "Loading and preparing", "Evaluate annotation",
    "Per-category", "copypaste", "[CommonMetricPrinter]", "No checkpoint found", "Saving results",
)  # fmt: skip


# ---- before a run --------------------------------------------------------------------------------
LAYOUTS = {
    "coco": """\
    {root}/
      train2017/*.jpg   val2017/*.jpg
      annotations/instances_train2017.json   annotations/instances_val2017.json
  from cocodataset.org: train2017.zip, val2017.zip, annotations_trainval2017.zip""",
    "sem_seg": """\
    {root}/
      images/training/*.jpg        images/validation/*.jpg
      annotations/training/*.png   annotations/validation/*.png
  from ADEChallengeData2016.zip of the MIT scene parsing benchmark""",
}


def check_data(run: Run, *, train: bool = True) -> None:
    """UserError for an unregistered data set, and with the expected layout for missing files."""
    settings = run.settings
    splits = {"train": settings.train_data if train else [], "test": settings.test_data}
    for split, name in ((split, name) for split, names in splits.items() for name in names):
        if name not in DatasetCatalog.list():
            raise UserError(
                f"no data set {name!r} is registered; {nearest(name, DatasetCatalog.list())}"
            )
        if isinstance(run, YamlRun) and split == "test":
            recipe.evaluator_type(name)
        meta = MetadataCatalog.get(name)
        keys = ("json_file", "image_root", "sem_seg_root")
        paths = [Path(meta.get(key)) for key in keys if meta.get(key)]
        missing = [path for path in paths if "://" not in str(path) and not path.exists()]
        if missing:
            kind, up = meta.get("evaluator_type"), Path(meta.image_root).parent
            root = up.parent if kind == "sem_seg" else up
            expected = LAYOUTS[kind].format(root=root) if kind in LAYOUTS else f"    {paths}"
            raise UserError(
                f"the {split} data is not there: {missing[0]} is missing. Expected layout:\n"
                f"{expected}\n"
                "  Link or copy it there, or set DETECTRON2_DATASETS to the folder above it, or try the "
                "run on generated data first: add --sample"
            )


def fit_to_device(run: Run, processes: int) -> None:
    """Replace what this machine cannot run, in place, and say so in a line."""
    batch = run.settings.batch
    if batch % processes:
        raise UserError(f"a batch of {batch} pictures cannot be split over {processes} processes")
    if torch.cuda.is_available():
        return
    changes = [f"{run.settings.device} -> cpu"] if run.settings.device != "cpu" else []
    changes += ["mixed precision -> float32"] if run.settings.amp else []
    run.set(device="cpu", amp=False)
    count = _replace_sync_bn(run.cfg)
    changes += [f"SyncBN -> BN ({count} places)"] if count else []
    if changes:
        print(f"without a GPU, {processes} process{'es' * (processes > 1)}: {'; '.join(changes)}")


def _replace_sync_bn(node) -> int:
    """Change every "SyncBN" in a config to "BN"; returns how many there were."""
    keys = range(len(node)) if isinstance(node, (list, ListConfig)) else list(node)
    count = 0
    for key in keys:
        if isinstance(node[key], (CfgNode, DictConfig, ListConfig)):
            count += _replace_sync_bn(node[key])
        elif isinstance(node[key], str) and node[key] == "SyncBN":
            node[key] = "BN"
            count += 1
    return count


def quiet_warnings() -> None:
    """Silence the frameworks' own deprecation warnings; not ours."""
    for package in ("detectron2", "fvcore", "torch", "torchvision", "pycocotools", "pkg_resources"):
        warnings.filterwarnings("ignore", module=rf"{package}(\.|$)")
    for logger in ("torch.utils.cpp_extension", "torch.fx._symbolic_trace"):
        logging.getLogger(logger).setLevel(logging.ERROR)


def set_up(run: Run, args) -> None:
    """Detectron2's own set-up (log, saved config, seed), with a console that leaves out what is in
    the log file anyway."""
    output, rank = run.settings.output_dir, comm.get_rank()
    # in default_setup's own words: the loggers are cached by them
    for logger in (
        setup_logger(output, distributed_rank=rank, name="fvcore"),
        setup_logger(output, distributed_rank=rank),
    ):
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(lambda record: not record.getMessage().startswith(TALKATIVE))
    default_setup(run.cfg, args)


# ---- the run -------------------------------------------------------------------------------------
@contextlib.contextmanager
def _refused(part: str):
    """A UserError for what the callables that a config names refuse."""
    try:
        yield
    except UserError:
        raise
    except (TypeError, ValueError, KeyError, AssertionError) as error:
        raise UserError(f"the {part} of this config cannot be built: {error}") from error


def build(run: Run) -> torch.nn.Module:
    """The model; UserError when the config asks for what its parts refuse."""
    with _refused("model"):
        return run.build_model()


def train(run: Run, *, resume: bool) -> torch.nn.Module:
    """Train, evaluate and save as the config says; returns the model, on every process."""
    settings = run.settings
    model = build(run)
    with _refused("training data"):
        loader = run.build_train_loader()
    with _refused("optimizer"):
        optimizer = run.build_optimizer(model)
        scheduler = run.build_lr_scheduler(optimizer)
    rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    ddp = settings.ddp if torch.cuda.is_available() else {**settings.ddp, "device_ids": None}
    wrapped = create_ddp_model(model, **ddp)
    trainer_class = AMPTrainer if settings.amp else SimpleTrainer
    trainer = trainer_class(wrapped, loader, optimizer)
    checkpointer = DetectionCheckpointer(wrapped, settings.output_dir, trainer=trainer)
    main = comm.is_main_process()
    every = [hooks.IterationTimer(), hooks.LRScheduler(scheduler=scheduler)]
    saving = [hooks.PeriodicCheckpointer(checkpointer, **settings.checkpointer)] if main else []
    evaluation = [hooks.EvalHook(settings.eval_period, lambda: evaluate(run, wrapped))]
    trainer.register_hooks([*every, *saving, *evaluation])
    checkpointer.resume_or_load(settings.weights, resume=resume)
    if main:
        if not resume:
            _set_aside(Path(settings.output_dir) / "metrics.json")
        writers = default_writers(settings.output_dir, settings.max_iter)
        trainer.register_hooks([hooks.PeriodicWriter(writers, period=settings.log_period)])
        print(f"optimizer: {len(rates)} parameter groups, lr {min(rates):.3g} to {max(rates):.3g}")
    trainer.train(trainer.iter + 1 if resume else 0, settings.max_iter)
    return model


def _set_aside(metrics: Path) -> None:
    """Rename the metrics of an earlier run in the same folder, to which Detectron2 would append."""
    if metrics.exists():
        metrics.rename(metrics.with_name(f"metrics_until_{time.strftime('%Y%m%d_%H%M%S')}.json"))


def evaluate(run: Run, model: torch.nn.Module) -> dict:
    """Detectron2's results on the test data: {"bbox": {"AP": percent, ..}, ..}; {} off the main process."""
    results = {}
    for dataset in run.settings.test_data:
        loader, evaluator = run.build_test_loader(dataset), run.build_evaluator(dataset)
        found = inference_on_dataset(model, loader, evaluator)
        if found and comm.is_main_process():
            print_csv_format(found)
        results[dataset] = found or {}
    return results if len(results) > 1 else next(iter(results.values()), {})


def metrics_of(results: dict) -> dict:
    """The results by the names that report.py knows."""
    return detectron2_metrics(flatten_results_dict(results))


def load_trained(model: torch.nn.Module, checkpoint: str) -> None:
    """Load a run's checkpoint whole into its model.

    Raises:
        UserError: unreadable, or a parameter is missing, left over or of another shape.
    """
    content = read_checkpoint(checkpoint)
    state, wanted = content.get("model", content), model.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is left over" for name in state if name not in wanted]
    problems += [
        f"{name} is {tuple(state[name].shape)}, the model's {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    if problems:
        own = Path(checkpoint).parent / "config.yaml"
        advice = f"; its run's own config is {own}" if own.exists() else ""
        raise UserError(
            f"{checkpoint} does not fit this config in {len(problems)} parameters "
            f"({problems[0]}){advice}"
        )
    model.load_state_dict(state)


# ---- pictures ------------------------------------------------------------------------------------
def load_model(run: Run, checkpoint: str, device: str | None = None) -> torch.nn.Module:
    """A trained model ready for `infer`, with `test_mapper` and `dataset_meta`."""
    run.set(device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = build(run)
    load_trained(model, checkpoint)
    model.test_mapper = run.build_test_mapper()
    model.dataset_meta = MetadataCatalog.get((run.settings.test_data or ["__unnamed"])[0])
    return model.eval()


def infer(model: torch.nn.Module, image: np.ndarray) -> dict:
    """The model's output for one (H, W, 3) uint8 BGR picture, at the picture's size."""
    mapper = model.test_mapper
    pixels = T.AugInput(image[..., ::-1] if mapper.image_format == "RGB" else image)
    mapper.augmentations(pixels)
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.image.transpose(2, 0, 1)))
    with torch.no_grad():
        return model([{"image": tensor, "height": image.shape[0], "width": image.shape[1]}])[0]


def draw_prediction(image: np.ndarray, output: dict, meta, score_threshold: float) -> np.ndarray:
    """A model's output over its picture ((H, W, 3) uint8 RGB)."""
    if "instances" not in output:
        chances = output["sem_seg"].softmax(dim=0).cpu()
        confidence, labels = chances.max(dim=0)
        return draw_label_map(
            image, labels.numpy(), *_classes_and_palette(meta, "stuff"), confidence.numpy()
        )
    found = output["instances"].to("cpu")
    found = found[found.scores >= score_threshold]
    masks = found.pred_masks.numpy() if found.has("pred_masks") else None
    return draw_instances(
        image, found.pred_boxes.tensor.numpy(), found.pred_classes.numpy(),
        *_classes_and_palette(meta, "thing"), found.scores.numpy(), masks,
    )  # fmt: skip


def draw_truth(image: np.ndarray, record: dict, meta) -> np.ndarray:
    """A data set's record over its picture ((H, W, 3) uint8 RGB)."""
    if "annotations" not in record:
        labels = np.asarray(Image.open(record["sem_seg_file_name"]))
        if meta.get("label_of_no_class") == 0:
            labels = labels - np.uint8(1)
        return draw_label_map(image, labels, *_classes_and_palette(meta, "stuff"))
    truth = [entry for entry in record["annotations"] if not entry.get("iscrowd")]
    boxes = [BoxMode.convert(t["bbox"], t["bbox_mode"], BoxMode.XYXY_ABS) for t in truth]
    masks = [polygons_to_bitmask(t["segmentation"], *image.shape[:2]) for t in truth]
    return draw_instances(
        image, np.array(boxes).reshape(-1, 4), np.array([t["category_id"] for t in truth], int),
        *_classes_and_palette(meta, "thing"), masks=np.array(masks) if masks else None,
    )  # fmt: skip


def _classes_and_palette(meta, kind: str):
    classes = meta.get(f"{kind}_classes")
    if not classes:
        raise UserError(f"the data set {meta.name!r} names no {kind}_classes in its metadata")
    return classes, meta.get(f"{kind}_colors") or palette_of(len(classes))


def prediction_rows(run: Run, model: torch.nn.Module, count: int, score_threshold=0.3) -> list:
    """Picture, ground truth and prediction of the first `count` test pictures."""
    if not run.settings.test_data:
        return []
    dataset = run.settings.test_data[0]
    meta, records = MetadataCatalog.get(dataset), DatasetCatalog.get(dataset)[:count]
    model.test_mapper = run.build_test_mapper()
    model.eval()
    rows = []
    for record in records:
        image = np.asarray(Image.open(record["file_name"]).convert("RGB"))
        output = infer(model, image[..., ::-1])
        rows.append(
            [
                enlarged(image)[0],
                draw_truth(image, record, meta),
                draw_prediction(image, output, meta, score_threshold),
            ]
        )
    return rows
