"""Train small networks on generated data while killing them, filling their disk and damaging their files.

python tools/soak.py --minutes 10 --seed 0     # one table; status 1 if anything was lost or hung
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ..adapters import FRAMEWORKS
from . import make_parser, number

# What is trained of each framework: a config, options, and whether its log gives losses in full.
TRAINED = {
    "openmmlab": (
        "ade20k_upernet_convnextv2_atto",
        ["--cfg-options", "train_cfg.max_iters=1000000", "train_cfg.val_interval=30",
         "val_dataloader.dataset.indices=4", "default_hooks.checkpoint.interval=4",
         "default_hooks.checkpoint.max_keep_ckpts=2", "default_hooks.logger.interval=1",
         "log_processor.window_size=1", "train_dataloader.batch_size=2", "train_dataloader.num_workers=1",
         "val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False"],
        True,
    ),
    "detectron2": (
        "detectron2/ade20k_sem_seg_fpn_convnextv2_atto",
        ["train.max_iter=1000000", "train.eval_period=0", "train.checkpointer.period=4",
         "train.checkpointer.max_to_keep=2", "train.log_period=1", "dataloader.train.total_batch_size=2", "dataloader.train.num_workers=1"],
        False,  # smoothed over the last steps
    ),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Soak by the command line; the exit status."""
    parser = make_parser("soak", __doc__)
    parser.add_argument("--minutes", type=number(float, 0.1), default=10.0)
    parser.add_argument("--seed", type=number(int, 0), default=0, help="of what happens when")
    parser.add_argument(
        "--framework", choices=list(TRAINED), nargs="+", default=list(TRAINED), help="default: all"
    )
    parser.add_argument("--folder", help="to work in, and to keep; default: a temporary one")
    parser.add_argument(
        "--patience", type=number(float, 1), default=120.0, metavar="SECONDS",
        help="in which a run has to get on, or it counts as hung (%(default)g)",
    )  # fmt: skip
    args = parser.parse_args(argv)

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from ..adapters import host_of
    from ..errors import UserError
    from ..runs.sample import ensure_sample_data
    from ..runs.soak import Soak, Trained, small_disk
    from . import run

    trained = []
    for name in args.framework:
        config, options, exact = TRAINED[name]
        try:
            host = host_of(name)
        except UserError as error:
            print(f"without {FRAMEWORKS[name].title}: {error}")
            continue
        host.quiet_warnings()
        arguments = [config, "--sample", "--shrink", *options]
        trained.append(Trained(host, arguments, config, exact))
    if not trained:
        raise UserError("no framework is here to soak")
    with contextlib.ExitStack() as stack:
        folder = Path(args.folder or stack.enter_context(tempfile.TemporaryDirectory())).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(contextlib.chdir(folder))
        ensure_sample_data()
        soak = Soak(
            folder, lambda line: run("train", line), trained, seed=args.seed, patience=args.patience
        )
        disks = [stack.enter_context(small_disk(track.folder)) for track in soak.tracks]
        if not all(disks):
            print(
                "no disk of its own can be mounted here: a full one is a limit on the size of a file"
            )
        begun = time.monotonic()
        soak.go_on(60 * args.minutes)
        soak.table((time.monotonic() - begun) / 60)
        return int(soak.failed)
