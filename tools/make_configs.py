"""Write configs/ from the table of recipes: one file a recipe, and the headers of configs/_base_."""

import sys

from convnext_backbones.cli.make_configs import main
from convnext_backbones.errors import exit_with_sentence

if __name__ == "__main__":
    with exit_with_sentence():
        if status := main():
            sys.exit(status)
