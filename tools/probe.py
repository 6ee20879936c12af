"""What frozen features tell of your classes: `convnext-backbones probe`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("probe"))
