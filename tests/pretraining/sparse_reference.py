"""FCMAE as the official code computes it: lists of visible positions, and nothing at any other.

Weights are in the official file's names and shapes (sparse kernels of MinkowskiEngine), so that what reads and
writes such files is held by the same numbers. Written from the paper and the facts of the official repository;
GRN pools over each image, as the paper's formula says.
"""

import torch
from torch.nn import functional as F

EPS = 1e-6


class Positions:
    """The visible positions of all images at one stride: (image, row, column), and values (count, C)."""

    def __init__(self, places):
        self.places = places
        self.index = {place: k for k, place in enumerate(places)}
        self.image = torch.tensor([place[0] for place in places])

    def neighbours(self, dy, dx):
        """Which position lies dy, dx away; the count of positions for none."""
        none = len(self.places)
        return torch.tensor([self.index.get((n, y + dy, x + dx), none) for n, y, x in self.places])


def loss_and_prediction(w, images, mask, depths, unit, patch=4):
    """w: official names to tensors. images: (N, C, H, W). mask: (N, units), 1 where removed."""
    n, _channels, height, width = images.shape
    rows, columns = height // unit, width // unit
    seen = [
        (i, u // columns, u % columns)
        for i in range(n)
        for u in range(rows * columns)
        if not mask[i, u]
    ]

    def at(stride):
        k = unit // stride
        return Positions(
            [(i, y * k + a, x * k + b) for i, y, x in seen for a in range(k) for b in range(k)]
        )

    # the stem, patch by patch
    here = at(patch)
    patches = torch.stack(
        [
            images[i, :, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            for i, y, x in here.places
        ]
    )
    stem = w["encoder.downsample_layers.0.0.weight"]
    x = patches.flatten(1) @ stem.flatten(1).T + w["encoder.downsample_layers.0.0.bias"]
    x = norm(x, w, "encoder.downsample_layers.0.1")
    stride = patch
    for i, depth in enumerate(depths):
        if i > 0:
            x, here, stride = downsampled(x, here, at(stride * 2), w, i), at(stride * 2), stride * 2
        for j in range(depth):
            x = block(x, here, w, f"encoder.stages.{i}.{j}")
    # dense again
    dense = x.new_zeros(n, x.shape[1], rows, columns)
    for k, (i, y, c) in enumerate(here.places):
        dense[i, :, y, c] = x[k]
    dense = F.conv2d(dense, w["proj.weight"], w["proj.bias"])
    removed = mask.view(n, 1, rows, columns)
    dense = dense * (1 - removed) + w["mask_token"] * removed
    j = 0
    while f"decoder.{j}.dwconv.weight" in w:
        dense, j = decoder_block(dense, w, f"decoder.{j}"), j + 1
    predicted = F.conv2d(dense, w["pred.weight"], w["pred.bias"]).flatten(2).transpose(1, 2)
    errors = []
    for i in range(n):
        for u in range(rows * columns):
            if mask[i, u]:
                y, c = u // columns * unit, u % columns * unit
                pixels = images[i, :, y : y + unit, c : c + unit].permute(1, 2, 0).flatten()
                target = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
                errors.append(((predicted[i, u] - target) ** 2).mean())
    return torch.stack(errors).mean(), predicted


def norm(x, w, name):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], EPS)


def block(x, here, w, name):
    """Each visible position sees the visible ones around it."""
    shortcut, kernel = x, w[f"{name}.dwconv.kernel"]
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
    y = w[f"{name}.dwconv.bias"].expand_as(x)
    for k in range(49):  # kernels count column by column
        y = y + padded[here.neighbours(k % 7 - 3, k // 7 - 3)] * kernel[k]
    y = norm(y, w, f"{name}.norm.ln")
    y = F.gelu(F.linear(y, w[f"{name}.pwconv1.linear.weight"], w[f"{name}.pwconv1.linear.bias"]))
    if f"{name}.grn.gamma" in w:
        pooled = torch.stack(
            [y[here.image == i].square().sum(0).sqrt() for i in range(int(here.image.max()) + 1)]
        )
        pooled = pooled / (pooled.mean(1, keepdim=True) + EPS)
        y = w[f"{name}.grn.gamma"] * (y * pooled[here.image]) + w[f"{name}.grn.beta"] + y
    y = F.linear(y, w[f"{name}.pwconv2.linear.weight"], w[f"{name}.pwconv2.linear.bias"])
    if f"{name}.gamma" in w:
        y = w[f"{name}.gamma"] * y
    return shortcut + y


def downsampled(x, here, there, w, i):
    """Four visible positions to one; kernels (4, in, out) count column by column."""
    x = norm(x, w, f"encoder.downsample_layers.{i}.0.ln")
    y = w[f"encoder.downsample_layers.{i}.1.bias"]
    for k in range(4):
        dx, dy = divmod(k, 2)
        four = [here.index[(n, 2 * r + dy, 2 * c + dx)] for n, r, c in there.places]
        y = y + x[four] @ w[f"encoder.downsample_layers.{i}.1.kernel"][k]
    return y


def decoder_block(x, w, name):
    y = F.conv2d(
        x, w[f"{name}.dwconv.weight"], w[f"{name}.dwconv.bias"], padding=3, groups=x.shape[1]
    )
    y = norm(y.permute(0, 2, 3, 1), w, f"{name}.norm")
    y = F.gelu(F.linear(y, w[f"{name}.pwconv1.weight"], w[f"{name}.pwconv1.bias"]))
    pooled = y.square().sum((1, 2), keepdim=True).sqrt()
    pooled = pooled / (pooled.mean(-1, keepdim=True) + EPS)
    y = w[f"{name}.grn.gamma"] * (y * pooled) + w[f"{name}.grn.beta"] + y
    y = F.linear(y, w[f"{name}.pwconv2.weight"], w[f"{name}.pwconv2.bias"])
    return x + y.permute(0, 3, 1, 2)
