"""Check the Triton kernels, choose their tiles, and write down where they are faster. Needs a GPU."""

import sys

from convnext_backbones.cli.tune_kernels import main
from convnext_backbones.errors import exit_with_sentence

if __name__ == "__main__":
    with exit_with_sentence():
        if status := main():
            sys.exit(status)
