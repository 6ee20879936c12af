"""Name what is wrong with a config's pictures and labels: `convnext-backbones check-data`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("check_data"))
