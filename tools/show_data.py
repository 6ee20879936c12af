"""Draw training samples as the network is given them: `convnext-backbones show-data`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("show_data"))
