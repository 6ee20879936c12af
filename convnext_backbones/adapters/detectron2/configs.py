"""Detectron2's two kinds of config, YAML and LazyConfig, behind one interface.

A LazyConfig is a program: loading one executes it. YAML is read without executing.
"""

import inspect
import os
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
import yaml
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.data import DatasetMapper
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from ...console import say
from ...errors import UserError
from ...runs.guards import Limits
from ...runs.preparation import CONFIG_ERRORS, existing_config, print_changes
from ...runs.sample import ensure_sample_data
from . import data, mistakes, optimizer, own_data
from .safe_reading import PartsLoader, check_targets
from .sample import shrink_backbone, use_sample
from .yaml_keys import add_convnext_config


class Settings(NamedTuple):
    """What the loop needs of a config, whichever kind it is."""

    output_dir: str
    weights: str
    device: str
    max_iter: int
    batch: int
    eval_period: int
    log_period: int
    checkpointer: dict
    amp: bool
    ddp: dict
    train_data: list[str]
    test_data: list[str]


class YamlRun:
    """A YAML config (CfgNode) and what a run of it consists of, over `processes` on all machines."""

    processes = 1
    early_stop: int | None = None  # validations without a better metric
    trackers: tuple[str, ...] = ()  # of runs.trackers
    limits = Limits()
    LEARNING_RATE, WARM_UP = "SOLVER.BASE_LR", "SOLVER.WARMUP_ITERS"
    KEYS: ClassVar = dict(
        max_iter="SOLVER.MAX_ITER", batch="SOLVER.IMS_PER_BATCH", eval_period="TEST.EVAL_PERIOD",
        period="SOLVER.CHECKPOINT_PERIOD", device="MODEL.DEVICE",
    )  # fmt: skip
    IGNORE_KEY = "MODEL.SEM_SEG_HEAD.IGNORE_VALUE"
    MASK_FORMAT_KEY = "INPUT.MASK_FORMAT"

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg

    @property
    def settings(self) -> Settings:
        cfg = self.cfg
        return Settings(
            output_dir=cfg.OUTPUT_DIR,
            weights=cfg.MODEL.WEIGHTS,
            device=cfg.MODEL.DEVICE,
            max_iter=cfg.SOLVER.MAX_ITER,
            batch=cfg.SOLVER.IMS_PER_BATCH,
            eval_period=cfg.TEST.EVAL_PERIOD,
            log_period=20,
            checkpointer=dict(period=cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=3),
            amp=cfg.SOLVER.AMP.ENABLED,
            ddp=dict(broadcast_buffers=False),
            train_data=list(cfg.DATASETS.TRAIN),
            test_data=list(cfg.DATASETS.TEST),
        )

    def set(self, *, output_dir=None, device=None, amp=None) -> None:
        cfg = self.cfg
        cfg.OUTPUT_DIR = output_dir or cfg.OUTPUT_DIR
        cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
        cfg.SOLVER.AMP.ENABLED = cfg.SOLVER.AMP.ENABLED if amp is None else amp

    @property
    def registered(self) -> list:
        """The data sets that the config registers, as own_data writes them."""
        return self.cfg.DATASETS.REGISTER

    @registered.setter
    def registered(self, entries: list[dict]) -> None:
        self.cfg.DATASETS.REGISTER = entries

    def override(self, option: str) -> None:
        key, value = option.split("=", 1)
        if key == "DATASETS.REGISTER":
            self.registered = own_data.parsed(value)
            return
        mistakes.check_yaml_key(self.cfg, key)
        try:
            self.cfg.merge_from_list([key, value])
        except ValueError as error:  # a value of another type
            raise mistakes.other_type(error) from error

    def class_counts(self) -> list[tuple[str, int, bool]]:
        """Each key that counts the model's classes, its value, and whether it may count stuff."""
        model, kind = self.cfg.MODEL, self.cfg.MODEL.META_ARCHITECTURE
        heads = {"GeneralizedRCNN": ["ROI_HEADS"], "RetinaNet": ["RETINANET"],
                 "SemanticSegmentor": ["SEM_SEG_HEAD"],
                 "PanopticFPN": ["ROI_HEADS", "SEM_SEG_HEAD"]}.get(kind, [])  # fmt: skip
        return [
            (f"MODEL.{head}.NUM_CLASSES", model[head].NUM_CLASSES, head == "SEM_SEG_HEAD")
            for head in heads
        ]

    def without_masks(self) -> str | None:
        """The key=value that leaves out the mask head; None where there is none."""
        model = self.cfg.MODEL
        of_boxes = model.META_ARCHITECTURE in ("GeneralizedRCNN", "PanopticFPN")
        return "MODEL.MASK_ON=False" if of_boxes and model.MASK_ON else None

    def get(self, key: str):
        """The value of a key; None where there is none."""
        node = self.cfg
        for name in key.split("."):
            node = node.get(name) if isinstance(node, CfgNode) else None
        return node

    @property
    def channels(self) -> str:
        """In which order the network is given them, "RGB" or "BGR"."""
        return self.cfg.INPUT.FORMAT

    @property
    def normalisation(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, of pixels in 0..255."""
        return list(self.cfg.MODEL.PIXEL_MEAN), list(self.cfg.MODEL.PIXEL_STD)

    def build_model(self) -> torch.nn.Module:
        return build_model(self.cfg)

    def build_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        return optimizer.build_optimizer(self.cfg, model)

    def build_lr_scheduler(self, optimizer_):
        return optimizer.build_lr_scheduler(self.cfg, optimizer_)

    def build_train_loader(self):
        return data.build_train_loader(self.cfg)

    def build_test_loader(self, dataset: str):
        return data.build_test_loader(self.cfg, dataset)

    def build_evaluator(self, dataset: str):
        return data.build_evaluator(dataset, self.cfg.OUTPUT_DIR)

    def build_test_mapper(self) -> DatasetMapper:
        return DatasetMapper(self.cfg, False)


class LazyRun:
    """A LazyConfig and what a run of it consists of, over `processes` on all machines."""

    processes = 1
    early_stop: int | None = None  # validations without a better metric
    trackers: tuple[str, ...] = ()  # of runs.trackers
    limits = Limits()
    LEARNING_RATE, WARM_UP = "optimizer.lr", "lr_multiplier.warmup_length"
    KEYS: ClassVar = dict(
        max_iter="train.max_iter", batch="dataloader.train.total_batch_size",
        eval_period="train.eval_period", log_period="train.log_period",
        period="train.checkpointer.period",
        device="train.device",
    )  # fmt: skip
    IGNORE_KEY = "model.sem_seg_head.ignore_value"
    MASK_FORMAT_KEY = "dataloader.train.mapper.instance_mask_format"

    def __init__(self, cfg: DictConfig):
        self.cfg = cfg

    @property
    def settings(self) -> Settings:
        train, loaders = self.cfg.train, self.cfg.dataloader
        return Settings(
            output_dir=train.output_dir,
            weights=train.init_checkpoint,
            device=train.device,
            max_iter=train.max_iter,
            batch=loaders.train.total_batch_size,
            eval_period=train.eval_period,
            log_period=train.log_period,
            checkpointer=dict(train.checkpointer),
            amp=train.amp.enabled,
            ddp=dict(train.ddp),
            train_data=_dataset_names(loaders.train),
            test_data=_dataset_names(loaders.test)[:1],  # one loader, however many sets it has
        )

    def set(self, *, output_dir=None, device=None, amp=None) -> None:
        train = self.cfg.train
        train.output_dir = output_dir or train.output_dir
        train.device = device or train.device
        train.amp.enabled = train.amp.enabled if amp is None else amp

    @property
    def registered(self) -> list:
        """The data sets that the config registers, as own_data writes them."""
        return OmegaConf.to_container(self.cfg.dataloader.register)

    @registered.setter
    def registered(self, entries: list[dict]) -> None:
        self.cfg.dataloader.register = entries

    def override(self, option: str) -> None:
        key, value = option.split("=", 1)
        if key == "dataloader.register":
            self.registered = own_data.parsed(value)
            return
        _check_lazy_key(self.cfg, key)
        try:
            LazyConfig.apply_overrides(self.cfg, [option])
        except Exception as error:  # hydra's grammar has many errors of its own
            raise UserError(f"{option}: {str(error).splitlines()[0]}") from error

    def class_counts(self) -> list[tuple[str, int, bool]]:
        """Each key that counts the model's classes, its value, and whether it may count stuff."""
        counts = _class_counts(self.cfg.model, "model")
        return [
            (key, count, "sem_seg" in key)
            for key, count in counts
            if not (key.endswith("mask_head.num_classes") and count == 1)  # one mask for all
        ]

    def without_masks(self) -> str | None:
        """The key=value that leaves out the mask head; None where there is none."""
        key = "model.roi_heads.mask_in_features"
        return f"{key}=null" if self.get(key) is not None else None

    def get(self, key: str):
        """The value of a key; None where there is none."""
        return OmegaConf.select(self.cfg, key)

    @property
    def channels(self) -> str:
        """In which order the network is given them, "RGB" or "BGR"."""
        return self.get("dataloader.train.mapper.image_format") or "BGR"  # of DatasetMapper

    @property
    def normalisation(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, of pixels in 0..255."""
        mean, std = (self.get(f"model.pixel_{name}") for name in ("mean", "std"))
        return list(mean or [0.0] * 3), list(std or [1.0] * 3)

    def build_model(self) -> torch.nn.Module:
        return instantiate(self.cfg.model).to(self.cfg.train.device)

    def build_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        self.cfg.optimizer.params.model = model
        optimizer = instantiate(self.cfg.optimizer)
        del self.cfg.optimizer.params.model
        for group in optimizer.param_groups:  # omegaconf's lists would make a checkpoint unreadable
            group.update({k: tuple(v) for k, v in group.items() if OmegaConf.is_list(v)})
        return optimizer

    def build_lr_scheduler(self, optimizer):
        return instantiate(self.cfg.lr_multiplier)

    def build_train_loader(self):
        return instantiate(self.cfg.dataloader.train)

    def build_test_loader(self, dataset: str):
        return instantiate(self.cfg.dataloader.test)

    def build_evaluator(self, dataset: str):
        node = self.cfg.dataloader.evaluator
        target = node and node.get("_target_")
        of_coco = target is COCOEvaluator or str(target).endswith(".COCOEvaluator")
        if of_coco and not node.get("output_dir"):
            options = data.coco_options(node.dataset_name, self.cfg.train.output_dir)
            node = OmegaConf.merge(node, options)
        return instantiate(node)

    def build_test_mapper(self) -> DatasetMapper:
        return instantiate(self.cfg.dataloader.test.mapper)


Run = YamlRun | LazyRun


# ---- configs -------------------------------------------------------------------------------------
def load_config(
    path: str, *, sample: bool = False, shrink: bool = False, options: list[str] | None = None
) -> Run:
    """The config at `path`, on the sample data or with a small backbone if asked, then with the
    user's own key=value. import=FILE.py among them runs that file before the config is read.

    Raises:
        UserError: it is missing, cannot be read, has an unknown key, or is no config to train with.
    """
    file = existing_config(path)
    for option in options or []:
        if option.startswith("import="):
            own_data.run_file(option.removeprefix("import="))
    if file.suffix not in (".py", ".yaml", ".yml"):
        raise UserError(f"{path} is no config: its name ends neither in .py nor in .yaml")
    run = _load_python(file) if file.suffix == ".py" else _load_yaml(file)
    if sample:
        ensure_sample_data()
        print_changes("--sample", use_sample(run.cfg))
    if shrink:
        print_changes("--shrink", shrink_backbone(run.cfg))
    for option in options or []:
        if "=" not in option:
            raise UserError(
                f"{option!r} is no override; write key=value, e.g. {run.LEARNING_RATE}=1e-4"
            )
        if not option.startswith("import="):
            run.override(option)
    try:
        settings = run.settings
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"config {path} is none to train with: {error}") from error
    mistakes.check_values(run)
    run.set(output_dir=_folder_of_run(file, settings.output_dir))
    names = [*settings.train_data, *settings.test_data]
    own_data.register(run.registered)
    data.register_data_sets(*names)
    run.registered = own_data.entries_of([entry["name"] for entry in run.registered] + names)
    return run


def _folder_of_run(config: Path, output_dir: str) -> str:
    """Where a run writes: for the saved config of a run where that lies, also after a move."""
    own = config.name == "config.yaml" and (config.parent / "last_checkpoint").is_file()
    if own and config.parent.resolve() != Path(output_dir).resolve():
        if os.path.isabs(output_dir):
            say(f"the run of {config} was moved: it goes on there, not in {output_dir}")
        return str(config.parent)
    return os.path.expanduser(output_dir)


def _load_python(file: Path) -> LazyRun:
    try:
        cfg = LazyConfig.load(str(file))
    except Exception as error:  # a LazyConfig is a program
        raise UserError(f"config {file} cannot be read: {type(error).__name__}: {error}") from error
    return _checked_lazy(cfg, file)


def _load_yaml(file: Path) -> Run:
    """A YAML config; or a LazyConfig as a run saves it, in its work directory."""
    cfg = get_cfg()
    add_convnext_config(cfg)
    try:
        content = yaml.load(file.read_text(), Loader=PartsLoader)
        if isinstance(content, dict) and "model" in content:
            check_targets(content, file)
            return _checked_lazy(OmegaConf.create(content, flags={"allow_objects": True}), file)
        cfg.merge_from_file(str(file), allow_unsafe=False)
    except UserError:  # of a _BASE_ that could run code
        raise
    except yaml.constructor.ConstructorError as error:
        raise UserError(
            f"config {file} names Python objects ({error.problem}), which could run code, and is "
            "refused; use the .py config that it came from"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config {file} cannot be read: {error}") from error
    except (OSError, RecursionError, *CONFIG_ERRORS) as error:
        raise mistakes.unreadable(file, error, cfg) from error
    return YamlRun(cfg)


def _checked_lazy(cfg: DictConfig, file: Path) -> LazyRun:
    parts = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
    missing = [name for name in parts if name not in cfg]
    if missing:
        raise UserError(
            f"config {file} lacks {', '.join(missing)}; a LazyConfig to train with has "
            f"{', '.join(parts)}"
        )
    groups = ("dataloader", "dataloader.train", "dataloader.test", "train", "train.amp")
    for place in groups:
        if not OmegaConf.is_dict(OmegaConf.select(cfg, place)):
            raise UserError(f"config {file}: {place} is no group of keys, as a LazyConfig has it")
    mistakes.check_lazy_names(cfg, file)
    if "register" not in cfg.dataloader:
        cfg.dataloader.register = []
    return LazyRun(cfg)


def _dataset_names(loader: DictConfig) -> list[str]:
    names = OmegaConf.select(loader, "dataset.names", default=[])
    return [names] if isinstance(names, str) else list(names)


def _class_counts(node, path: str) -> list[tuple[str, int]]:
    """Every num_classes below a node of a LazyConfig, with its key."""
    if OmegaConf.is_list(node):
        children = list(enumerate(node))
    elif OmegaConf.is_dict(node):
        children = list(node.items())
    else:
        return []
    counts = []
    for name, value in children:
        if name in ("proposal_generator", "backbone"):  # which number other classes than the data
            continue
        linked = OmegaConf.is_interpolation(node, name)  # to one that is counted itself
        if name == "num_classes" and isinstance(value, int) and not linked:
            counts.append((f"{path}.{name}", value))
        counts += _class_counts(value, f"{path}.{name}")
    return counts


def _check_lazy_key(cfg: DictConfig, key: str) -> None:
    """UserError for a key that neither the config has nor the callable that a node stands for."""
    node = cfg
    for name in key.lstrip("+").split("."):
        known = [str(k) for k in (range(len(node)) if OmegaConf.is_list(node) else node or ())]
        if "_target_" in known and name not in known:
            parameters = inspect.signature(_callable(node["_target_"])).parameters.values()
            if any(p.kind is p.VAR_KEYWORD for p in parameters):
                return  # it refuses unknown ones by itself
            known += [p.name for p in parameters if p.name not in known]
        if name not in known:
            raise mistakes.no_key(key, name, known)
        node = OmegaConf.select(node, name)
        node = node if OmegaConf.is_config(node) else None


def _callable(target):
    return locate(target) if isinstance(target, str) else target
