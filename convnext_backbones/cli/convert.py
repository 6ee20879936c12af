"""Convert a ConvNeXt checkpoint of any source into the names and shapes of another.

    convnext-backbones convert convnextv2_tiny_1k_224_ema.pt FOLDER --to huggingface
    convnext-backbones convert mask_rcnn.pth backbone.pth --to official

SOURCE is a file, a Hugging Face folder, a URL, or a name of the catalogue such as
convnextv2_tiny.fcmae_ft_in1k. The values stay as they are, bit for bit.
"""

from . import make_parser

TARGETS = ("official", "huggingface", "timm", "mmpretrain", "torchvision")


def parse_args(argv):
    parser = make_parser("convert", __doc__)
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument(
        "destination",
        metavar="DESTINATION",
        help="a .pth, .pt, .bin or .safetensors file; for huggingface a folder",
    )
    parser.add_argument("--to", required=True, choices=TARGETS)
    parser.add_argument(
        "--prefix", help="where the file holds several networks: their names' start"
    )
    parser.add_argument("--section", help="take this entry of the file, e.g. model_ema")
    parser.add_argument("--overwrite", action="store_true", help="replace DESTINATION if it exists")
    return parser.parse_args(argv)


def main(argv=None) -> None:
    args = parse_args(argv)
    from ..checkpoints import convert_checkpoint

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
