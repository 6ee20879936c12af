"""An FCMAE's weights in the official code's names and shapes, both ways, its decoder included.

The encoder is the layout `fcmae` of checkpoints/layouts.py. proj, mask_token, decoder and pred are named alike;
only the decoder's GRN has another shape there.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..checkpoints.inspection import Inspected, inspect_content, sections_of
from ..checkpoints.layouts import AS_4D, LAYOUTS, to_layout
from ..checkpoints.loading import judge_inspected, load_inspected
from ..checkpoints.reading import read_path
from ..checkpoints.sources import locate
from ..errors import CheckpointError
from .fcmae import FCMAE

ENCODER = LAYOUTS["fcmae"].prefix


def official_state(model: FCMAE) -> dict[str, Tensor]:
    """The model's weights as facebookresearch/ConvNeXt-V2 saves them under "model"."""
    encoder, left = to_layout(model.encoder.state_dict(), "fcmae", version=model.encoder.version)
    assert not left, left
    decoder = {
        name: AS_4D.theirs(value) if ".grn." in name else value
        for name, value in model.state_dict().items()
        if not name.startswith(ENCODER)
    }
    return {name: value.detach().cpu().clone() for name, value in (encoder | decoder).items()}


def load_fcmae(model: FCMAE, source: str | Path) -> str:
    """Load a checkpoint into the model, all of it or nothing; the verdict, in lines.

    A file that holds a ConvNeXt alone, as most do, gives the encoder; the decoder then stays as it is.

    Args:
        source: anything that load_pretrained reads.

    Raises:
        CheckpointError: as load_pretrained; or a decoder of another shape. The model is as it was.
    """
    located = locate(source)
    content = read_path(located.path)
    file = inspect_content(content, located)
    judge_inspected(model.encoder, file)
    decoder = _decoder_of(model, content, file)
    if decoder:
        model.load_state_dict(decoder, strict=False)
    report = load_inspected(model.encoder, file)
    return f"{report}\n  decoder: {'loaded, too' if decoder else 'new, as the file has none'}"


def _decoder_of(model: FCMAE, content: Mapping, file: Inspected) -> dict[str, Tensor]:
    """What of the file goes beside the encoder, in our names and shapes; nothing where it has none of it."""
    if not file.prefix.endswith(ENCODER):
        return {}
    root = file.prefix.removesuffix(ENCODER)
    state = next(s.state for s in sections_of(content) if s.place == file.section)
    wanted = {n: p for n, p in model.named_parameters() if not n.startswith(ENCODER)}
    parts = tuple({name.split(".")[0] for name in wanted})
    theirs = {
        name.removeprefix(root): value
        for name, value in state.items()
        if name.startswith(root) and name.removeprefix(root).split(".")[0] in parts
    }
    theirs = {n: AS_4D.ours(value) if ".grn." in n else value for n, value in theirs.items()}
    if not theirs:
        return {}
    problems = [f"{n} is missing" for n in wanted if n not in theirs]
    problems += [f"{n} has no place in the model" for n in theirs if n not in wanted]
    for name in filter(theirs.__contains__, wanted):
        value, shape = theirs[name], tuple(wanted[name].shape)
        if tuple(value.shape) != shape:
            problems.append(f"{name} is {tuple(value.shape)}, the model's {shape}")
        elif not value.is_floating_point() or not value.isfinite().all():
            problems.append(f"{name} holds what are no finite numbers")
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{file.source}: its decoder does not fit the model. Nothing was loaded: "
            f"{'; '.join(problems[:3])}{more}. Build the FCMAE with its decoder_depth, decoder_dim and in_channels, "
            "or give a file of the encoder alone"
        )
    return theirs
