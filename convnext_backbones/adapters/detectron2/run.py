"""Detectron2 as train, test and predict want a framework: runs.host.Host.

Both kinds of config, YAML and LazyConfig, run through one loop of Detectron2's trainer, hooks and
evaluators. Checkpoints are read without executing.
"""

import contextlib
import functools
import logging
import multiprocessing
import os
import re
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_setup,
    hooks,
)
from detectron2.engine import launch as detectron2_launch
from detectron2.evaluation import inference_context, inference_on_dataset, print_csv_format
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.comm import is_main_process as is_main_process
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessExitedException

from ...checkpoints import read_checkpoint
from ...console import Lines, counted, hide, progress, say
from ...data.pictures import read_picture
from ...errors import Stopped, UserError, exit_with_sentence
from ...runs import preparation, trackers, trained
from ...runs.guards import Limits
from ...runs.host import Entry, Example, Optimized
from ...runs.interruption import SIGNALS, Interruption
from ...runs.report import in_line, records_of
from ...runs.results import prediction_rows
from ...runs.visualize import spread
from . import data, fine_tuning, own_data
from .agreement import check, check_registered
from .configs import Run, YamlRun
from .configs import load_config as load_config  # part of the contract
from .fine_tuning import EarlyStopping, StoppedEarly
from .guards import LAZY, YAML, Guard
from .loop import EVALUATED, Evaluation, Progress, Stopping, best_of, evaluated
from .prediction import holds_objects, metadata_of, output_of
from .prediction import infer as infer
from .prediction import result_of as result_of
from .prediction import truth_of as truth_of
from .records import records as records
from .samples import samples as samples
from .saving import last_whole
from .trackers import Pictures, writers
from .trying import try_mappers
from .views import view as view

LOGGER = logging.getLogger("detectron2.convnext_backbones")  # below what Detectron2 sets up

WORK_DIRS = "work_dirs/detectron2"
# Of an evaluator_type, how the files lie.
DATA = {"coco": "coco", "sem_seg": "ade20k", data.LABELS_FROM_1: "ade20k"}

# What Detectron2 logs, by the names of report.METRICS, and the factor to their scale.
METRICS = {
    "sem_seg/mIoU": ("mIoU", 1.0),
    "sem_seg/mACC": ("mAcc", 1.0),
    "sem_seg/pACC": ("aAcc", 1.0),
    "bbox/AP": ("coco/bbox_mAP", 0.01),
    "bbox/AP50": ("coco/bbox_mAP_50", 0.01),
    "segm/AP": ("coco/segm_mAP", 0.01),
    "segm/AP50": ("coco/segm_mAP_50", 0.01),
}

# Evaluators' tasks whose metrics are average precisions in percent.
AP_OF = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
LEFT_OUT = ("BoundaryIoU-", "min(IoU", "ACC-")  # beside IoU-class
OF_A_STEP = ("lr", "time", "data_time")  # in metrics.json, beside losses

# What a console shows of the frameworks' lines; the log file keeps all.
LINES = Lines(
    shown=(
        "Starting training from iteration", " (eta|iter): ", "Saving checkpoint to", "Removed [1-9]",
        "Overall training speed", "Total training time", "Auto-scaling the config",
        "Annotations are not available for evaluation",
    ),
    noise=("Exception during training", "Exception in writing metrics", "Error when instantiating"),
)  # fmt: skip

# A line of log.txt: "[11/26 04:30:55] d2.engine.hooks WARNING: ..", and no library's.
WARNED = re.compile(r"\[[^\]]+\] (?!torch\b)\S+ (?:WARNING|ERROR|CRITICAL): (.+)")
NOISE = re.compile("|".join(LINES.noise))


# ---- before a run --------------------------------------------------------------------------------
def quiet_warnings() -> None:
    """Leave what the frameworks print and warn of to the log file; not ours."""
    hide(
        ("detectron2", "fvcore", "iopath", "torch", "torchvision", "pycocotools", "pkg_resources"),
        loggers=("torch.utils.cpp_extension", "torch.fx._symbolic_trace"),
    )


def overrides(args: Namespace) -> list[str]:
    """The key=value of the command line."""
    return args.options


