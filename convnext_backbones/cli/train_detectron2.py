"""Train a detector or segmentor in Detectron2: any YAML config or LazyConfig, on CPU or GPU.

python tools/train_detectron2.py configs/detectron2/coco_mask_rcnn_convnext_t.py --num-gpus 8
python tools/train_detectron2.py configs/detectron2/coco_mask_rcnn_convnext_t.yaml SOLVER.BASE_LR=5e-5
python tools/train_detectron2.py configs/detectron2/coco_mask_rcnn_convnext_t.py --sample     # minutes
"""

import argparse
import contextlib
import io
import os
import sys
from pathlib import Path

import torch
from torch.multiprocessing import ProcessExitedException

from ..errors import UserError, exit_with_sentence
from ..runs import report
from ..runs.visualize import save_grid

try:
    from detectron2.engine import launch
    from detectron2.utils import comm

    from ..adapters.detectron2 import run as run
except ImportError as error:
    sys.exit(f"error: this tool needs Detectron2 ({error}); README says how to install it")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", help="a LazyConfig (.py) or a YAML config")
    parser.add_argument(
        "--work-dir", help="default: the config's, or work_dirs/detectron2/<config name>[_sample]"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument(
        "--eval-only", action="store_true",
        help="evaluate the initial weights (train.init_checkpoint=..., MODEL.WEIGHTS=...), or with "
        "--resume the last checkpoint",
    )  # fmt: skip
    parser.add_argument("--sample", action="store_true", help="small generated data, small heads")
    parser.add_argument(
        "--shrink", action="store_true",
        help="a backbone of four blocks: with --sample, whether a config of any size runs, in seconds",
    )  # fmt: skip
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N",
        help="processes of this machine, one a GPU; without a GPU, N processes on the CPU (gloo)",
    )  # fmt: skip
    parser.add_argument("--num-machines", type=int, default=1, metavar="N")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="K")
    parser.add_argument("--dist-url", default="auto", help="tcp://HOST:PORT of machine 0")
    parser.add_argument("options", nargs="*", metavar="key=value", help="override config entries")
    return parser.parse_intermixed_args()


def main():
    args = parse_args()
    args.num_gpus = max(args.num_gpus, 1)  # 0, as elsewhere: one process on the CPU
    run.quiet_warnings()
    check_launch(args)
    config = prepared(args)  # wrong input is answered before processes start
    alone = args.num_gpus * args.num_machines == 1
    try:
        launch(
            work, args.num_gpus, num_machines=args.num_machines, machine_rank=args.machine_rank,
            dist_url=args.dist_url, args=(args, config if alone else None),
        )  # fmt: skip
    except ProcessExitedException as error:  # the process has said why
        sys.exit(error.exit_code)


def check_launch(args):
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise UserError(
            f"--num-gpus {args.num_gpus}, but this machine has {torch.cuda.device_count()}"
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise UserError("--num-machines needs --dist-url tcp://HOST:PORT, the same on all machines")


def prepared(args) -> run.Run:
    """The config as it will run here."""
    config = run.load_config(
        args.config, sample=args.sample, shrink=args.shrink, options=args.options
    )
    folder = config.settings.output_dir
    if folder == "./output":  # Detectron2's default
        folder = f"work_dirs/detectron2/{Path(args.config).stem}{'_sample' * args.sample}"
    config.set(output_dir=args.work_dir or folder)
    run.check_data(config, train=not args.eval_only)
    run.fit_to_device(config, args.num_gpus * args.num_machines)
    if args.resume and not last_checkpoint(config):
        raise UserError(f"nothing to resume: {args.work_dir or folder} holds no checkpoint")
    if args.eval_only and not args.resume and not config.settings.weights:
        raise UserError(
            "nothing to evaluate: give train.init_checkpoint=FILE, in YAML MODEL.WEIGHTS=FILE, or "
            "--resume for the last checkpoint of the run"
        )
    return config


def last_checkpoint(config: run.Run) -> Path | None:
    folder = Path(config.settings.output_dir)
    name = folder / "last_checkpoint"
    return folder / name.read_text().strip() if name.is_file() else None


def work(args, config: run.Run | None):
    """What each process does; with several, each reads the config for itself."""
    with exit_with_sentence():
        run.quiet_warnings()
        if comm.get_world_size() > 1 and not torch.cuda.is_available():
            torch.set_num_threads(max(1, os.cpu_count() // args.num_gpus))
        if config is None:
            with contextlib.redirect_stdout(io.StringIO()):
                config = prepared(args)
        run.set_up(config, args)
        if args.eval_only:
            model = run.build(config)
            weights = last_checkpoint(config) if args.resume else config.settings.weights
            run.load_trained(model, str(weights))
            results = run.evaluate(config, model)
            if comm.is_main_process():
                report.print_metrics(report.metrics_of(run.metrics_of(results)), str(weights))
            return
        model = run.train(config, resume=args.resume)
        if comm.is_main_process():
            finish(config, model)


def finish(config: run.Run, model):
    """The metrics in one table, the curves and some predictions; name the files."""
    work_dir = Path(config.settings.output_dir)
    _, validation = report.read_scalars(work_dir)
    if validation:
        report.print_metrics(report.metrics_of(validation[-1]), "last validation")
    curves = report.save_curves(work_dir)
    if curves:
        print(f"curves:      {curves}")
    rows = run.prediction_rows(config, model, count=4)
    if rows:
        titles = ("picture", "ground truth", "prediction")
        print(f"predictions: {save_grid(rows, titles, work_dir / 'predictions.png')}")
    checkpoint, own = last_checkpoint(config), work_dir / "config.yaml"
    weights = "MODEL.WEIGHTS" if isinstance(config, run.YamlRun) else "train.init_checkpoint"
    tool = "python tools/train_detectron2.py"
    print(f"checkpoint:  {checkpoint}")
    print(f"evaluate:    {tool} {own} --eval-only {weights}={checkpoint}")
    print(f"predict:     python tools/predict.py {own} {checkpoint} IMAGE_OR_FOLDER --out DIR")
