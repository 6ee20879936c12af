"""Write the generated data set: `convnext-backbones sample-data`."""

import sys

from convnext_backbones.cli import run

if __name__ == "__main__":
    sys.exit(run("sample_data"))
