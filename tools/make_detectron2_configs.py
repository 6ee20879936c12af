"""Write configs/detectron2 from the table of recipes: a LazyConfig and a YAML file a recipe."""

import sys

from convnext_backbones.cli.make_detectron2_configs import main
from convnext_backbones.errors import exit_with_sentence

if __name__ == "__main__":
    with exit_with_sentence():
        if status := main():
            sys.exit(status)
