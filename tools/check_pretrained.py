"""What a checkpoint is, and whether it loads whole: `convnext-backbones check-weights`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("check_weights"))
