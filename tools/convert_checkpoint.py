"""Convert a ConvNeXt checkpoint of any source into the names and shapes of another."""

import sys

from convnext_backbones.cli.convert_checkpoint import main
from convnext_backbones.errors import exit_with_sentence

if __name__ == "__main__":
    with exit_with_sentence():
        if status := main():
            sys.exit(status)
