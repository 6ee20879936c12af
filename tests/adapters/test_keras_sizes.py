"""Keras: all published sizes agree with the PyTorch networks, each with random weights."""

import gc
import os
from pathlib import Path

import pytest
import torch
from randomness import random_images, random_state, relative_difference

from convnext_backbones import VARIANTS

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
adapter = pytest.importorskip("convnext_backbones.adapters.keras", exc_type=ImportError)

import keras  # noqa: E402

from convnext_backbones.adapters.keras.weights import load_inspected, torch_twin  # noqa: E402
from convnext_backbones.checkpoints.inspection import inspect_content  # noqa: E402
from convnext_backbones.checkpoints.sources import Located  # noqa: E402

QUICK = ("convnext_atto", "convnextv2_atto")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS]
)
def test_a_size_gives_the_torch_networks_numbers(name):
    model = adapter.KerasConvNeXtClassifier(name)
    assert model.count_params() == VARIANTS[name].classifier_params
    twin = torch_twin("classifier", model.options())
    state = random_state(twin)
    twin.load_state_dict(state, assign=True)
    report = load_inspected(model, inspect_content(state, Located(Path(name), None, name)))
    assert report.share == 1
    pixels = random_images(1, 3, 64, 64)
    with torch.no_grad():
        features = twin.eval().forward_features(pixels)
        logits = twin.head(features.pooler_output)
    output = model(pixels.numpy(), output_hidden_states=True)
    pairs = [
        (output.logits, logits),
        *zip(output.hidden_states, features.hidden_states, strict=True),
    ]
    differences = [
        relative_difference(torch.from_numpy(keras.ops.convert_to_numpy(ours).copy()), theirs)
        for ours, theirs in pairs
    ]
    print(f"{name}: {max(differences):.1e}")
    assert max(differences) < 1e-5
    del model, twin, state, report, output, pairs
    keras.backend.clear_session()
    gc.collect()
