"""Evaluate a trained checkpoint on its config's test data.

    python tools/test.py CONFIG CHECKPOINT [--tta] [--sample]

A run's own config, which also knows whether it was a --sample run, lies in its work directory.
"""

import argparse
from pathlib import Path

from mmengine.config import DictAction

from ..adapters.openmmlab import run as run
from ..errors import UserError
from ..runs import report


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--work-dir", help="for the log; default: beside the checkpoint")
    parser.add_argument("--sample", action="store_true", help="as train.py --sample changed it")
    parser.add_argument("--tta", action="store_true", help="multi-scale and flip (segmentation)")
    parser.add_argument("--launcher", default="none", choices=["none", "pytorch", "slurm", "mpi"])
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="K=V")
    return parser.parse_args()


def main():
    args = parse_args()
    run.quiet_warnings()
    cfg = run.load_config(args.config, sample=args.sample, options=args.cfg_options)
    run.check_data(cfg, loaders=("test",))
    run.fit_to_device(cfg, args.launcher)
    cfg.update(load_from=None, resume=False, launcher=args.launcher)
    cfg.model.backbone.init_cfg = None
    cfg.work_dir = args.work_dir or str(Path(args.checkpoint).parent / "test")
    if args.tta:
        if "tta_pipeline" not in cfg:
            raise UserError(f"{args.config} has no tta_pipeline; leave out --tta")
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.model = dict(**cfg.tta_model, module=cfg.model)
    runner = run.QuietRunner.from_cfg(cfg)
    model = getattr(runner.model, "module", runner.model)  # below TTA or DDP
    run.load_trained(model, args.checkpoint)
    metrics = runner.test()
    report.print_metrics(report.metrics_of(metrics), f"{args.checkpoint}")
