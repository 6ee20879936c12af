"""Check the Triton kernels, choose their tiles, and write down where they are faster. Needs a GPU."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("tune_kernels"))
