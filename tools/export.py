"""Write a trained network for other runtimes, and check it: `convnext-backbones export`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("export"))
