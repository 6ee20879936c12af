"""A segmentor and a detector of transformers with our backbone, trained for some steps on the sample data."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from convnext_backbones.adapters.huggingface import ConvNeXtBackboneConfig
from convnext_backbones.runs.sample_data import SEGMENTATION_CLASSES, SHAPES, make_sample_data

SIZE, BATCH, WIDTHS = 128, 4, [16, 32, 64, 96]
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    make_sample_data(root, train=16, val=1)
    return root


def backbone(first):
    return ConvNeXtBackboneConfig(
        version=2, depths=[1, 1, 2, 1], hidden_sizes=WIDTHS, out_indices=list(range(first, 5))
    )


def pixels(file):
    picture = Image.open(file).convert("RGB").resize((SIZE, SIZE))
    values = torch.from_numpy(np.asarray(picture) / 255).float()
    return ((values - MEAN) / STD).permute(2, 0, 1)


def train(model, batches, steps, lr):
    """The loss of every step."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=lr, weight_decay=0.05)
    losses = []
    for step in range(steps):
        loss = model(**batches[step % len(batches)]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 10 == 0:
            print(f"{type(model).__name__} step {step:3d} loss {losses[-1]:.3f}")
    return losses


@pytest.mark.slow
def test_upernet_learns_the_sample_data(data):
    root = data / "ade" / "ADEChallengeData2016"
    files = sorted((root / "images" / "training").glob("*.jpg"))
    examples = []
    for file in files:
        label = Image.open(root / "annotations" / "training" / f"{file.stem}.png")
        label = torch.from_numpy(np.array(label.resize((SIZE, SIZE), Image.Resampling.NEAREST)))
        label = torch.where(label == 0, 255, label.long() - 1)  # 0 is not labelled
        examples.append({"pixel_values": pixels(file), "labels": label})
    batches = [
        {
            key: torch.stack([example[key] for example in examples[i : i + BATCH]])
            for key in examples[0]
        }
        for i in range(0, len(examples), BATCH)
    ]
    config = transformers.UperNetConfig(
        backbone_config=backbone(1), hidden_size=32, auxiliary_in_channels=WIDTHS[2],
        auxiliary_channels=16, num_labels=len(SEGMENTATION_CLASSES),
    )  # fmt: skip
    losses = train(transformers.UperNetForSemanticSegmentation(config), batches, steps=60, lr=1e-3)
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])


@pytest.mark.slow
def test_rt_detr_learns_the_sample_data(data):
    root = data / "coco"
    content = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    numbers = {category["id"]: k for k, category in enumerate(content["categories"])}
    examples = []
    for image in content["images"]:
        scale = torch.tensor([image["width"], image["height"]] * 2)
        own = [
            a for a in content["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]
        ]
        boxes = torch.tensor([a["bbox"] for a in own]) / scale  # x, y, width, height
        boxes[:, :2] += boxes[:, 2:] / 2
        labels = torch.tensor([numbers[a["category_id"]] for a in own])
        examples.append((pixels(root / "train2017" / image["file_name"]), {"class_labels": labels, "boxes": boxes}))  # fmt: skip
    batches = []
    for i in range(0, len(examples), BATCH):
        images, labels = zip(*examples[i : i + BATCH], strict=True)
        batches.append({"pixel_values": torch.stack(images), "labels": list(labels)})
    config = transformers.RTDetrConfig(
        backbone_config=backbone(2), encoder_in_channels=WIDTHS[1:], encoder_hidden_dim=64, d_model=64,
        encoder_ffn_dim=128, decoder_ffn_dim=128, encoder_attention_heads=4, decoder_attention_heads=4,
        decoder_in_channels=[64] * 3, decoder_layers=2, num_queries=30, num_denoising=20,
        num_labels=len(SHAPES),
    )  # fmt: skip
    losses = train(transformers.RTDetrForObjectDetection(config), batches, steps=80, lr=5e-4)
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
