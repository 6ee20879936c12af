"""How far a batch's padding changes a backbone's maps: `convnext-backbones padding-effect`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("padding_effect"))
