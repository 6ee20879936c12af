"""Write configs/ and docs/model_zoo.md from the table of recipes."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("make_configs"))
