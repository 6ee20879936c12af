"""Train a detector or segmentor: any config of MMDetection or MMSegmentation, on CPU or GPU.

python tools/train.py configs/ade20k_upernet_convnext_t.py
python tools/train.py configs/ade20k_upernet_convnext_t.py --sample      # generated data, minutes
torchrun --nproc-per-node 8 tools/train.py configs/coco_mask_rcnn_convnext_t.py --launcher pytorch
"""

import argparse
import os
from pathlib import Path

from mmengine.config import DictAction
from mmengine.dist import is_main_process

from ..adapters.openmmlab import run as run
from ..errors import UserError
from ..runs import report
from ..runs.visualize import save_grid


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("--work-dir", help="default: work_dirs/<config name>[_sample]")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--sample", action="store_true", help="small generated data, small heads")
    parser.add_argument(
        "--shrink", action="store_true",
        help="a backbone of four blocks: with --sample, whether a config of any size runs, in seconds",
    )  # fmt: skip
    parser.add_argument(
        "--auto-scale-lr", action="store_true",
        help="multiply lr by batch / the recipe's batch; tools/show_recipe.py shows the result",
    )  # fmt: skip
    parser.add_argument("--launcher", default="none", choices=["none", "pytorch", "slurm", "mpi"])
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, metavar="K=V",
        help="override config entries, e.g. train_dataloader.batch_size=4",
    )  # fmt: skip
    parser.add_argument("--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parse_args()
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    run.quiet_warnings()
    cfg = run.load_config(
        args.config, sample=args.sample, shrink=args.shrink, options=args.cfg_options
    )
    if args.auto_scale_lr:
        if not cfg.get("auto_scale_lr", {}).get("base_batch_size"):
            raise UserError(
                f"{args.config} does not say for which batch its lr is; set "
                "auto_scale_lr=dict(base_batch_size=...) in it, or leave out --auto-scale-lr"
            )
        cfg.auto_scale_lr.enable = True
    name = Path(args.config).stem + ("_sample" if args.sample else "")
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"work_dirs/{name}"
    cfg.launcher = args.launcher
    run.check_data(cfg)
    run.fit_to_device(cfg, args.launcher)
    work_dir = Path(cfg.work_dir)
    if args.resume:
        if not (work_dir / "last_checkpoint").exists():
            raise UserError(
                f"nothing to resume: {work_dir} holds no checkpoint; leave out --resume"
            )
        cfg.resume = True

    runner = run.QuietRunner.from_cfg(cfg)
    runner.train()
    if is_main_process():
        finish(runner, args, work_dir)


def finish(runner, args, work_dir: Path):
    """The metrics in one table, the curves and some predictions; name the files."""
    _, validation = report.read_scalars(work_dir)
    if validation:
        report.print_metrics(report.metrics_of(validation[-1]), "last validation")
    curves = report.save_curves(work_dir)
    if curves:
        print(f"curves:      {curves}")
    if runner.cfg.get("val_dataloader"):
        rows = run.prediction_rows(runner, count=4)
        titles = ("picture", "ground truth", "prediction")
        print(f"predictions: {save_grid(rows, titles, work_dir / 'predictions.png')}")
    checkpoint = (work_dir / "last_checkpoint").read_text().strip()
    config = work_dir / Path(args.config).name
    print(f"checkpoint:  {checkpoint}")
    print(f"evaluate:    python tools/test.py {config} {checkpoint}")
    print(f"predict:     python tools/predict.py {config} {checkpoint} IMAGE_OR_FOLDER --out DIR")
