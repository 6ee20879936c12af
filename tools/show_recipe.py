"""Show what a config trains, before it does: `convnext-backbones show-recipe`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("show_recipe"))
