"""Show what a config trains, before it does: beside the table's recipe, and on your devices and data."""

import sys

from convnext_backbones.cli.show_recipe import main
from convnext_backbones.errors import exit_with_sentence

if __name__ == "__main__":
    with exit_with_sentence():
        if status := main():
            sys.exit(status)
