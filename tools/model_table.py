"""Published figures beside counted ones: parameters and multiply-accumulates of every network."""

import sys

from convnext_backbones.cli.model_table import main
from convnext_backbones.errors import exit_with_sentence

if __name__ == "__main__":
    with exit_with_sentence():
        if status := main():
            sys.exit(status)
