"""Published figures beside counted ones: parameters and multiply-accumulates of every network."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("model_table"))
