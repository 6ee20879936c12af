"""Write the generated sample data set in COCO's and ADE20K's layouts."""

import sys

from convnext_backbones.cli.sample_data import main
from convnext_backbones.errors import exit_with_sentence

if __name__ == "__main__":
    with exit_with_sentence():
        if status := main():
            sys.exit(status)
