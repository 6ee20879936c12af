"""Train a classifier of your classes from pretrained weights: `convnext-backbones finetune`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("finetune"))
