"""Learning from pictures without labels, and what was learned: FCMAE.

    model = FCMAE("atto")
    loss, prediction, mask = model(images)

`convnext-backbones pretrain` is a whole run; docs/pretraining.md.
"""

from .fcmae import FCMAE, Reconstruction

__all__ = ["FCMAE", "Reconstruction"]
