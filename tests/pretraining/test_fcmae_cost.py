"""What a step of FCMAE costs beside one of the classifier of the same network."""

import time

import pytest
import torch
from torch.nn import functional as F

from convnext_backbones import create_classifier
from convnext_backbones.pretraining import FCMAE


@pytest.mark.slow
def test_a_step_costs_at_most_1_3_times_a_plain_training_step():
    torch.manual_seed(0)
    images, labels = torch.randn(16, 3, 224, 224), torch.randint(0, 1000, (16,))
    model, classifier = FCMAE("atto"), create_classifier("convnextv2_atto")
    steps = [
        lambda: model(images).loss.backward(),
        lambda: F.cross_entropy(classifier(images), labels).backward(),
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that the processor's time is the step's
    try:
        ratios = []
        while (
            len(ratios) < 3 and min(ratios, default=2) > 1.3
        ):  # a busy machine's caches are others', too
            ratios.append(ratio_of(steps))
    finally:
        torch.set_num_threads(threads)
    assert min(ratios) <= 1.3


def ratio_of(steps) -> float:
    """The first one's best time over the second's."""
    best = [float("inf")] * 2
    for _ in range(8):
        for k, step in enumerate(steps):
            before = time.process_time()
            step()
            best[k] = min(best[k], time.process_time() - before)
    return best[0] / best[1]
