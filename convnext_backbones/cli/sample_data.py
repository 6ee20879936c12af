"""Write the generated sample data set in COCO's and ADE20K's layouts.

convnext-backbones sample-data [--out data/sample] [--train 128] [--val 32] [--seed 0]
"""

from collections.abc import Sequence

from . import make_parser, number


def main(argv: Sequence[str] | None = None) -> None:
    """Write it by the command line."""
    parser = make_parser("sample-data", __doc__)
    parser.add_argument("--out", default="data/sample", help="folder to write")
    parser.add_argument("--train", type=number(int, 1), default=128, help="training pictures")
    parser.add_argument("--val", type=number(int, 1), default=32, help="validation pictures")
    parser.add_argument("--seed", type=number(int, 0), default=0)
    args = parser.parse_args(argv)

    from ..console import progress
    from ..runs.sample_data import make_sample_data

    root = make_sample_data(
        args.out, train=args.train, val=args.val, seed=args.seed,
        progress=lambda jobs: progress(jobs, "sample data"),
    )  # fmt: skip
    print(f"{root}/coco and {root}/ade/ADEChallengeData2016 are written")
