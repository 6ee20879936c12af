"""Write a config for a folder of pictures and labels: `convnext-backbones new-config`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("new_config"))
