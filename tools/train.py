"""Train a detector or segmentor: any config of MMDetection or MMSegmentation, on CPU or GPU."""

import sys

from convnext_backbones.cli.train import main
from convnext_backbones.errors import exit_with_sentence

if __name__ == "__main__":
    with exit_with_sentence():
        if status := main():
            sys.exit(status)
