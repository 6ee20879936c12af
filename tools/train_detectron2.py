"""`convnext-backbones train` for a config of Detectron2."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("train_detectron2"))
