"""From a config to a finished, reported run of MMDetection or MMSegmentation.

The functions behind tools/train.py, tools/test.py and tools/predict.py.
"""

import contextlib
import copy
import difflib
import io
import logging
import warnings
from pathlib import Path

import mmdet.models  # noqa: F401  (registers what configs name)
import mmseg.models  # noqa: F401
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.dist import is_main_process
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from PIL import Image

from ...errors import UserError
from ...runs.visualize import draw_instances, draw_label_map, enlarged, palette_of
from . import backbone as openmmlab  # noqa: F401  (registers the backbones and safe reading)
from .checkpoints import read_training_checkpoint
from .sample import ensure_sample_data, shrink_backbone, shrink_detection, shrink_segmentation

LAYOUTS = {
    "mmseg": """\
    {root}/
      images/training/*.jpg        images/validation/*.jpg
      annotations/training/*.png   annotations/validation/*.png
  from ADEChallengeData2016.zip of the MIT scene parsing benchmark""",
    "mmdet": """\
    {root}/
      train2017/*.jpg   val2017/*.jpg
      annotations/instances_train2017.json   annotations/instances_val2017.json
  from cocodataset.org: train2017.zip, val2017.zip, annotations_trainval2017.zip""",
}

# Console lines that hide the ones one looks for; the log file keeps them.
TALKATIVE = (
    "set param ", "Param groups =", "Config:", "Hooks will be executed", "\n---", "paramwise_",
    "self.paramwise_cfg", "Build LearningRateDecay", "Name of parameter", "Distributed training",
    '"FileClient"', '"HardDiskBackend"',
)  # fmt: skip


class QuietRunner(Runner):
    """MMEngine's runner, with a console that leaves out what is in the log file anyway, and with
    several processes on CPUs."""

    def wrap_model(self, model_wrapper_cfg, model):
        if self.distributed and not torch.cuda.is_available():
            return MMDistributedDataParallel(model, broadcast_buffers=False)
        return super().wrap_model(model_wrapper_cfg, model)

    def build_logger(self, *args, **kwargs):
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(lambda record: not record.getMessage().startswith(TALKATIVE))
        return logger

    def build_optim_wrapper(self, optim_wrapper):
        with contextlib.redirect_stdout(io.StringIO()):  # MMSegmentation prints every parameter
            built = super().build_optim_wrapper(optim_wrapper)
        rates = [group["lr"] for group in built.param_groups if group["params"]]
        self.logger.info(
            f"optimizer: {len(rates)} parameter groups, lr {min(rates):.3g} to {max(rates):.3g}"
        )
        return built


def quiet_warnings() -> None:
    """Silence the frameworks' own deprecation warnings; not ours."""
    for package in ("mmengine", "mmcv", "mmdet", "mmseg", "torch", "torchvision", "pycocotools"):
        warnings.filterwarnings("ignore", module=rf"{package}(\.|$)")
    warnings.filterwarnings("ignore", message=".*(build_loss|avg_non_ignore|align_corners).*")


def load_config(
    path: str, *, sample: bool = False, shrink: bool = False, options: dict | None = None
) -> Config:
    """The config at `path`, on the sample data or with a small backbone if asked, then with the
    user's own options.

    Raises:
        UserError: it is missing, cannot be read, or is neither MMDetection's nor MMSegmentation's.
    """
    file = Path(path)
    if not file.is_file():
        known = [str(p) for p in Path("configs").glob("*.py")]
        near = difflib.get_close_matches(str(path), known, n=5, cutoff=0.0)
        raise UserError(f"there is no config {path}; near it: {', '.join(near) or 'none'}")
    try:
        cfg = Config.fromfile(file)
    except (SyntaxError, FileNotFoundError, KeyError, ValueError) as error:
        raise UserError(f"config {path} cannot be read: {error}") from error
    if cfg.get("default_scope") not in LAYOUTS:
        raise UserError(
            f"config {path} has default_scope={cfg.get('default_scope')!r}; "
            "this tool runs 'mmdet' and 'mmseg' configs"
        )
    if sample:
        use_sample(cfg)
    if shrink:
        _print_changes("--shrink", shrink_backbone(cfg))
    cfg.merge_from_dict(options or {})
    return cfg


