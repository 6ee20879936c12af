"""A run that starts from the weights of another: what of a whole model fits one of other classes.

A detector or segmentor is loaded whole, but for what counts its classes, which stays new and is named, or
keeps the rows of the classes that both have. Whatever else does not fit is refused, since a run from half
of its weights trains on and says nothing.
"""

import math
import re
from argparse import Namespace
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoints import CheckpointError, framework_of_names, sources, whole_model, with_our_names
from ..checkpoints.inspection import describe
from ..checkpoints.loading import OUTPUT_NORM, not_needed
from ..checkpoints.sources import locate
from ..checkpoints.stem import STEM, fit_stem
from ..errors import UserError
from ..network.convnext import Trunk
from ..network.wrappers import name_in_state_dict

OPTIONS = (*sources.OPTIONS, "keep_classes")

# Layers whose outputs are the classes', by the hosts' names, where shapes do not tell: of heads that keep no
# count of classes, and where both models have as many.
CLASS_LAYER = re.compile(
    r"(^|\.)(conv_seg|fc_cls|fc_reg|conv_logits|cls_score|bbox_pred|predictor|cls_embed|class_embed|classifier"
    r"|label_embedding|(?!rpn_)\w+_cls|cls_branches)(\.\d+)*\.(weight|bias)$"
)
BOXES = re.compile(r"(fc_reg|bbox_pred)\.(weight|bias)$")  # four outputs a class, class by class


# ---- the command line ----------------------------------------------------------------------------
def check_options(args: Namespace) -> None:
    """UserError for what train's options of fine-tuning cannot be, before anything is built."""
    weights = getattr(args, "weights", None)
    if getattr(args, "keep_classes", False) and not weights:
        raise UserError("--keep-classes keeps rows of the heads in --weights FILE; give that too")
    if weights and args.resume:
        raise UserError(
            "--resume goes on from this run's own last checkpoint and --weights starts a new run; give one"
        )
    if weights:
        file, _ = split_options(weights)
        if "://" not in file:
            locate(file)  # says which names are near
    for option, least in (("freeze", 0), ("early_stop", 1)):
        value = getattr(args, option, None)
        if value is not None and value < least:
            raise UserError(f"--{option.replace('_', '-')} {value}: a whole number from {least} on")
    factor = getattr(args, "lr_factor", None)
    if factor is not None and not (math.isfinite(factor) and factor > 0):
        raise UserError(f"--lr-factor {factor:g}: a number above 0, such as 0.1")


def weights_of(args: Namespace) -> str | None:
    """--weights with what --keep-classes adds to it, as the hosts' configs take it."""
    weights = getattr(args, "weights", None)
    if not weights:
        return None
    file, query = weights, ""
    if split_options(weights)[1]:
        file, _, query = weights.rpartition("?")
    if "://" not in file and Path(file).expanduser().exists():
        file = str(Path(file).expanduser())
    parts = [query] if query else []
    parts += ["keep_classes=true"] if getattr(args, "keep_classes", False) else []
    return f"{file}?{'&'.join(parts)}" if parts else file


def split_options(path: str) -> tuple[str, dict[str, str]]:
    """As checkpoints' own, with keep_classes.

    prefix, section, stem: as load_pretrained's, for the ConvNeXt alone or an entry. keep_classes: rows of
    the heads for classes that both have.
    """
    file, options = sources.split_options(path, OPTIONS)
    keep = options.get("keep_classes", "true").lower()
    if keep not in ("true", "false", "1", "0", ""):
        raise UserError(f"{path}: keep_classes is true or false")
    if keep in ("false", "0"):
        del options["keep_classes"]
    return file, options


