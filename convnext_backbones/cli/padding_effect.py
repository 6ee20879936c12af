"""How far the padding of a batch changes a backbone's maps, with and without ignore_padding.

    convnext-backbones padding-effect
    convnext-backbones padding-effect convnextv2_base --weights FILE_OR_NAME --images FOLDER

MMDetection and Detectron2 pad the normalised pixels with zeros to the largest picture of the batch
and up to a multiple of 32. The table gives the difference between a picture's map in such a batch
and the map that it has alone, unpadded: its norm over the norm of the latter, over the positions at
least --margin pixels away from the padding. What is left there of V1, which has no GRN, its
convolutions carried that far.

Without --weights the weights are random, GRN's too, so that GRN matters; how much it matters in a
trained network, only trained weights tell.
"""

from ..errors import UserError
from ..network.variants import VARIANTS, nearest
from . import make_parser

NETWORKS = ("convnext_tiny", "convnextv2_atto", "convnextv2_tiny", "convnextv2_base")


def parse_args(argv):
    parser = make_parser("padding-effect", __doc__)
    parser.add_argument("networks", nargs="*", help=f"default: {' '.join(NETWORKS)}")
    parser.add_argument("--weights", help="of the one network: file, folder, URL or name")
    parser.add_argument("--images", help="folder of pictures; default: generated ones")
    parser.add_argument("--limit", type=int, default=3, help="most pictures taken; default 3")
    parser.add_argument("--scale", type=float, default=1.0, help="of all sides; default 1")
    parser.add_argument("--margin", type=int, default=128, help="in pixels; default 128")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    args = parser.parse_args(argv)
    args.networks = args.networks or list(NETWORKS)
    if args.weights and len(args.networks) != 1:
        parser.error("--weights needs the name of its one network, e.g. convnextv2_base")
    if args.limit < 1 or args.scale <= 0 or args.margin < 0:
        parser.error("--limit begins at 1, --scale above 0, --margin at 0")
    for name in args.networks:
        if name not in VARIANTS:
            parser.error(f"unknown network {name!r}; {nearest(name, VARIANTS)}")
    return args


def main(argv=None):
    args = parse_args(argv)
    import torch

    from ..create import create_backbone
    from ..lab.padding_effect import BATCHES, generated, measure

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    images = read(args.images, args.limit) if args.images else generated()[: args.limit]
    for name in args.networks:
        model = create_backbone(name, out_indices=(0, 1, 2, 3)).eval()
        print(f"\n{name}: {weights_of(model, args.weights)}")
        stages = "".join(f"{stage:>9}" for stage in model.out_features)
        print(f"{'batch':32}{'padding':>8}  ignore_padding{stages}")
        model.to(device)
        for batch in BATCHES:
            padding, off, on = measure(model, images, batch, args.scale, args.margin)
            print(f"{batch.name:32}{padding:8.0%}  {'off':14}{_columns(off)}")
            print(f"{'':42}{'on':14}{_columns(on)}", flush=True)


def _columns(differences):
    return "".join(f"{difference:9.2g}" for difference in differences)


def weights_of(model, source):
    """Load the weights, or draw some under which every layer matters; what they are, in words."""
    from ..checkpoints import load_pretrained
    from ..lab.random_weights import fill_randomly

    if source:
        return str(load_pretrained(model, source))
    fill_randomly(model)
    return "random weights"


def read(source, limit):
    from pathlib import Path

    from PIL import Image

    from ..data.pictures import picture_files, read_picture

    path = Path(source)
    files = picture_files(path) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise UserError(f"there is no picture or folder {source}, or the folder holds no pictures")
    return [Image.fromarray(read_picture(file)) for file in files[:limit]]
