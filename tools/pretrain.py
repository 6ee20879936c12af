"""Pretrain a ConvNeXt V2 on pictures without labels: `convnext-backbones pretrain`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("pretrain"))
