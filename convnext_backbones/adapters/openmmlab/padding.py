"""The sizes of the images in MMDetection's and MMSegmentation's batches, for ignore_padding=True.

Their models give the backbone the padded batch alone. The data preprocessor that makes the batch,
in training, testing, test-time augmentation and single predictions alike, has the sizes in its data
samples.
"""

import functools

from torch import Tensor

from ...network.padding import note_image_sizes


def noting_sizes(preprocess):
    """A data preprocessor's __call__ that also notes img_shape for the batch it returns."""

    @functools.wraps(preprocess)
    def noting(self, *args, **kwargs):
        data = preprocess(self, *args, **kwargs)
        if isinstance(data, dict) and isinstance(data.get("inputs"), Tensor):
            samples = data.get("data_samples") or []
            if samples and all("img_shape" in sample for sample in samples):
                note_image_sizes(data["inputs"], [tuple(s.img_shape[:2]) for s in samples])
        return data

    return noting
