"""Train a detector or segmentor in Detectron2: any YAML config or LazyConfig, on CPU or GPU."""

import sys

from convnext_backbones.cli.train_detectron2 import main
from convnext_backbones.errors import exit_with_sentence

if __name__ == "__main__":
    with exit_with_sentence():
        if status := main():
            sys.exit(status)
