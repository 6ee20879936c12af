"""Measure our ConvNeXt against timm, transformers, torchvision and, where found, MMPretrain and the"""

import sys

from convnext_backbones.cli.benchmark import main
from convnext_backbones.errors import exit_with_sentence

if __name__ == "__main__":
    with exit_with_sentence():
        if status := main():
            sys.exit(status)