def use_sample(cfg: Config) -> None:
    """Put a config on the sample data, in place, and print what changed."""
    shrink = shrink_segmentation if cfg.default_scope == "mmseg" else shrink_detection
    _print_changes("--sample", shrink(cfg, ensure_sample_data()))


def _print_changes(option: str, lines: list[str]) -> None:
    print(f"{option} changes this config:")
    for line in lines:
        print(f"  {line}")


def check_data(cfg: Config, loaders=("train", "val")) -> None:
    """UserError that shows the expected layout when a data set's files are missing."""
    for loader in loaders:
        dataset = (cfg.get(f"{loader}_dataloader") or {}).get("dataset", {})
        while "dataset" in dataset:  # wrappers such as RepeatDataset
            dataset = dataset.dataset
        if "://" in str(dataset.get("data_root")):  # a store that MMEngine reads by itself
            continue
        root = Path(dataset.get("data_root") or ".")
        parts = [*dataset.get("data_prefix", {}).values(), dataset.get("ann_file")]
        missing = [root / part for part in parts if part and not (root / part).exists()]
        if missing:
            layout = LAYOUTS[cfg.default_scope].format(root=str(root))
            raise UserError(
                f"the {loader} data is not there: {missing[0]} is missing. Expected layout:\n"
                f"{layout}\n"
                "  Link or copy it there, or set data_root in the config, or try the run on "
                "generated data first: add --sample"
            )


def fit_to_device(cfg: Config, launcher: str = "none") -> None:
    """Replace what this machine cannot run, in place, and say so in a line."""
    cuda = torch.cuda.is_available()
    changes = []
    if launcher == "none" or not cuda:
        count = _replace_sync_bn(cfg.model)
        if count:
            changes.append(f"SyncBN -> BN ({count} places; SyncBN needs several GPU processes)")
    if not cuda and cfg.optim_wrapper.type == "AmpOptimWrapper":
        cfg.optim_wrapper.type = "OptimWrapper"
        for key in ("loss_scale", "dtype", "use_fsdp"):
            cfg.optim_wrapper.pop(key, None)
        changes.append("mixed precision -> float32 (no GPU)")
    if launcher != "none" and not cuda:
        if launcher != "pytorch":
            raise UserError(
                f"--launcher {launcher} needs GPUs; on CPUs start torchrun with pytorch"
            )
        # MMEngine's own start-up sets a CUDA device; a group that is already there it takes as it is
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        changes.append("nccl -> gloo")
    if changes and is_main_process():
        device = "GPU" if cuda else "CPU"
        print(f"on this {device}, {'one process' if launcher == 'none' else launcher}: "
              + "; ".join(changes))  # fmt: skip


def _replace_sync_bn(node) -> int:
    """Rename every SyncBN below a config node to BN; returns how many there were."""
    if isinstance(node, dict):
        count = sum(_replace_sync_bn(child) for child in node.values())
        if node.get("type") == "SyncBN":
            node["type"] = "BN"
            count += 1
        return count
    return sum(_replace_sync_bn(child) for child in node) if isinstance(node, (list, tuple)) else 0


def build_model(cfg: Config, device: str = "meta") -> torch.nn.Module:
    """The config's model with fresh weights, for evaluation; on the meta device it holds no memory."""
    init_default_scope(cfg.default_scope)
    settings = copy.deepcopy(cfg.model)
    settings.backbone.init_cfg = None
    _replace_sync_bn(settings)
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")  # the frameworks', on their own deprecations
        return MODELS.build(settings).eval()


def load_trained(model: torch.nn.Module, checkpoint: str) -> dict:
    """Load a run's checkpoint whole into its model; returns the checkpoint's meta.

    Raises:
        UserError: unreadable, or a parameter is missing, left over or of another shape.
    """
    content = read_training_checkpoint(checkpoint)
    state = content.get("state_dict", content)
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in state]
    left = [name for name in state if name not in wanted]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, the model's {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    if missing or left or shapes:
        example = (
            shapes or [f"{n} is missing" for n in missing] or [f"{n} is left over" for n in left]
        )[0]
        own = sorted(Path(checkpoint).parent.glob("*.py"))
        advice = f"; its run's own config is {own[0]}" if own else ""
        raise UserError(
            f"{checkpoint} does not fit this config: {len(missing)} parameters missing, {len(left)} "
            f"left over, {len(shapes)} of another shape ({example}){advice}"
        )
    model.load_state_dict(state)
    return content.get("meta", {})


