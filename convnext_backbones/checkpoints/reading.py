"""From a source to a dictionary of tensors; nothing in a file is executed.

What a file is shows in its content, not in its name: torch's files and plain pickles are
torch_files.py's, safetensors files, which hold no code, and Hugging Face's folders are read here.
"""

import contextlib
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import CheckpointError, UserError
from .file_kinds import LONGEST_BEGINNING, MOST_NAMES, kind_of_file
from .pickle_names import RefusedError, shown
from .sources import locate
from .torch_files import device_of, pickled_data, read_pickles, read_torch_zip

__all__ = ["CheckpointError", "read_checkpoint", "read_pickled"]

LARGEST_FILE = 32 * 2**30  # bytes; ConvNeXt V2-H with its optimizer's state has 11 * 2**30
LARGEST_HEADER = 16 * 2**20  # bytes of safetensors' JSON, a dozen times which its reader takes
LARGEST_INDEX = 64 * 2**20  # bytes of the JSON beside shards

# What a Hugging Face folder keeps its weights in, the preferred first.
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)

# What to do with the kinds of file_kinds.py that are no checkpoints.
UNPACK = "unpack it and give the checkpoint in it"
OTHER_FILES = {
    "": "the file is empty; fetch or copy it again",
    "web page": "is a web page, not a checkpoint; the download link led to a page",
    "JSON": "is JSON text, such as a server's message, not a checkpoint; fetch it again",
    "git-LFS pointer": "is a git-LFS pointer, not the file itself; run `git lfs pull` in its "
    "repository, or download the file from its page",
    **{kind: f"is a {kind} archive; {UNPACK}" for kind in ("gzip", "bzip2", "zstd", "7z", "tar")},
    "xz": f"is an xz archive; {UNPACK}",
    "numpy": "is a single numpy array, not a dictionary of tensors",
    "HDF5": "is an HDF5 file (Keras); convert it with the library that wrote it",
}


def read_checkpoint(source: str | Path, *, allowed: tuple = (), map_location="cpu") -> dict:
    """The content of a checkpoint: dictionaries and lists with tensors and plain data in them.

    An object of any other class, such as a path among the hyperparameters, is not made: an Unbuilt
    stands for it, and a warning is logged. One that holds the file's whole content is refused.

    Args:
        source: a file (torch's .pth / .pt / .bin, zip or from before 1.6; .safetensors; a plain
            pickle of numpy arrays or tensors), a Hugging Face folder, a URL, or a name of the catalogue.
        allowed: classes, or (callable, "module.name") pairs, that a torch file may name beside
            tensors, plain containers, numbers of numpy and argparse.Namespace: they are called with
            what the file holds. Numpy arrays come out as tensors unless np.ndarray is among them.
        map_location: as in torch.load.

    Raises:
        CheckpointError: it is missing, damaged, too large, no checkpoint, or wants to run code; the
            message names the file and the cause.
    """
    return read_path(locate(source).path, allowed=allowed, map_location=map_location)


def read_path(path: Path, *, allowed: tuple = (), map_location="cpu") -> dict:
    """As read_checkpoint, of a file or folder on this machine."""
    with _naming(path):
        if path.is_dir():
            return _read_folder(path, allowed, map_location)
        if not path.is_file():
            raise RefusedError("is neither a file nor a folder")
        content = _content(path, allowed, map_location)
        if not isinstance(content, dict):
            raise RefusedError(f"holds a {type(content).__name__}, not a dictionary")
        return content


def read_pickled(content: bytes, name: str):
    """What the pickle of a data set holds, such as annotations or proposals: plain data, numpy's arrays and
    tensors; nothing is executed, and no object is made.

    Raises:
        UserError: it holds anything else; the message begins with `name`.
    """
    try:
        with _naming(name):
            return pickled_data(content)
    except CheckpointError as error:
        reason = str(error).partition("; ")[0]
        raise UserError(
            f"{reason}; write plain dictionaries, lists, texts, numbers and arrays, or JSON"
        ) from error


