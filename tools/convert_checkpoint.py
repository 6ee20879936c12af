"""A checkpoint in the names and shapes of another source: `convnext-backbones convert`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("convert"))
