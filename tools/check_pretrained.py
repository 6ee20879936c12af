"""What a checkpoint is, whether it loads whole, and whether it predicts what it should."""

import sys

from convnext_backbones.cli.check_pretrained import main
from convnext_backbones.errors import exit_with_sentence

if __name__ == "__main__":
    with exit_with_sentence():
        if status := main():
            sys.exit(status)
