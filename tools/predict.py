"""Draw what a trained model sees in a picture or in a folder of pictures."""

import sys

from convnext_backbones.cli.predict import main
from convnext_backbones.errors import exit_with_sentence

if __name__ == "__main__":
    with exit_with_sentence():
        if status := main():
            sys.exit(status)
