"""`python -m convnext_backbones` is `convnext-backbones`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
