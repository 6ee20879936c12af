"""Write docs/model_zoo.md from the table of recipes."""

import sys

from convnext_backbones.cli.model_zoo import main
from convnext_backbones.errors import exit_with_sentence

if __name__ == "__main__":
    with exit_with_sentence():
        if status := main():
            sys.exit(status)