def take_options(run: Run, args: Namespace) -> None:
    """The processes, and with --eval-only of train that there are weights to evaluate."""
    args.num_gpus = max(args.num_gpus, 1)  # 0, as elsewhere: one process on the CPU
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise UserError(
            f"--num-gpus {args.num_gpus}, but this machine has {torch.cuda.device_count()}"
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise UserError("--num-machines needs --dist-url tcp://HOST:PORT, the same on all machines")
    run.processes = args.num_gpus * args.num_machines
    if hasattr(args, "weights"):  # of train
        fine_tuning.take_options(run, args)
        run.trackers = trackers.wanted(args.tracker)
    run.limits = Limits.of(**Limits.named_in(args))
    if getattr(args, "eval_only", False) and not args.resume and not run.settings.weights:
        raise UserError(
            "nothing to evaluate: give train.init_checkpoint=FILE, in YAML MODEL.WEIGHTS=FILE, or "
            "--resume for the last checkpoint of the run"
        )


def work_dir(run: Run) -> Path | None:
    """The folder of the run; None for ./output, Detectron2's default."""
    folder = run.settings.output_dir
    return None if folder == "./output" else Path(folder)


def set_work_dir(run: Run, folder: Path) -> None:
    """Let the run write there."""
    run.set(output_dir=str(folder))


def check_data(run: Run, splits: Sequence[str] = ("train", "val")) -> None:
    """UserError for an unregistered data set, and with the expected layout for missing files."""
    settings = run.settings
    of = {"train": settings.train_data, "val": settings.test_data, "test": settings.test_data}
    wanted = [(split, name) for split in splits for name in of[split]]
    for split, name in wanted:
        check_registered(run, name)
        if isinstance(run, YamlRun) and split != "train":
            data.evaluator_type(name)
        meta = MetadataCatalog.get(name)
        keys = ("json_file", "image_root", "sem_seg_root")
        paths = [Path(meta.get(key)) for key in keys if meta.get(key)]
        missing = [path for path in paths if "://" not in str(path) and not path.exists()]
        if missing:
            kind = DATA.get(meta.get("evaluator_type"))
            up = Path(meta.image_root).parent if kind else None
            root = up.parent if kind == "ade20k" else up
            builtin = kind if name.startswith(("coco_", "ade20k_")) else None
            expected = (
                preparation.LAYOUTS[builtin].format(root=root)
                if builtin
                else "\n".join(f"    {path}{', missing' * (path in missing)}" for path in paths)
            )
            way = (
                "set DETECTRON2_DATASETS to the folder above it"
                if builtin
                else f"say where the data set {name!r} lies in the config that registers it"
            )
            raise preparation.missing_data(split, missing[0], expected, way)
    check(run, splits)


def fit_to_device(run: Run) -> None:
    """Replace what this machine cannot run, in place, and say so in a line."""
    batch, processes = run.settings.batch, run.processes
    if batch % processes:
        raise UserError(
            f"a batch of {counted(batch, 'picture')} cannot be split over {counted(processes, 'process')}"
        )
    if torch.cuda.is_available():
        return
    changes = [f"{run.settings.device} -> cpu"] if run.settings.device != "cpu" else []
    changes += ["mixed precision -> float32"] if run.settings.amp else []
    run.set(device="cpu", amp=False)
    count = preparation.replace_sync_bn(run.cfg)
    changes += [f"SyncBN -> BN ({count} places)"] if count else []
    if changes:
        say(f"without a GPU, {counted(processes, 'process')}: {'; '.join(changes)}")


# ---- the run -------------------------------------------------------------------------------------
def launch(work, args: Namespace, run: Run) -> None:
    """Here, if this process is alone; else in as many processes as --num-gpus says, which read the
    config for themselves."""
    if run.processes == 1:
        work(args, run)
        return
    handlers = {number: signal.signal(number, _hand_on) for number in SIGNALS}
    try:
        detectron2_launch(
            _in_process, args.num_gpus, num_machines=args.num_machines,
            machine_rank=args.machine_rank, dist_url=args.dist_url, args=(work, args),
            timeout=run.limits.group_timeout,
        )  # fmt: skip
    except ProcessExitedException as error:  # the process has said why
        sys.exit(error.exit_code)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _hand_on(number: int, frame) -> None:
    """Leave a signal to the processes of the run; Ctrl-C reaches them by itself."""
    for process in multiprocessing.active_children() if number != signal.SIGINT else ():
        os.kill(process.pid, number)


def _in_process(work, args: Namespace) -> None:
    try:
        with exit_with_sentence(getattr(args, "debug", False)):
            if not torch.cuda.is_available():
                torch.set_num_threads(max(1, os.cpu_count() // args.num_gpus))
            work(args, None)
    except Stopped as stopped:
        if comm.is_main_process():
            print(stopped, file=sys.stderr)
        sys.exit(stopped.status)


def set_up(run: Run, args) -> None:
    """Detectron2's own set-up (log, saved config, seed), with a console that leaves out what is in
    the log file anyway."""
    output, rank = run.settings.output_dir, comm.get_rank()
    loggers = [  # in default_setup's own words: they are cached by them
        setup_logger(output, distributed_rank=rank, name="fvcore"),
        setup_logger(output, distributed_rank=rank),
    ]
    preparation.keep_log(loggers, LINES)
    default_setup(run.cfg, args)


def build(run: Run) -> torch.nn.Module:
    """The model on the config's device; UserError when the config asks for what its parts refuse."""
    with preparation.refused("model"):
        return run.build_model()


def train(run: Run, *, resume: bool) -> torch.nn.Module:
    """Train, evaluate and save as the config says; returns the model, on every process."""
    settings = run.settings
    model = build(run)
    preparation.tell_run(model, Path(settings.output_dir, "log.txt"))
    with preparation.refused("training data"):
        loader = run.build_train_loader()
        try_mappers(loader, run.build_test_mapper)
    with preparation.refused("optimizer"):
        optimizer = run.build_optimizer(model)
        scheduler = run.build_lr_scheduler(optimizer)
    rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    ddp = settings.ddp if torch.cuda.is_available() else {**settings.ddp, "device_ids": None}
    wrapped = create_ddp_model(model, **ddp)
    trainer_class = AMPTrainer if settings.amp else SimpleTrainer
    trainer = trainer_class(wrapped, loader, optimizer)
    checkpointer = DetectionCheckpointer(
        wrapped, settings.output_dir, trainer=trainer, classes=fine_tuning.class_names(run)
    )
    main = comm.is_main_process()
    folder = Path(settings.output_dir)
    if main and not resume:
        for log in ("metrics.json", EVALUATED):
            _set_aside(folder / log)
    with Interruption() as interruption:
        stopping = Stopping(interruption, checkpointer)
        every = [hooks.IterationTimer(), hooks.LRScheduler(scheduler=scheduler)]
        saving = [hooks.PeriodicCheckpointer(checkpointer, **settings.checkpointer)] if main else []
        evaluation = Evaluation(
            settings.eval_period, lambda: _validated(run, wrapped), model, folder, stopping
        )
        keys = YAML if isinstance(run, YamlRun) else LAZY
        ending = [stopping, Guard(folder=folder, keys=keys, **run.limits._asdict())]
        if run.early_stop:
            ending.append(EarlyStopping(run.early_stop, settings.eval_period, folder, checkpointer))
        trainer.register_hooks([*every, *saving, evaluation, *ending])
        checkpointer.resume_or_load(settings.weights, resume=resume)
        if main:
            start = trainer.iter + 1 if resume else 0
            if run.trackers:
                rows = functools.partial(_rows, run, model, [])
                trainer.register_hooks([Pictures(settings.eval_period, rows)])
            writing = writers(run, start, resume=resume)
            trainer.register_hooks([hooks.PeriodicWriter(writing, period=settings.log_period)])
            trainer.register_hooks([Progress()])
            LOGGER.info(
                f"optimizer: {len(rates)} parameter groups, lr {min(rates):.3g} to {max(rates):.3g}"
            )
        try:
            trainer.train(trainer.iter + 1 if resume else 0, settings.max_iter)
        except StoppedEarly:
            pass
        except IndexError as error:  # of the loss of segmentation
            raise _beyond_classes(run, error) from error
    own = own_data.only_known_here([*settings.train_data, *settings.test_data])
    if main and own:
        say(
            f"your Python registers {', '.join(own)}: the lines below need import=FILE.py, which runs it"
        )
    return model


def _set_aside(log: Path) -> None:
    """Rename a log of an earlier run in the same folder, to which this one would append."""
    if log.exists():
        log.rename(log.with_name(f"{log.stem}_until_{time.strftime('%Y%m%d_%H%M%S')}.json"))


def _beyond_classes(run: Run, error: IndexError) -> Exception:
    found = re.fullmatch(r"Target (-?\d+) is out of bounds\.?", str(error))
    if not found:
        return error
    counts = ", ".join(f"{key}={count}" for key, count, _ in run.class_counts())
    return UserError(
        f"a label map of the training data holds {found[1]}, beyond the classes ({counts}) and not their "
        "void label; correct the maps, the classes or the void label"
    )


def results_of(run: Run, model: torch.nn.Module) -> dict:
    """Detectron2's results on the test data: {"bbox": {"AP": percent, ..}, ..}; {} off the main process."""
    results = {}
    for dataset in run.settings.test_data:
        loader, evaluator = run.build_test_loader(dataset), run.build_evaluator(dataset)
        shown = progress(loader, "evaluating", unit="batch")
        found = inference_on_dataset(model, shown, evaluator)
        if found and comm.is_main_process():
            print_csv_format(found)
        results[dataset] = found or {}
    return results if len(results) > 1 else next(iter(results.values()), {})


def _validated(run: Run, model: torch.nn.Module) -> dict:
    """results_of, told in a line."""
    results = results_of(run, model)
    if results and comm.is_main_process():
        found = flatten_results_dict(results)
        LOGGER.info(f"validation: {in_line(_metrics(found, found))}")
    return results


def evaluate(run: Run, checkpoint: str) -> dict[str, float]:
    """The metrics of a checkpoint, loaded whole, on the test data; {} off the main process."""
    model = build(run)
    preparation.tell_run(model, Path(run.settings.output_dir, "log.txt"))
    trained.tell_weights(load_trained(model, checkpoint))
    found = flatten_results_dict(results_of(run, model))
    return _metrics(found, found)


def _metrics(record: dict, names: Iterable[str] = ()) -> dict[str, float]:
    """The metrics in a record of Detectron2 ("bbox/AP50", in percent) by report's names and scale:
    those of METRICS, and those with other names that an evaluator gave."""
    found = {name: factor * record[k] for k, (name, factor) in METRICS.items() if k in record}
    for key in names:
        metric = key.rpartition("/")[2]
        if key in record and key not in METRICS and not metric.startswith(LEFT_OUT):
            name, factor = _named(key)
            found[name] = factor * record[key]
    return found


def _named(key: str) -> tuple[str, float]:
    """Another metric of Detectron2, such as "bbox/AP-dog" or "val/segm/AP75", in words, and the factor to
    the scale that the words say."""
    *dataset, task, metric = ["", *key.split("/")]
    of_set = f" ({'/'.join(filter(None, dataset))})" if any(dataset) else ""
    if task in AP_OF:
        of = "" if task == "bbox" and metric.startswith("AP-") else f"{AP_OF[task]} "
        return f"{of}{metric}{of_set}", 0.01
    if task == "sem_seg":
        return f"{metric}{of_set} (%)", 1.0
    return key, 1.0


def load_trained(model: torch.nn.Module, checkpoint: str) -> dict:
    """Load a run's checkpoint whole into its model; returns the checkpoint's entries.

    Raises:
        UserError: unreadable, another framework's, or a parameter is missing, left over or of another shape.
    """
    content = read_checkpoint(checkpoint)
    own = Path(checkpoint).parent / "config.yaml"
    state = trained.state_of(content, checkpoint, "Detectron2")
    preparation.load_whole(model, state, checkpoint, own if own.exists() else None)
    return content


def initial_weights(run: Run) -> str:
    """MODEL.WEIGHTS or train.init_checkpoint."""
    return run.settings.weights


def last_checkpoint(run: Run) -> Path | None:
    """The newest whole one in the work directory."""
    return last_whole(run.settings.output_dir)


def best_checkpoint(run: Run) -> Path | None:
    """The one with the best validation of the run, if it was evaluated."""
    return best_of(Path(run.settings.output_dir))


def own_config(run: Run) -> Path:
    """Where Detectron2's set-up writes a run's config, of either kind."""
    return Path(run.settings.output_dir) / "config.yaml"


def read_log(work_dir: Path) -> Iterator[Entry]:
    """Detectron2's metrics.json, to which a resumed session appends."""
    log, names = work_dir / "metrics.json", evaluated(work_dir).get("metrics", ())
    for record in records_of(log):
        logged = {k: v for k, v in record.items() if k.startswith("loss") or k in OF_A_STEP}
        if "total_loss" in record:
            at = record["iteration"]
            yield Entry(
                validation=False, iteration=at, record={**logged, "loss": record["total_loss"]}
            )
        metrics = _metrics(record, names)
        if metrics:
            yield Entry(validation=True, iteration=record["iteration"], record=metrics)


def read_warnings(work_dir: Path) -> Iterator[str]:
    """Of log.txt, to which a resumed session appends."""
    log = work_dir / "log.txt"
    for line in log.read_text(errors="replace").splitlines() if log.exists() else ():
        if (found := WARNED.match(line)) and not NOISE.match(found[1]):
            yield found[1]


def optimized(run: Run, model: torch.nn.Module) -> Optimized:
    """The optimizer is made once more; the log holds the learning rate of one group, which Detectron2 chooses."""
    optimizer = run.build_optimizer(model)
    return Optimized(
        model, optimizer.param_groups, hooks.LRScheduler.get_best_param_group_id(optimizer)
    )


def examples(run: Run, model: torch.nn.Module, count: int) -> Iterator[Example]:
    """`count` test pictures spread over the data, with their records, seen by the best or last weights that
    were saved."""
    if not run.settings.test_data:
        return
    dataset = run.settings.test_data[0]
    meta, records = MetadataCatalog.get(dataset), DatasetCatalog.get(dataset)
    if checkpoint := best_checkpoint(run) or last_checkpoint(run):
        load_trained(model, str(checkpoint))
    model.test_mapper = run.build_test_mapper()
    model.eval()
    chosen = spread(len(records), count, lambda k: holds_objects(records[k], meta))
    yield from _seen(model, [records[k] for k in chosen], meta)


def _seen(model: torch.nn.Module, records: Iterable[dict], meta) -> Iterator[Example]:
    for record in records:
        size = record.get("width"), record.get("height")
        image = read_picture(
            record["file_name"],
            size=size if all(size) else None,
            label_map=record.get("sem_seg_file_name"),
        )
        prediction, file = output_of(model, record), str(record["file_name"])
        yield Example(image, truth=record, prediction=prediction, meta=meta, file=file)


def _rows(run: Run, model: torch.nn.Module, chosen: list[dict]) -> list[list[np.ndarray]]:
    """Picture, truth and prediction of validation pictures by the weights of now, for trackers; `chosen` keeps
    which ones."""
    dataset = next(iter(run.settings.test_data), None)
    if dataset is None:
        return []
    meta = MetadataCatalog.get(dataset)
    if not chosen:
        records = DatasetCatalog.get(dataset)
        numbers = spread(len(records), trackers.SHOWN, lambda k: holds_objects(records[k], meta))
        chosen += [records[k] for k in numbers]
    model.test_mapper = run.build_test_mapper()
    with inference_context(model):
        return prediction_rows(sys.modules[__name__], _seen(model, chosen, meta), trackers.SCORE)


# ---- models and pictures ---------------------------------------------------------------------------
def build_model(run: Run, device: str) -> torch.nn.Module:
    """The config's model with fresh weights; on the device "meta" it holds no memory."""
    run.set(device=device)
    # made on the CPU and moved, as Detectron2 does it; but memory that never was needs no move
    with torch.device("meta") if device == "meta" else contextlib.nullcontext():
        return build(run)


def load_model(run: Run, checkpoint: str, device: str | None = None) -> torch.nn.Module:
    """A trained model ready for `infer`, with `test_mapper` and `dataset_meta`."""
    model = build_model(run, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    trained.tell_weights(load_trained(model, checkpoint))
    model.test_mapper = run.build_test_mapper()
    model.dataset_meta = metadata_of(next(iter(run.settings.test_data), None))
    return model.eval()
