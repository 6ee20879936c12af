"""Draw what a trained model sees in pictures: `convnext-backbones predict`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("predict"))
