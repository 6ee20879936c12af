"""Write the generated sample data set in COCO's and ADE20K's layouts.

python tools/make_sample_data.py [--out data/sample] [--train 128] [--val 32] [--seed 0]
"""

import argparse

from tqdm import tqdm

from ..runs.sample_data import make_sample_data


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="data/sample", help="folder to write")
    parser.add_argument("--train", type=int, default=128, help="training pictures")
    parser.add_argument("--val", type=int, default=32, help="validation pictures")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    root = make_sample_data(
        args.out,
        train=args.train,
        val=args.val,
        seed=args.seed,
        progress=lambda jobs: tqdm(jobs, desc="sample data"),
    )
    print(f"{root}/coco and {root}/ade/ADEChallengeData2016 are written")
