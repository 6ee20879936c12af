"""MMDetection and MMSegmentation as train, test and predict want a framework: runs.host.Host."""

import contextlib
import copy
import io
import os
import re
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import mmdet.models  # noqa: F401  (registers what configs name)
import mmseg.models  # noqa: F401
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.dataset import pseudo_collate
from mmengine.dist import is_main_process as is_main_process
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from ...console import Lines, hide, say
from ...data.pictures import read_picture
from ...errors import UserError
from ...runs import preparation, trackers, trained
from ...runs.guards import Limits
from ...runs.host import Entry, Example, Optimized
from ...runs.interruption import Interruption
from ...runs.report import is_of_class, metrics_of, records_of
from ...runs.results import prediction_rows
from ...runs.sample import ensure_sample_data
from ...runs.visualize import spread
from . import config_files, config_mistakes, data_places, fine_tuning
from .by_class import ClassesHook, keep_classes, scores_of
from .checkpoints import read_training_checkpoint
from .data_places import check_masks, try_pipeline
from .guards import Remarks, StopOnSignal, limits_in, set_limits
from .prediction import holds_objects, multi_scale_pipeline, names_of, test_pipeline
from .prediction import infer as infer
from .prediction import result_of as result_of
from .prediction import truth_of as truth_of
from .progress import Progress
from .records import records as records  # part of the contract
from .sample import shrink_backbone, shrink_detection, shrink_segmentation
from .samples import samples as samples
from .saving import last_whole
from .trackers import Tracking, begin, leave_trackers, take_trackers, tracked
from .views import view as view

WORK_DIRS = "work_dirs"
DATA = {"mmdet": "coco", "mmseg": "ade20k"}  # default scope to the kind of its data

TRAINING = ("train_dataloader", "train_cfg", "optim_wrapper")  # what MMEngine trains with

# What a console shows of the frameworks' lines; the log file keeps all.
LINES = Lines(
    shown=(
        r"(Iter|Epoch)\(train\)", "Load checkpoint from",
        "resumed epoch", "Saving checkpoint at", "The best checkpoint with", "LR is set based on",
        "the monitored metric", "Number of GPU used", 'Model has been "compiled"', "Enabling the ",
        "No mosaic and mixup", "Add additional L1 loss", "Switch pipeline",
    ),
    noise=(
        "The prefix is not set in metric class", "Dataset .* has no metainfo", "init_weights of .* more than",
        '"(FileClient|HardDiskBackend|file_client_args)"', "Reach the end of the dataloader",
        "The value of momentum in EMA", "Failed to search registry with scope",
    ),
)  # fmt: skip

# A line of its log file: "2026/11/26 05:53:23 - mmengine - WARNING - ..".
WARNED = re.compile(r"[\d/]+ [\d:]+ - \S+ - (?:WARNING|ERROR|CRITICAL) - (.+)")
NOISE = re.compile("|".join(LINES.noise))


