"""One page of a run, or of several beside each other: `convnext-backbones report`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("report"))
