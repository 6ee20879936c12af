"""Evaluate a trained checkpoint on its config's test data: `convnext-backbones test`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("test"))