@contextlib.contextmanager
def _naming(path: str | Path):
    """Turn whatever a file makes its readers raise into a CheckpointError that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except RefusedError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        # torch's advice to load without weights_only comes before its reason
        reason = str(error).rpartition("WeightsUnpickler error: ")[2]
        first = shown((reason.splitlines() or ["no message"])[0], 200)
        raise CheckpointError(
            f"{path}: is damaged or no checkpoint ({type(error).__name__}: {first})"
        ) from error


def _content(path: Path, allowed: tuple, map_location):
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise RefusedError(
            f"has {size / 2**30:.0f} GiB, and the largest checkpoint read is "
            f"{LARGEST_FILE / 2**30:.0f} GiB"
        )
    with path.open("rb") as file:
        start = file.read(LONGEST_BEGINNING)
    kind = kind_of_file(start)
    if kind in OTHER_FILES:
        raise RefusedError(OTHER_FILES[kind])
    if kind == "zip":
        return read_torch_zip(path, size, allowed, map_location)
    if kind == "safetensors" or (path.suffix == ".safetensors" and start[:1] != b"\x80"):
        return _read_safetensors(path, map_location)
    return read_pickles(path, size, allowed, map_location)


# Hugging Face folders


def _read_folder(folder: Path, allowed: tuple, map_location) -> dict:
    for name in FOLDER_FILES:
        if (folder / name).exists():
            break
    else:
        there = sorted(p.name for p in folder.iterdir() if p.is_file())[:5]
        raise RefusedError(
            f"the folder holds none of {', '.join(FOLDER_FILES)}; "
            + (f"give the file itself (there are {', '.join(there)})" if there else "it is empty")
        )
    if not name.endswith(".index.json"):
        return read_path(folder / name, allowed=allowed, map_location=map_location)
    with _naming(folder / name):
        places = _weight_map(folder / name)
        for shard in sorted(set(places.values())):
            if not (folder / shard).is_file():
                raise RefusedError(f"names {shard}, which is not in the folder; fetch it")
    state = {}
    for shard in sorted(set(places.values())):
        content = read_path(folder / shard, allowed=allowed, map_location=map_location)
        with _naming(folder / shard):
            expected = {key for key, place in places.items() if place == shard}
            _refuse_keys("lacks", expected - set(content), "which the index puts there")
            _refuse_keys("holds", set(content) - expected, "which the index does not put there")
        state |= content
    return state


def _refuse_keys(verb: str, keys: set, problem: str) -> None:
    if keys:
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise RefusedError(
            f"{verb} {', '.join(map(shown, sorted(map(str, keys))[:3]))}{more}, {problem}"
        )


def _weight_map(index: Path) -> dict[str, str]:
    """An index file's table, parameter name -> file name in the same folder."""
    if index.stat().st_size > LARGEST_INDEX:
        raise RefusedError(f"is larger than {LARGEST_INDEX / 2**20:.0f} MiB, which no index is")
    try:
        content = json.loads(index.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"is no JSON ({error}); fetch it again") from error
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise RefusedError("has no weight_map, so it is no index of shards")
    for name in places.values():
        if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
            raise RefusedError(
                f"names the file {shown(str(name))!r}; only plain names of files in the same folder "
                "are read"
            )
    return places


# safetensors


def _read_safetensors(path: Path, map_location) -> dict:
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        if header > LARGEST_HEADER:
            raise RefusedError(
                f"is damaged: it claims a header of {header:,} bytes, and {LARGEST_HEADER:,} is the most"
            )
        count = file.read(header).count(b'"dtype"')  # one a tensor; quotes in texts are escaped
    if count > MOST_NAMES:
        raise RefusedError(f"names {count:,} tensors, and {MOST_NAMES:,} are read at most")
    try:
        mapped = load_file(path)  # into memory, which a change of the file would change too
        return {
            name: value.to(device_of(map_location), copy=True) for name, value in mapped.items()
        }
    except SafetensorError as error:
        cause = shown(str(error).removeprefix("Error while deserializing header: "), 200)
        raise RefusedError(
            f"is a damaged or truncated safetensors file ({cause}); fetch or copy it again"
        ) from error
