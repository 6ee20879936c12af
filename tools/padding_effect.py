"""How far the padding of a batch changes a backbone's maps, with and without ignore_padding."""

import sys

from convnext_backbones.cli.padding_effect import main
from convnext_backbones.errors import exit_with_sentence

if __name__ == "__main__":
    with exit_with_sentence():
        if status := main():
            sys.exit(status)
