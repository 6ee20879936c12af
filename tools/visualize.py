"""Look inside a network: `convnext-backbones visualize`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("visualize"))