class QuietRunner(Runner):
    """MMEngine's runner, with a console that leaves out what is in the log file anyway, and with
    several processes on CPUs."""

    begun = 0  # in which second the last one of this process began

    def setup_env(self, env_cfg) -> None:
        """In a second of its own: by it MMEngine names a run's logger, and two of a name would be one."""
        while int(time.time()) == QuietRunner.begun:
            time.sleep(0.02)
        QuietRunner.begun = int(time.time())
        super().setup_env(env_cfg)

    def build_visualizer(self, visualizer=None):
        """The run's own: by the name that configs give theirs, a second run of a process gets the first's."""
        if isinstance(visualizer, dict):
            visualizer = {**visualizer, "name": self.experiment_name}
        return super().build_visualizer(visualizer)

    def build_model(self, model):
        with preparation.refused("model"):
            return super().build_model(model)

    def build_train_loop(self, loop):
        with preparation.refused("training data"):
            built = super().build_train_loop(loop)
            check_masks(built.dataloader.dataset, "training")
            try_pipeline(built.dataloader.dataset, "training")
            return built

    def build_val_loop(self, loop):
        with preparation.refused("validation"):
            built = super().build_val_loop(loop)
            check_masks(built.dataloader.dataset, "validation")
            try_pipeline(built.dataloader.dataset, "validation")
            return built

    def build_test_loop(self, loop):
        with preparation.refused("test"):
            return super().build_test_loop(loop)

    def build_evaluator(self, evaluator):
        with preparation.refused("evaluator"):
            return keep_classes(super().build_evaluator(evaluator))

    def build_param_scheduler(self, scheduler):
        with preparation.refused("param_scheduler"):
            return super().build_param_scheduler(scheduler)

    def wrap_model(self, model_wrapper_cfg, model):
        if self.distributed and not torch.cuda.is_available():
            return MMDistributedDataParallel(model, broadcast_buffers=False)
        return super().wrap_model(model_wrapper_cfg, model)

    def build_logger(self, *args, **kwargs):
        logger = super().build_logger(*args, **kwargs)
        preparation.keep_log([logger], LINES)
        return logger

    def build_optim_wrapper(self, optim_wrapper):
        printing = contextlib.redirect_stdout(
            io.StringIO()
        )  # MMSegmentation prints every parameter
        with preparation.refused("optim_wrapper"), printing:
            built = super().build_optim_wrapper(optim_wrapper)
        rates = [group["lr"] for group in built.param_groups if group["params"]]
        self.logger.info(
            f"optimizer: {len(rates)} parameter groups, lr {min(rates):.3g} to {max(rates):.3g}"
        )
        return built


# ---- before a run --------------------------------------------------------------------------------
def quiet_warnings() -> None:
    """Leave what the frameworks print and warn of to the log file; not ours."""
    hide(
        ("mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain", "torch", "torchvision", "pycocotools"),
        messages=(".*(build_loss|avg_non_ignore|align_corners)",),
    )


def overrides(args: Namespace) -> dict:
    """--cfg-options, with values as MMEngine reads them."""
    for pair in args.cfg_options:
        if "=" not in pair:
            raise UserError(
                f"{pair!r} is no override; write key=value, e.g. train_dataloader.batch_size=4"
            )
    found = Namespace()
    try:
        DictAction([], "options")(None, found, args.cfg_options)
    except AssertionError as error:  # brackets that do not close
        raise UserError(f"--cfg-options {' '.join(args.cfg_options)}: {error}") from error
    except RecursionError as error:  # commas in brackets of a call, as in dict(a=1, b=2)
        raise UserError(
            f"--cfg-options {' '.join(args.cfg_options)}: these are no values. Numbers, texts, and lists and "
            "tuples of them are; a dict is written into a config file"
        ) from error
    return found.options


def load_config(
    path: str, *, sample: bool = False, shrink: bool = False, options: dict | None = None
) -> Config:
    """The config at `path`, on the sample data or with a small backbone if asked, then with the
    user's own options.

    Raises:
        UserError: it is missing, cannot be read, or is neither MMDetection's nor MMSegmentation's.
    """
    file = preparation.existing_config(path)
    options = options or {}
    try:
        cfg = Config.fromfile(file, import_custom_modules=False)
        lines = config_mistakes.adopt_backbones(cfg)
        if cfg.get("custom_imports"):
            import_modules_from_strings(**cfg.custom_imports)
        source = config_files.source_of(file)
    except UserError:  # of a file that could run code
        raise
    except FileNotFoundError as error:
        raise UserError(
            f"config {path} cannot be read: it names {error.filename or error}, and there is no such file; "
            "correct its _base_"
        ) from error
    except Exception as error:  # a config is a program
        raise UserError(f"config {path} cannot be read: {type(error).__name__}: {error}") from error
    if cfg.get("default_scope") not in DATA:
        raise UserError(
            f"config {path} has default_scope={cfg.get('default_scope')!r}; "
            "this tool runs 'mmdet' and 'mmseg' configs"
        )
    for line in lines:
        say(f"{path}: {line}")
    init_default_scope(cfg.default_scope)
    config_mistakes.refuse(path, config_files.unread_keys(cfg, source))
    roots = config_files.roots_of(source)
    if "data_root" in options or not roots:  # then also what the file itself says can be changed
        roots |= {cfg.get("data_root") or ""} - {""}
    if sample:
        use_sample(cfg)
    if shrink:
        preparation.print_changes("--shrink", shrink_backbone(cfg))
    config_mistakes.refuse(f"{path}, --cfg-options", config_files.unknown_options(cfg, options))
    try:
        cfg.merge_from_dict(options)
    except preparation.CONFIG_ERRORS as error:
        raise UserError(f"--cfg-options do not fit {path}: {error}") from error
    config_mistakes.refuse(path, config_mistakes.misshapen(cfg, options))
    config_files.expand_homes(cfg._cfg_dict)
    used = "data_root" in source.uses and "data_root" not in options
    config_files.apply_data_root(cfg, roots, used)
    config_mistakes.refuse(path, config_files.misplaced_entries(cfg, source))
    return cfg