# ---- another run's weights -----------------------------------------------------------------------
@dataclass
class Fitted:
    """A file's whole model fitted to another.

    state: all of the model's parameters and buffers, the file's where it has them. new: clauses for what
    stays as the model had it. left: parts and parameters of the file that the model has no place for.
    """

    source: str
    state: dict[str, Tensor]
    loaded: int = 0
    new: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"weights: {self.source} is a checkpoint of this whole model",
            f"  loaded: {self.loaded} of {len(self.state)} parameters and buffers",
            f"  new: {some(self.new, 6, '; ') or 'nothing'}",
            f"  left over in the file: {some(self.left, 6) or 'nothing'}",
        ]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def fit_whole(
    model: nn.Module,
    content: Mapping,
    source: str,
    alone: str,
    *,
    section: str | None = None,
    stem: str | None = None,
    keep_classes: bool = False,
    names: Sequence[str] = (),
    names_in_file: Sequence[str] = (),
) -> Fitted | None:
    """What a file gives a whole model that holds a ConvNeXt; None where the file holds a ConvNeXt alone,
    which is load_pretrained's. The model is not changed.

    Args:
        model: with its initial weights, which what is new keeps.
        content: see read_checkpoint.
        source: what to call it in messages.
        alone: what to write for the file's ConvNeXt alone; ends the refusals.
        section: see whole_model.
        stem: see load_pretrained.
        keep_classes: give the classes that both have by name the rows that the file has for them.
        names: of the model's classes, in its order.
        names_in_file: of the file's.

    Raises:
        CheckpointError: another network or kind of model, a name or shape that differs for another
            reason than the count of classes, NaN or infinite numbers, no names to keep rows by.
    """
    wanted = model.state_dict()
    trunks = {name_in_state_dict(n): m for n, m in model.named_modules() if isinstance(m, Trunk)}
    prefixes = {f"{name}." if name else "": trunk for name, trunk in trunks.items()}
    prefix = next(iter(prefixes)) if len(prefixes) == 1 else None
    found = whole_model(content, source, section=section, prefix=prefix or "")
    theirs, ours = found.framework, framework_of_names(wanted)
    inside = (*prefixes, *(network.prefix for network in found.networks))
    if theirs is None and not any(n in wanted and not n.startswith(inside) for n in found.state):
        return None
    if theirs and theirs != ours:
        raise CheckpointError(
            f"{source}: this is a model of {theirs}, whose neck and heads have other names and other "
            f"inputs than {f'those of {ours}' if ours else 'this one'}. Nothing was loaded. {alone}"
        )
    state = with_our_names(found.state, source, into=prefix if len(found.networks) == 1 else None)
    foreign = sorted({network.layout.name for network in found.networks} - {"official"})
    notes = [f"its ConvNeXt had {', '.join(foreign)} names"] if foreign else []
    for start, trunk in prefixes.items():
        compare_networks(state, start, trunk, source)
        name, parameter = f"{start}{STEM}.weight", wanted.get(f"{start}{STEM}.weight")
        if stem and name in state and parameter is not None:
            state[name], said = fit_stem(state[name], parameter, stem, source)
            notes += [f"adapted: {said}"] if said else []
    problems, new, left = _compare_names(state, wanted, prefixes)
    shared = [n for n in wanted if n in state]
    classes = _Classes(model, names_in_file)
    differ = [n for n in shared if state[n].shape != wanted[n].shape]
    problems += [
        f"{n} is {tuple(state[n].shape)}, not {tuple(wanted[n].shape)}"
        for n in differ
        if n.startswith(tuple(prefixes)) or not classes.note(n, state[n], wanted[n])
    ]
    problems += [
        f"{n} holds {state[n].dtype}, not floating-point numbers"
        for n in shared
        if wanted[n].is_floating_point() and not state[n].is_floating_point()
    ]
    problems += classes.contradictions(state, wanted)
    refuse_misfits(source, problems, alone)
    refuse_not_finite({n: state[n] for n in shared}, source)

    result = {n: state[n] if n in state and n not in differ else v for n, v in wanted.items()}
    if keep_classes:
        line, mapped = _keep_rows(result, state, wanted, classes, names, names_in_file, source)
        notes.append(line)
        new += classes.sentences(but=mapped)
    else:
        new += classes.sentences()
        notes += _other_names(differ, names, names_in_file)
    return Fitted(source, result, len(shared) - len(differ), new, left, [*found.notes, *notes])


def refuse_misfits(source: str, problems: Sequence[str], advice: str) -> None:
    """UserError that names what does not fit."""
    if problems:
        raise CheckpointError(
            f"{source}: this is a checkpoint of another model. Nothing was loaded: "
            f"{some(problems, 3, '; ')}. {advice}"
        )


def refuse_not_finite(state: Mapping[str, Tensor], source: str) -> None:
    """UserError for weights that hold NaN or infinity."""
    bad = [n for n, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"{source}: holds NaN or infinite numbers in {len(bad)} of its {len(state)} parameters "
            f"({some(bad, 3)}): the run that saved it had diverged. Nothing was loaded; take an earlier "
            "checkpoint"
        )


def compare_networks(state: Mapping[str, Tensor], start: str, trunk: Trunk, source: str) -> None:
    """UserError that names both networks where the one whose names begin with `start` is not the model's."""
    theirs = describe({n.removeprefix(start): v for n, v in state.items() if n.startswith(start)})
    if not theirs.depths:
        return  # none under this name: missing parameters say so
    built = len(trunk.stages)
    wanted = trunk.version, trunk.depths[:built], trunk.dims[:built]
    if (theirs.version, theirs.depths[:built], theirs.dims[:built]) != wanted:
        ours = describe(trunk.state_dict())._replace(depths=trunk.depths, dims=trunk.dims)
        raise CheckpointError(
            f"{source}: the backbone of this checkpoint is {theirs}, the model's is {ours}. Nothing was "
            f"loaded: build the model with {theirs.variant or 'that network'}, or give a checkpoint with "
            f"{ours}"
        )


