"""THE table of how FCMAE is trained: the published run, and one for few pictures.

published   arXiv:2301.00808, appendix A.1, and facebookresearch/ConvNeXt-V2, main_pretrain.py and TRAINING.md
small       not published: this project's, for some hundreds to some ten thousand pictures
"""

import math
from typing import NamedTuple


class PretrainingRecipe(NamedTuple):
    """How FCMAE is trained.

    lr: the learning rate of a whole batch of `batch` pictures; scaling: how it follows another batch,
    "linear" or "root". epochs and warmup: passes over the pictures, warm-up as a share of them, cosine to 0 after
    it. smallest_crop: the least share of a picture's area that a crop has.
    """

    lr: float
    batch: int
    scaling: str
    epochs: int
    warmup: float
    weight_decay: float
    betas: tuple[float, float]
    smallest_crop: float
    source: str

    def rate(self, batch: int) -> float:
        """The learning rate of a whole batch of so many pictures."""
        share = batch / self.batch
        return self.lr * (math.sqrt(share) if self.scaling == "root" else share)


PUBLISHED = PretrainingRecipe(
    lr=1.5e-4 * 4096 / 256,
    batch=4096,
    scaling="linear",
    epochs=800,  # 1600 for the paper's final models
    warmup=40 / 800,
    weight_decay=0.05,
    betas=(0.9, 0.95),
    smallest_crop=0.2,
    source="published (arXiv:2301.00808, appendix A.1)",
)
# A batch of 4096 of a thousand pictures does not exist, and the linear rule leaves a batch of 64 a rate of 4e-5:
# AdamW moves a weight by about its rate in a step, so that the few thousand steps of such a run would hardly
# leave the start. Its rate follows the root of the batch (arXiv:2205.10287): 3e-4 for 64. V2-Atto on the
# generated pictures of 96x96, batch 64, has a loss of 0.80 after 44 steps with it, and of 0.95 with 4e-5. All else
# is published, the warm-up as the same share of the run; 400 epochs are 2000 steps of 320 pictures.
SMALL = PUBLISHED._replace(
    scaling="root", epochs=400, source="for few pictures: this project's, not published"
)
PRETRAINING = {"published": PUBLISHED, "small": SMALL}
FEW = 100_000  # pictures, below which a run takes the recipe for few


def pretraining_recipe(pictures: int, name: str | None = None) -> PretrainingRecipe:
    """The recipe of a name, or that for so many pictures."""
    return PRETRAINING[name or ("small" if pictures < FEW else "published")]
