"""Evaluate a trained checkpoint on its config's test data."""

import sys

from convnext_backbones.cli.test import main
from convnext_backbones.errors import exit_with_sentence

if __name__ == "__main__":
    with exit_with_sentence():
        if status := main():
            sys.exit(status)
