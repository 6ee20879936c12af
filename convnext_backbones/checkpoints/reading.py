"""From a path or URL to a dictionary of tensors; nothing in the file is executed."""

import re
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file

from ..errors import CheckpointError


def read_checkpoint(source: str | Path, *, allowed: tuple = (), map_location="cpu") -> dict:
    """The content of a .pth / .pt / .safetensors file, or of a URL (kept in torch's hub cache).

    `allowed` are the classes that a pickle may name beside tensors and plain containers.

    Raises:
        CheckpointError: no such file, not a checkpoint, truncated, or one that wants to run code.
    """
    text = str(source)
    if text.startswith(("http://", "https://")):
        return _read_url(text, allowed, map_location)
    path = Path(text).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file; give a checkpoint's path or URL")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty; fetch or copy it again")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            with torch.serialization.safe_globals(list(allowed)):
                content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # a damaged file can make the readers raise nearly anything
        raise CheckpointError(f"{path}: {_cause(path, error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dictionary")
    return content


def _read_url(url: str, allowed: tuple, map_location) -> dict:
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.hub.load_state_dict_from_url(
                url, map_location=map_location, weights_only=True
            )
    except (URLError, OSError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise CheckpointError(
            f"{url}: cannot be fetched ({getattr(error, 'reason', error)}); "
            f"fetch it by hand into {folder}, or set the path of a local file"
        ) from error
    except Exception as error:
        raise CheckpointError(f"{url}: {_cause(None, error)}") from error


def _cause(path: Path | None, error: Exception) -> str:
    """Why a file could not be read, in a sentence."""
    start = b""
    if path:
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "is a web page, not a checkpoint; the download link led to a page"
    global_named = re.search(r"GLOBAL (\S+)", str(error))
    if global_named:
        return (
            f"holds a Python object ({global_named[1]}) beside tensors, which could run code, and is "
            "refused; save only its state_dict"
        )
    return f"is damaged or no checkpoint ({type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]})"