def use_sample(cfg: Config) -> None:
    """Put a config on the sample data, in place, and print what changed."""
    shrink = shrink_segmentation if cfg.default_scope == "mmseg" else shrink_detection
    preparation.print_changes("--sample", shrink(cfg, ensure_sample_data()))


def take_options(cfg: Config, args: Namespace) -> None:
    """--launcher, --local-rank, --auto-scale-lr of train and --tta of test, into the config."""
    if others := [key for key in ("runner_type", "strategy") if cfg.get(key, "Runner") != "Runner"]:
        raise UserError(
            f"{args.config}: {', '.join(others)}: this tool trains with MMEngine's Runner. Leave them out, or "
            "start the config with MMDetection's or MMSegmentation's own tools/train.py (docs/scaling.md)"
        )
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg.launcher = args.launcher
    if hasattr(args, "weights"):  # of train
        fine_tuning.take_options(cfg, args)
        take_trackers(cfg, args.tracker)
    else:
        leave_trackers(cfg)
    set_limits(cfg, Limits.named_in(args))
    if getattr(args, "auto_scale_lr", False):
        if not cfg.get("auto_scale_lr", {}).get("base_batch_size"):
            raise UserError(
                f"{args.config} does not say for which batch its lr is; set "
                "auto_scale_lr=dict(base_batch_size=...) in it, or leave out --auto-scale-lr"
            )
        cfg.auto_scale_lr.enable = True
    if getattr(args, "tta", False):
        if "tta_pipeline" not in cfg:
            raise UserError(f"{args.config} has no tta_pipeline; leave out --tta")
        cfg.test_dataloader.dataset.pipeline = multi_scale_pipeline(cfg)
        cfg.model = dict(**cfg.tta_model, module=cfg.model)


def work_dir(cfg: Config) -> Path | None:
    """The folder of the run; None if the config names none."""
    return Path(cfg.work_dir) if cfg.get("work_dir") else None


def set_work_dir(cfg: Config, folder: Path) -> None:
    """Let the run write there."""
    cfg.work_dir = str(folder)


def check_data(cfg: Config, splits: Sequence[str] = ("train", "val")) -> None:
    """UserError for what in the config contradicts itself or the data, and with the layout that the config
    says when a data set's files are missing."""
    needed = ["model", *(TRAINING if "train" in splits else ["test_dataloader", "test_evaluator"])]
    if lacking := [key for key in needed if not cfg.get(key)]:
        raise UserError(
            f"config {cfg.filename} has no {', no '.join(lacking)}; it needs {', '.join(needed)}"
        )
    config_mistakes.refuse(cfg.filename, config_mistakes.contradictions(cfg, splits))
    for split in splits:
        data_places.check(cfg, split)