# ---- names ---------------------------------------------------------------------------------------
def _compare_names(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], prefixes: Mapping[str, Trunk]
) -> tuple[list[str], list[str], list[str]]:
    """Problems, what is new in the model, and what is left over in the file.

    A head that only one of the two has, such as Mask R-CNN's for masks beside Faster R-CNN, is new or
    left over; one that both have must have the same parameters.
    """

    def part_of(name: str) -> str:
        start = next((p for p in prefixes if name.startswith(p)), None)
        if start is not None:
            return start.rstrip(".")
        parts = name.split(".")
        return ".".join(parts[:2] if parts[0] in ("roi_head", "roi_heads") else parts[:1])

    def by_part(names: Mapping[str, Tensor]) -> dict[str, list[str]]:
        parts: dict[str, list[str]] = {}
        for name in names:
            if not name.endswith("num_batches_tracked"):  # old BatchNorms have none
                parts.setdefault(part_of(name), []).append(name)
        return parts

    ours, theirs = by_part(wanted), by_part(state)
    problems, new, left = [], [], []
    for part in dict.fromkeys([*ours, *theirs]):
        is_head = "head" in part.rpartition(".")[2]
        if part not in theirs and is_head:
            new.append(f"{part}, which the file does not have")
            continue
        if part not in ours and is_head:
            left.append(part)
            continue
        trunk = prefixes.get(f"{part}." if part else "")
        start = f"{part}." if part else ""
        has_norms = any(OUTPUT_NORM.match(n.removeprefix(start)) for n in theirs.get(part, ()))
        for name in ours.get(part, ()):
            if name in state:
                continue
            if (  # as pretrained weights have none, nor a detector with timm's backbone
                trunk is not None and not has_norms and OUTPUT_NORM.match(name.removeprefix(start))
            ):
                new.append(name)
            else:
                problems.append(f"{name} is missing in the file")
        for name in theirs.get(part, ()):
            if name in wanted:
                continue
            if trunk is not None and not_needed(name.removeprefix(start), state[name], None, trunk):
                left.append(name)
            else:
                problems.append(f"{name} has no place in the model")
    return problems, new, left


# ---- classes -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Rows:
    """How a parameter's first dimension counts classes: `times` * (classes + `background`)."""

    times: int
    background: int

    def order(self, name: str, count: int) -> Tensor:
        """The place in the first dimension of each class's outputs, (classes + background, times). The
        background's is the last, as in all heads of MMDetection 3, MMSegmentation and Detectron2."""
        rows = torch.arange(self.times * (count + self.background))
        if BOXES.search(name):
            return rows.view(count + self.background, self.times)
        return rows.view(self.times, count + self.background).t()  # anchor by anchor


