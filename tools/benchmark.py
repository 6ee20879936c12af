"""Time and memory of ConvNeXt beside the other implementations: `convnext-backbones benchmark`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("benchmark"))