def fit_to_device(cfg: Config) -> None:
    """Replace what this machine cannot run, in place, and say so in a line."""
    launcher, cuda = cfg.get("launcher", "none"), torch.cuda.is_available()
    changes = []
    for loader in (cfg.get(f"{split}_dataloader") or {} for split in ("train", "val", "test")):
        if loader.get("persistent_workers") and not loader.get("num_workers"):
            loader["persistent_workers"] = False  # which torch refuses of no worker
    if launcher == "none" or not cuda:
        count = preparation.replace_sync_bn(cfg.model)
        if count:
            changes.append(f"SyncBN -> BN ({count} places; SyncBN needs several GPU processes)")
    if not cuda and cfg.get("optim_wrapper", {}).get("type") == "AmpOptimWrapper":
        cfg.optim_wrapper.type = "OptimWrapper"
        for key in ("loss_scale", "dtype", "use_fsdp"):
            cfg.optim_wrapper.pop(key, None)
        changes.append("mixed precision -> float32 (no GPU)")
    waits = limits_in(cfg).group_timeout
    if launcher != "none" and cuda:
        group = cfg.setdefault("env_cfg", {}).setdefault("dist_cfg", {})
        group.setdefault("timeout", waits.total_seconds())
    if launcher != "none" and not cuda:
        if launcher != "pytorch":
            raise UserError(
                f"--launcher {launcher} needs GPUs; on CPUs start torchrun with pytorch"
            )
        # MMEngine's own start-up sets a CUDA device; a group that is already there it takes as it is
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", timeout=waits)
        changes.append("nccl -> gloo")
    if changes and is_main_process():
        device = "GPU" if cuda else "CPU"
        say(f"on this {device}, {'one process' if launcher == 'none' else launcher}: "
            + "; ".join(changes))  # fmt: skip


# ---- the run -------------------------------------------------------------------------------------
def launch(work, args: Namespace, cfg: Config) -> None:
    """torchrun or another launcher has started the processes; this is one of them."""
    work(args, cfg)


def set_up(cfg: Config, args: Namespace) -> None:
    """MMEngine's runner sets up its log, seed and ranks itself."""


def train(cfg: Config, *, resume: bool) -> Runner:
    """Train, validate and save as the config says."""
    if resume:
        cfg.resume = True
    begin(cfg, resume=resume)
    with preparation.refused("run"), trackers.refused(tracked(cfg)):
        runner = QuietRunner.from_cfg(cfg)
    preparation.tell_run(runner.model, runner.logger.log_file)
    with Interruption() as interruption:
        for hook in (Remarks(), ClassesHook(), StopOnSignal(interruption), Progress()):
            runner.register_hook(hook)
        if names := tracked(cfg):
            runner.register_hook(Tracking(names, _rows))
        runner.train()
    return runner


def evaluate(cfg: Config, checkpoint: str) -> dict[str, float]:
    """The metrics of a checkpoint, loaded whole, on the test data."""
    cfg.update(load_from=None, resume=False)
    cfg.model.get("module", cfg.model).backbone.init_cfg = None  # below test-time augmentation
    with preparation.refused("run"):
        runner = QuietRunner.from_cfg(cfg)
    preparation.tell_run(runner.model, runner.logger.log_file)
    runner.register_hook(Progress())
    model = _innermost(runner.model)
    trained.tell_weights(load_trained(model, checkpoint))
    return {**runner.test(), **scores_of(runner.test_evaluator)}


def initial_weights(cfg: Config) -> str:
    """load_from: the weights of a whole model."""
    return cfg.get("load_from") or ""


def last_checkpoint(cfg: Config) -> Path | None:
    """The newest whole one in the work directory."""
    return last_whole(cfg.work_dir)


def best_checkpoint(cfg: Config) -> Path | None:
    """The one that CheckpointHook's save_best has kept of this process's run."""
    noted = MessageHub.get_current_instance().runtime_info.get("best_ckpt")
    here = Path(cfg.work_dir) / Path(noted).name if noted else None
    return here if here and here.is_file() else None


def own_config(cfg: Config) -> Path:
    """MMEngine writes a run's config by its file's name."""
    return Path(cfg.work_dir) / Path(cfg.filename).name


def read_log(work_dir: Path) -> Iterator[Entry]:
    """MMEngine's scalars.json, a file a session."""
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        last_iteration, of_classes = 0, {}
        for record in records_of(file):
            if any("loss" in name for name in record):
                last_iteration = record.get("iter", record["step"])
                yield Entry(validation=False, iteration=last_iteration, record=record)
                continue
            metrics = metrics_of(record)
            if metrics and all(map(is_of_class, metrics)):
                of_classes = metrics
            elif metrics:
                # epoch-based validation counts epochs: place it behind the iterations before it
                at = max(record["step"], last_iteration)
                yield Entry(validation=True, iteration=at, record={**record, **of_classes})
                of_classes = {}


