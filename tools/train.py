"""Train a detector or segmentor of any framework: `convnext-backbones train`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("train"))
