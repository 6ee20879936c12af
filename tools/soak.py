"""Train while killing, filling disks and damaging files, and count what was lost."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("soak"))
