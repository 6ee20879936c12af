"""What an exported .onnx file sees in pictures, as JSON, with ONNX Runtime, NumPy and Pillow alone.

python serve_onnx.py FILE.onnx a.jpg b.jpg --batch 2 --throughput
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model")
parser.add_argument("pictures", nargs="+")
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--throughput", action="store_true", help="for many pictures, not for one")
args = parser.parse_args()
options = onnxruntime.SessionOptions()
options.execution_mode = onnxruntime.ExecutionMode(int(args.throughput))  # 1: branches in parallel
session = onnxruntime.InferenceSession(args.model, options)
about = json.loads(session.get_modelmeta().custom_metadata_map["convnext_backbones"])
resize, step = about.get("resize"), about["multiple"]
pad = about.get("pad") or {"size": about["size"] or (1, 1), "value": about["mean"]}
for start in range(0, len(args.pictures), args.batch):
    files, images = args.pictures[start : start + args.batch], []
    for image in (Image.open(file).convert("RGB") for file in files):
        long, short = max(image.size), min(image.size)
        factor = min(resize["long"] / long, resize["short"] / short) if resize else 1.0
        size = int(image.width * factor + 0.5), int(image.height * factor + 0.5)
        images.append(np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32))
    sides = [max(pad["size"][k], *(x.shape[k] for x in images)) for k in (0, 1)]
    sides = [-(-side // step) * step for side in sides]
    batch = np.full((len(images), *sides, 3), pad["value"], np.float32)
    for k, image in enumerate(images):
        batch[k, : image.shape[0], : image.shape[1]] = image
    found = session.run(about["outputs"], {"images": batch.transpose(0, 3, 1, 2)})
    for k, file in enumerate(files):
        outputs = {name: found[n][k].tolist() for n, name in enumerate(about["outputs"])}
        print(json.dumps({"file": file, **outputs}))