def load_model(cfg: Config, checkpoint: str, device: str | None = None) -> torch.nn.Module:
    """A trained model ready for inference, with `cfg` and `dataset_meta` as the hosts expect."""
    init_default_scope(cfg.default_scope)
    _replace_sync_bn(cfg.model)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    meta = load_trained(model, checkpoint)
    dataset_meta = meta.get("dataset_meta", {})
    model.dataset_meta = {str(key).lower(): value for key, value in dataset_meta.items()}
    if "classes" not in model.dataset_meta:
        raise UserError(
            f"{checkpoint} names no classes (meta.dataset_meta); was it saved by a run?"
        )
    if cfg.default_scope == "mmdet":
        cfg.test_dataloader.dataset.pipeline = [
            t for t in cfg.test_dataloader.dataset.pipeline if t["type"] != "LoadAnnotations"
        ]
    model.cfg = cfg
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


def infer(model: torch.nn.Module, image: np.ndarray):
    """The data sample that the host's own inference function gives for one (H, W, 3) BGR picture."""
    if model.cfg.default_scope == "mmseg":
        from mmseg.apis import inference_model

        return inference_model(model, image)
    from mmdet.apis import inference_detector

    return inference_detector(model, image)


def _classes_and_palette(meta: dict):
    classes = meta["classes"]
    return classes, meta.get("palette") or palette_of(len(classes))


def draw_prediction(image: np.ndarray, sample, meta: dict, score_threshold: float) -> np.ndarray:
    """A data sample's prediction over its picture ((H, W, 3) uint8 RGB)."""
    classes, palette = _classes_and_palette(meta)
    if "pred_sem_seg" in sample:
        labels = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
        confidence = None
        if "seg_logits" in sample and sample.seg_logits.data.shape[0] > 1:
            confidence = sample.seg_logits.data.softmax(dim=0).amax(dim=0).cpu().numpy()
        return draw_label_map(image, labels, classes, palette, confidence)
    found = sample.pred_instances[sample.pred_instances.scores >= score_threshold].cpu()
    masks = found.masks.numpy() if "masks" in found else None
    return draw_instances(
        image, found.bboxes.numpy(), found.labels.numpy(), classes, palette,
        found.scores.numpy(), masks,
    )  # fmt: skip


def draw_truth(image: np.ndarray, sample, meta: dict) -> np.ndarray:
    """A data sample's annotation over its picture ((H, W, 3) uint8 RGB)."""
    classes, palette = _classes_and_palette(meta)
    if "gt_sem_seg" in sample:
        return draw_label_map(
            image, sample.gt_sem_seg.data.squeeze(0).cpu().numpy(), classes, palette
        )
    truth = sample.gt_instances
    boxes = getattr(truth.bboxes, "tensor", truth.bboxes).cpu().numpy()
    masks = truth.masks.to_ndarray() if len(truth) and "masks" in truth else None
    return draw_instances(image, boxes, truth.labels.cpu().numpy(), classes, palette, masks=masks)


def prediction_rows(runner: Runner, count: int, score_threshold: float = 0.3) -> list:
    """Picture, ground truth and prediction of the first `count` validation pictures."""
    dataset = runner.val_dataloader.dataset
    model = runner.model.eval()
    rows = []
    for index in range(min(count, len(dataset))):
        data = pseudo_collate([dataset[index]])
        with torch.no_grad():
            sample = model.test_step(data)[0]
        image = np.asarray(Image.open(sample.img_path).convert("RGB"))
        meta = dataset.metainfo
        rows.append(
            [
                enlarged(image)[0],
                draw_truth(image, sample, meta),
                draw_prediction(image, sample, meta, score_threshold),
            ]
        )
    return rows
