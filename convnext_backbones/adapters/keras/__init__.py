"""ConvNeXt and ConvNeXt V2 in Keras 3, on its TensorFlow, JAX and PyTorch backends.

    backbone = KerasConvNeXt("convnextv2_tiny", out_indices=(0, 1, 2, 3), pretrained=...)
    stage1, stage2, stage3, stage4 = backbone(images)

    classifier = KerasConvNeXtClassifier("convnext_tiny", num_classes=10, drop_path_rate=0.1)
    classifier.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    classifier.fit(images, labels)

The weights are those of the PyTorch networks: any checkpoint that they load is loaded (weights.py), and
numbers agree to 1e-5. Calls are also taken as TFConvNextModel and TFConvNextForImageClassification of
transformers 4.37 took them (calls.py). Keras chooses its backend when it is imported: KERAS_BACKEND.
"""

import importlib.util
import os

from .triton_first import import_triton_first

import_triton_first()


def _backends_here() -> list[str]:
    names = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}
    return [name for name, module in names.items() if importlib.util.find_spec(module)]


try:
    import keras

    keras.Model  # noqa: B018  a folder of this name is no Keras, and can be imported
except (ImportError, AttributeError) as error:
    missing = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    if missing.split(".")[0] in ("", "keras"):
        raise ImportError(
            "convnext_backbones.adapters.keras needs Keras 3 and one of its backends: pip install keras "
            'tensorflow, or with KERAS_BACKEND="torch" keras alone'
        ) from error
    missing = missing.split(".")[0]
    raise ImportError(
        f"Keras is here and its backend is not: {missing} is missing. pip install {missing}, or choose "
        f"one that is here ({', '.join(_backends_here())}) before Keras is imported: "
        f'os.environ["KERAS_BACKEND"] = "{_backends_here()[-1]}"'
    ) from error

if int(keras.__version__.split(".")[0]) < 3:
    raise ImportError(
        f"convnext_backbones.adapters.keras needs Keras 3, this is {keras.__version__}; pip install -U "
        f"keras{', and leave out TF_USE_LEGACY_KERAS' if os.environ.get('TF_USE_LEGACY_KERAS') else ''}"
    )

from .calls import BackboneOutput, ClassifierOutput, ModelOutput  # noqa: E402
from .models import KerasConvNeXt, KerasConvNeXtClassifier, KerasConvNeXtModel  # noqa: E402
from .weights import load_pretrained, torch_state  # noqa: E402

__all__ = [
    "BackboneOutput",
    "ClassifierOutput",
    "KerasConvNeXt",
    "KerasConvNeXtClassifier",
    "KerasConvNeXtModel",
    "ModelOutput",
    "load_pretrained",
    "torch_state",
]