def read_warnings(work_dir: Path) -> Iterator[str]:
    """Of MMEngine's .log files, a file a session."""
    for file in sorted(work_dir.glob("*/*.log")):
        for line in file.read_text(errors="replace").splitlines():
            if (found := WARNED.match(line)) and not NOISE.match(found[1]):
                yield found[1]


def optimized(cfg: Config, runner: Runner) -> Optimized:
    """The log holds the learning rate of the first group."""
    return Optimized(_innermost(runner.model), runner.optim_wrapper.param_groups)


def examples(cfg: Config, runner: Runner, count: int) -> Iterator[Example]:
    """`count` validation pictures spread over the data, with their data samples, seen by the best or last
    weights that were saved: EMA's, where EMA made them."""
    if not cfg.get("val_dataloader"):
        return
    dataset, model = runner.val_dataloader.dataset, _innermost(runner.model.eval())
    if checkpoint := best_checkpoint(cfg) or last_checkpoint(cfg):
        load_trained(model, str(checkpoint))
    yield from _seen(dataset, model, _chosen(dataset, count))


def _innermost(model: torch.nn.Module) -> torch.nn.Module:
    """Below DDP and test-time augmentation."""
    while hasattr(model, "module"):
        model = model.module
    return model


def _chosen(dataset, count: int) -> list[int]:
    return spread(len(dataset), count, lambda k: holds_objects(dataset[k]))


def _seen(dataset, model: torch.nn.Module, indices: Sequence[int]) -> Iterator[Example]:
    for index in indices:
        data = pseudo_collate([dataset[index]])
        with torch.no_grad():
            sample = model.test_step(data)[0]
        height, width = sample.ori_shape[:2]
        image = read_picture(sample.img_path, size=(width, height))
        meta, file = dataset.metainfo, str(sample.img_path)
        yield Example(image, truth=sample, prediction=sample, meta=meta, file=file)


def _rows(runner: Runner, chosen: list[int]) -> Iterator[list[np.ndarray]]:
    """Picture, truth and prediction of validation pictures by the weights of now, for trackers; `chosen` keeps
    which ones."""
    dataset, model = runner.val_dataloader.dataset, _innermost(runner.model)
    chosen[:] = chosen or _chosen(dataset, trackers.SHOWN)
    host = sys.modules[__name__]
    return prediction_rows(host, _seen(dataset, model, chosen), trackers.SCORE)


# ---- models and pictures -------------------------------------------------------------------------
def build_model(cfg: Config, device: str = "meta") -> torch.nn.Module:
    """The config's model with fresh weights, for evaluation; on the meta device it holds no memory."""
    init_default_scope(cfg.default_scope)
    settings = copy.deepcopy(cfg.model)
    settings.backbone.init_cfg = None
    preparation.replace_sync_bn(settings)
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")  # the frameworks', on their own deprecations
        return MODELS.build(settings).eval()


def load_trained(model: torch.nn.Module, checkpoint: str) -> dict:
    """Load a run's checkpoint whole into its model; returns the checkpoint's entries.

    Raises:
        UserError: unreadable, another framework's, or a parameter is missing, left over or of another shape.
    """
    content = read_training_checkpoint(checkpoint)
    own = next(iter(sorted(Path(checkpoint).parent.glob("*.py"))), None)
    state = trained.state_of(content, checkpoint, "MMDetection or MMSegmentation")
    preparation.load_whole(model, state, checkpoint, own)
    return content


def load_model(cfg: Config, checkpoint: str, device: str | None = None) -> torch.nn.Module:
    """A trained model ready for `infer`, with `cfg` and `dataset_meta` as the hosts expect."""
    with preparation.refused("model"):
        model = build_model(cfg, "cpu")
    content = load_trained(model, checkpoint)
    trained.tell_weights(content)
    meta = content.get("meta") if isinstance(content.get("meta"), dict) else {}
    meta = meta.get("dataset_meta") or {}
    meta = {str(key).lower(): value for key, value in meta.items()}
    model.cfg, model.test_pipeline = cfg, test_pipeline(cfg)
    model.dataset_meta = names_of(cfg, meta, checkpoint)
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