class _Classes:
    """What in the heads of two models counts their classes.

    The module that a parameter belongs to says how many the model has (num_classes, as all heads of the
    hosts but few do); how many the file has follows from the shapes, which have to agree in each of them.
    """

    def __init__(self, model: nn.Module, names_in_file: Sequence[str]):
        self._modules = {name_in_state_dict(n): module for n, module in model.named_modules()}
        self._counts_in_file = {len(names_in_file)} - {0}
        self._noted: dict[
            str, dict[str, dict[int, _Rows]]
        ] = {}  # owner, parameter, count in the file
        self.counts: dict[
            str, tuple[int, int]
        ] = {}  # of a parameter: classes in the file, in the model
        self.rows: dict[str, _Rows] = {}

    def owner(self, name: str) -> tuple[str, int | None]:
        """The innermost module around a parameter that counts classes, and how many."""
        parts = name.split(".")[:-1]
        for length in range(len(parts), 0, -1):
            module = self._modules.get(".".join(parts[:length]))
            count = getattr(module, "num_classes", None)
            if isinstance(count, int) and not isinstance(count, bool) and count > 0:
                return ".".join(parts[:length]), count
        return "", None

    def note(self, name: str, theirs: Tensor, ours: Tensor) -> bool:
        """Whether the shapes can differ by the count of classes alone."""
        if not theirs.dim() == ours.dim() > 0 or theirs.shape[1:] != ours.shape[1:]:
            return False
        owner, count = self.owner(name)
        if count is None:  # a head that keeps no count: one output a class
            owner = name.rpartition(".")[0]
            found = {len(theirs): _Rows(1, 0)} if CLASS_LAYER.search(name) else {}
        else:
            found = dict(self._ways(name, len(theirs), len(ours), count))
        self._noted.setdefault(owner, {})[name] = found
        return bool(found)

    def _ways(self, name: str, theirs: int, ours: int, count: int) -> Iterator[tuple[int, _Rows]]:
        """Counts of the file's classes that the two lengths allow, and how they are laid out."""
        module = self._modules.get(name.rpartition(".")[0])
        for background in (1, 0):  # without, where both are possible
            times, rest = divmod(ours, count + background)
            if rest or not times or theirs % times or theirs // times <= background:
                continue
            if isinstance(module, nn.Embedding) and times > 1:  # queries, not classes
                continue
            yield theirs // times - background, _Rows(times, background)

    def contradictions(
        self, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
    ) -> list[str]:
        """What no one count of the file's classes explains; the others are settled."""
        problems = []
        for parameters in self._noted.values():
            common = set.intersection(*(set(ways) for ways in parameters.values()))
            if not common:
                problems += [
                    f"{n} is {tuple(state[n].shape)}, not {tuple(wanted[n].shape)}"
                    for n in parameters
                ]
                continue
            count = next(iter(common & self._counts_in_file), min(common))
            for name, ways in parameters.items():
                ours = self.owner(name)[1] or len(wanted[name])
                self.counts[name], self.rows[name] = (count, ours), ways[count]
        return problems

    def sentences(self, but: Collection[str] = ()) -> list[str]:
        """A clause for each layer that stays new."""
        layers = {}
        for name, (theirs, ours) in self.counts.items():
            layer = name.rpartition(".")[0]
            if layer not in but and theirs != ours:
                layers[layer] = f"{layer}: {theirs} -> {ours} classes"
        return list(layers.values())

    def unchanged(self, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
        """Note the class layers of heads that have as many classes in both."""
        for name, ours in wanted.items():
            if name in self.rows or name not in state or not CLASS_LAYER.search(name):
                continue
            count = self.owner(name)[1] or len(ours)
            if BOXES.search(name) and len(ours) != 4 * count:
                continue
            length = len(ours) if ours.dim() else 0
            ways = [
                _Rows(length // (count + background), background)
                for background in (0, 1)
                if length and length % (count + background) == 0
            ]
            if ways:
                self.counts[name] = count, count
                self.rows[name] = min(ways, key=lambda rows: rows.times)


def _keep_rows(
    result: dict[str, Tensor],
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    classes: _Classes,
    names: Sequence[str],
    names_in_file: Sequence[str],
    source: str,
) -> tuple[str, set[str]]:
    """Copy the rows of the classes that both have by name, and the background's, into `result`; a line
    that says which, and the layers."""
    if not names_in_file or not names:
        whose = (
            "the file names no classes" if not names_in_file else "this run's data name no classes"
        )
        raise CheckpointError(
            f"{source}: {whose}, by which rows of its heads could be kept; leave out --keep-classes "
            "(keep_classes=true), and the heads start new"
        )
    classes.unchanged(state, wanted)
    theirs = {_plain(name): row for row, name in enumerate(names_in_file)}
    pairs = [(theirs[_plain(n)], row) for row, n in enumerate(names) if _plain(n) in theirs]
    mapped = set()
    for name, rows in classes.rows.items():
        count_in_file, count = classes.counts[name]
        if (count_in_file, count) != (len(names_in_file), len(names)):
            continue  # a head that counts something else, such as stuff beside things
        value = wanted[name].clone()
        source_rows, own_rows = rows.order(name, count_in_file), rows.order(name, count)
        every = [*pairs, (count_in_file, count)] if rows.background else pairs
        for row_in_file, row in every:
            value[own_rows[row]] = state[name][source_rows[row_in_file]].to(value)
        result[name] = value
        mapped.add(name.rpartition(".")[0])
    if not mapped:
        raise CheckpointError(
            f"{source}: its file names {len(names_in_file)} classes and this run {len(names)}, and no layer "
            "of the heads counts these; leave out --keep-classes (keep_classes=true)"
        )
    kept = [name for name in names if _plain(name) in theirs]
    new = [name for name in names if _plain(name) not in theirs]
    line = (
        f"classes: {len(kept)} of {len(names)} kept by name ({some(kept, 6) or 'none'}), new: "
        f"{some(new, 6) or 'none'}; in {some(sorted(mapped), 4)}"
    )
    return line, mapped


def _other_names(
    differ: Sequence[str], names: Sequence[str], names_in_file: Sequence[str]
) -> list[str]:
    """A line where the heads fit, but their classes are others."""
    same = [_plain(n) for n in names] == [_plain(n) for n in names_in_file]
    if differ or not names or not names_in_file or same or len(names) != len(names_in_file):
        return []
    return [
        f"the file's {len(names)} classes are others ({some(names_in_file, 4)}) than this run's "
        f"({some(names, 4)}): the heads start with rows of other classes; --keep-classes takes those of "
        "the same name alone"
    ]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


def some(parts: Sequence[str], most: int, between: str = ", ") -> str:
    """The first parts in a row, and how many more there are."""
    more = f"{between}and {len(parts) - most} more" if len(parts) > most else ""
    return between.join(parts[:most]) + more
