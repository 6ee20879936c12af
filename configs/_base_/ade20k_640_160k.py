# ADE20K: data, schedule and hooks of the recipes of this name
# Data     scale 0.5 to 2.0, crop 640x640, flip, colour
# Batch    8 GPUs x 2 images = 16
# Schedule 160000 steps * 16 images / 20210 images = 127 epochs; warm-up over 1500 steps from 1e-6
#          of lr; lr falls to 0 with power 1
# An empty _base_ comes first, as MMEngine takes a file that begins with an import for another
# kind of config.
_base_ = "ade20k_160k.py"
from convnext_backbones.recipes import protocol_of

protocol = protocol_of("ade20k_640_160k")

# ---- data ----------------------------------------------------------------------------------------
crop_size = protocol["crop_size"]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(
        type="RandomResize",
        scale=protocol["scale"],
        ratio_range=protocol["ratio_range"],
        keep_ratio=True,
    ),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=protocol["scale"], keep_ratio=True),
    dict(type="LoadAnnotations", reduce_zero_label=True),  # after Resize: labels keep their size
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
