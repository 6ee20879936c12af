"""Convert a ConvNeXt checkpoint of any source into the names and shapes of another.

    python tools/convert_checkpoint.py convnextv2_tiny_1k_224_ema.pt FOLDER --to huggingface
    python tools/convert_checkpoint.py mask_rcnn.pth backbone.pth --to official

SOURCE is a file, a Hugging Face folder, a URL, or a name of the catalogue such as
convnextv2_tiny.fcmae_ft_in1k. The values stay as they are, bit for bit.
"""

import argparse

from ..checkpoints import convert_checkpoint
from ..checkpoints.conversion import TARGETS


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument(
        "destination", help="a .pth, .pt, .bin or .safetensors file; for huggingface a folder"
    )
    parser.add_argument("--to", required=True, choices=TARGETS)
    parser.add_argument(
        "--prefix", help="where the file holds several networks: their names' start"
    )
    parser.add_argument("--section", help="take this entry of the file, e.g. model_ema")
    parser.add_argument("--overwrite", action="store_true", help="replace DESTINATION if it exists")
    return parser.parse_args()


def main():
    args = parse_args()
    print(
        convert_checkpoint(
            args.source,
            args.destination,
            args.to,
            prefix=args.prefix,
            section=args.section,
            overwrite=args.overwrite,
        )
    )
