"""Networks of a few thousand weights, ready for export."""

from randomness import randomised

from convnext_backbones.export.named import of_backbone, of_classifier
from convnext_backbones.network.classifier import ConvNeXtClassifier
from convnext_backbones.network.convnext import ConvNeXt, ConvNeXtV2

ARCH = dict(depths=(1, 1), dims=(8, 16))


def backbone(version=2, **options):
    kind = ConvNeXtV2 if version == 2 else ConvNeXt
    return of_backbone(randomised(kind(ARCH, out_indices=(0, 1), **options)))


def classifier(version=1):
    return of_classifier(randomised(ConvNeXtClassifier(ARCH, version=version, num_classes=5)))
