"""Fetch a file over HTTP into torch's hub cache: whole or not at all, and once.

Beside FILE in the cache lie

    FILE.sha256           its hash, in the form that `sha256sum --check` reads, and where it came from
    FILE.lock             held by the process that fetches it; the others wait
    FILE.part, .part.json what has come so far, and which version of the server's file it belongs to

A hash is computed when a file lands, and again when the file is newer than its record: that costs
nothing on most days and finds a file that was overwritten or cut, not one whose disk rots.
"""

import hashlib
import http.client
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from ..errors import CheckpointError, UserError
from .file_kinds import LONGEST_BEGINNING, kind_of_file

HUB = "https://huggingface.co"
ATTEMPTS = 3
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
CHUNK = 1 << 20  # bytes
SLOWEST = 1024  # bytes a second; slower than this over a whole timeout is a stalled server
TRUE = {"1", "true", "yes", "on"}


class _TransferError(Exception):
    """Why a transfer ended.

    again: another attempt may succeed. stale: what has come so far is of no use to it.
    """

    def __init__(self, cause: str, *, again: bool = False, stale: bool = False):
        super().__init__(cause)
        self.again, self.stale = again, stale


class _Version(NamedTuple):
    """Which version of which file a .part belongs to, as far as the server says; length in bytes."""

    url: str
    etag: str | None
    last_modified: str | None
    length: int | None
    sha256: str | None

    @property
    def validator(self) -> str | None:
        """For If-Range, which asks for the rest of this version or the whole of a newer one."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.last_modified

    def became(self, later: "_Version") -> bool:
        """Whether it is another one now; the answer to a Range request may leave things out."""
        return any(b is not None and a != b for a, b in zip(self, later, strict=True))


def download(
    url: str,
    *,
    sha256: str | None = None,
    filename: str | None = None,
    folder: str | Path | None = None,
    timeout: float | None = None,
) -> Path:
    """The path of the file behind an http(s) URL, fetched unless the cache has it.

    The environment's http_proxy, https_proxy, no_proxy, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and
    TRANSFORMERS_OFFLINE are obeyed. A file placed in the cache by hand is taken as it is.

    Args:
        url: of the file; a Hugging Face address has /resolve/ in it.
        sha256: what the file must have, in full or its first digits.
        filename: in the cache; otherwise the URL's last part, with owner and repository before it
            for Hugging Face, where most files have the same name.
        folder: the cache; torch.hub.get_dir()/checkpoints by default.
        timeout: seconds without data after which a server counts as stalled;
            HF_HUB_DOWNLOAD_TIMEOUT or 10 by default.

    Raises:
        CheckpointError: with the cause, the URL to fetch by hand and the path to put the file at.
    """
    target = Path(folder or Path(torch.hub.get_dir()) / "checkpoints").expanduser()
    target = target / (filename or _filename(url))
    timeout = _seconds() if timeout is None else timeout
    by_hand = f"fetch it by hand and put it at {target}"
    try:
        if _in_cache(target, url, sha256):
            return target
        for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            if os.environ.get(variable, "").lower() in TRUE:
                raise _TransferError(f"it is not in the cache, and {variable} forbids the network")
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target):
            if not _in_cache(target, url, sha256):  # another process may have fetched it meanwhile
                _fetch(url, target, sha256, timeout)
    except _TransferError as error:
        raise CheckpointError(f"{url} cannot be fetched: {error}; {by_hand}") from error
    except OSError as error:
        raise CheckpointError(
            f"{url} cannot be kept in {target.parent} ({error.strerror or error}); make room there or "
            f"set TORCH_HOME to another folder, or {by_hand}"
        ) from error
    return target


def _filename(url: str) -> str:
    try:
        name = Path(unquote(urlsplit(url).path)).name
    except ValueError:  # of an address such as http://[
        name = ""
    if not re.match(r"https?://[^/@]+/", url) or not name:
        raise CheckpointError(
            "an address must be http(s)://SERVER/.../FILE without a user name or password, "
            f"got {re.sub('//.*@', '//...@', url)!r}"
        )
    repository = re.match(rf"{HUB}/([^/]+)/([^/]+)/resolve/", url)
    return "--".join([*repository.groups(), name]) if repository else name


def _seconds() -> float:
    text = os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", "10")
    try:
        return float(text)
    except ValueError:
        raise UserError(f"HF_HUB_DOWNLOAD_TIMEOUT must be seconds, got {text!r}") from None


# The cache


def _in_cache(target: Path, url: str, sha256: str | None) -> bool:
    if not target.is_file():
        return False
    record = _beside(target, ".sha256")
    if record.is_file():
        recorded, origin = _read_record(record)
        if origin != _origin(url):
            return False  # another file of the same name
        if target.stat().st_mtime_ns < record.stat().st_mtime_ns:
            digest = recorded
        else:
            digest = _sha256(target)
            if digest != recorded:
                raise CheckpointError(
                    f"{target} has changed since it was downloaded: its SHA-256 is {digest}, recorded "
                    f"was {recorded}; delete it to fetch it again, or delete {record} to keep it"
                )
            with suppress(OSError):
                record.touch()
    elif sha256:
        digest = _sha256(target)
    else:
        return True
    if sha256 and not digest.startswith(sha256.lower()):
        raise CheckpointError(
            f"{target} is not the published file: its SHA-256 is {digest}, published is {sha256}; "
            "delete it to fetch it again"
        )
    if not record.is_file():
        with suppress(OSError):  # a cache that others own
            _write_record(target, digest, url)
    return True


def _lock(target: Path) -> FileLock:
    lock = FileLock(f"{target}.lock")
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        print(f"waiting for another process that fetches {target.name}", file=sys.stderr)
        return lock.acquire()


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)


def _origin(url: str) -> str:
    """What tells files of the same name apart; a query may hold a signature and is hashed."""
    address, _, query = url.partition("?")
    return f"{address}?{hashlib.sha256(query.encode()).hexdigest()[:16]}" if query else address


def _write_record(target: Path, digest: str, url: str) -> None:
    record, draft = _beside(target, ".sha256"), _beside(target, f".sha256.{os.getpid()}")
    draft.write_text(f"# {_origin(url)}\n{digest}  {target.name}\n")
    os.replace(draft, record)


def _read_record(record: Path) -> tuple[str, str]:
    """Hash and origin."""
    found = re.fullmatch(r"# (.*)\n([0-9a-f]{64})  .*\n?", record.read_text(errors="replace"))
    if not found:
        raise _TransferError(f"{record} is damaged (delete it)")
    return found[2], found[1]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# The transfer


def _fetch(url: str, target: Path, sha256: str | None, timeout: float) -> None:
    """Bring the file to its place in the cache, in a few attempts."""
    part, state = _beside(target, ".part"), _beside(target, ".part.json")
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE * 2 ** (attempt - 1) if attempt else 0)
        try:
            announced, resumed = _transfer(url, part, state, timeout)
            digest = _sha256(part)
            cause = _no_checkpoint(part, target.suffix)
            expected = (sha256 or announced or "").lower()
            if not cause and not digest.startswith(expected):
                cause = f"its SHA-256 is {digest}, published is {expected}; what came was deleted"
            if cause:
                raise _TransferError(cause, again=resumed, stale=True)
            break
        except _TransferError as error:
            if error.stale:
                part.unlink(missing_ok=True)
            if not error.again or attempt + 1 == ATTEMPTS:
                raise
        except OSError:  # of the disk; a full one gets its space back
            part.unlink(missing_ok=True)
            raise
    target.unlink(missing_ok=True)  # another file of the same name
    _write_record(target, digest, url)
    os.replace(part, target)
    state.unlink(missing_ok=True)


def _transfer(url: str, part: Path, state: Path, timeout: float) -> tuple[str | None, bool]:
    """Bring the .part to its full length: the SHA-256 that the hub names, and whether it resumed."""
    known = _read_state(state, url)
    offset = part.stat().st_size if known and known.validator and part.is_file() else 0
    if known and offset and offset == known.length:
        return known.sha256, True  # only the last steps were missing
    headers = {"User-Agent": "convnext_backbones", "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": known.validator}
    request = urllib.request.Request(_through_endpoint(url), headers=headers)
    _authorise(request)
    redirects = _Redirects()
    with _open(request, redirects, timeout) as response:
        version = _Version(
            _origin(url),
            _header(response, "ETag"),
            _header(response, "Last-Modified"),
            _length(response, offset),
            redirects.sha256 or _announced(request, response.headers),
        )
        resume = response.status == 206
        if resume and known.became(version):
            raise _TransferError("the file changed on the server", again=True, stale=True)
        if response.headers.get_content_type() == "text/html":
            raise _TransferError(WEB_PAGE)
        if not resume:
            part.unlink(missing_ok=True)
            state.write_text(json.dumps(version._asdict()))
            offset = 0
        _check_space(part, version.length, offset)
        with (
            part.open("ab") as file,
            tqdm(total=version.length, initial=offset, desc=part.stem, unit="B",
                 unit_scale=True, mininterval=0.5) as bar,
        ):  # fmt: skip
            for chunk in _chunks(response, timeout):
                file.write(chunk)
                file.flush()  # a killed process keeps what came
                bar.update(len(chunk))
            os.fsync(file.fileno())
    size, length = part.stat().st_size, version.length
    if length is not None and size != length:
        raise _TransferError(f"{size} of {length} bytes came", again=True, stale=size > length)
    return version.sha256, resume


def _open(request: urllib.request.Request, redirects: "_Redirects", timeout: float):
    opener = urllib.request.OpenerDirector()  # knows http and https only, also after a redirect
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        redirects,
    ):
        opener.add_handler(handler)
    try:
        return opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise _TransferError(_words(reason, timeout), again=isinstance(error, OSError)) from error


def _chunks(response, timeout: float):
    """What comes, as it comes; at least SLOWEST bytes a second."""
    came, since = 0, time.monotonic()
    while True:
        try:
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _TransferError(_words(error, timeout), again=True) from error
        if not chunk:
            return
        yield chunk
        came += len(chunk)
        now = time.monotonic()
        if now - since >= timeout:
            if came < SLOWEST * (now - since):
                raise _TransferError(f"only {came} bytes came in {timeout:g} s", again=True)
            came, since = 0, now


def _refusal(error: urllib.error.HTTPError) -> _TransferError:
    if 300 <= error.code < 400:
        return _TransferError(str(error.msg).splitlines()[0])  # a loop, or to file://
    cause = f"the server answers {error.code} {error.reason}"
    if error.code in (401, 403) and _is_hub(error.url):
        cause += "; accept the licence on its page and set HF_TOKEN"
    again = error.code in (408, 416, 429) or error.code >= 500
    return _TransferError(cause, again=again, stale=error.code == 416)


def _words(reason, timeout: float) -> str:
    if isinstance(reason, TimeoutError):
        return f"the server sent nothing for {timeout:g} s"
    if isinstance(reason, http.client.IncompleteRead):
        return "the connection was cut"
    return str(reason) or type(reason).__name__


def _header(response, name: str) -> str | None:
    """One that can be sent back."""
    value = response.headers.get(name, "")
    return value if value and value.isascii() and value.isprintable() else None


def _length(response, offset: int) -> int | None:
    """Bytes of the whole file; of a part, the offset must be the one asked for."""
    if response.status == 200:
        return response.length  # None where not announced
    content_range = response.headers.get("Content-Range", "")
    place = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d{1,18})", content_range)
    if response.status != 206 or not offset or not place or int(place[1]) != offset:
        cause = f"the server answers {response.status} to a request for bytes {offset}-"
        raise _TransferError(cause, again=bool(offset), stale=True)
    return int(place[2])


def _read_state(state: Path, url: str) -> _Version | None:
    try:
        version = _Version(**json.loads(state.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return version if version.url == _origin(url) else None


def _check_space(part: Path, length: int | None, offset: int) -> None:
    missing = (length or 0) - offset
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        room = f"{part.parent} has {free / 1e6:.0f} MB left"
        raise _TransferError(f"{missing / 1e6:.0f} MB are missing, {room}")


# What came

WEB_PAGE = (
    "the server answers with a web page, perhaps a login; a Hugging Face address must have /resolve/ "
    "in it, not /blob/"
)


def _no_checkpoint(path: Path, suffix: str) -> str | None:
    """Why a file that came whole, as the server says, cannot be a checkpoint."""
    with path.open("rb") as file:
        kind = kind_of_file(file.read(LONGEST_BEGINNING))
    if kind == "":
        return "it is empty"
    if kind == "web page":
        return WEB_PAGE
    if kind == "git-LFS pointer":
        return "a Git LFS pointer came, not the file; use the server's download address"
    whole = True
    if kind == "zip":  # its index is at the end
        whole = zipfile.is_zipfile(path)
    elif suffix == ".safetensors":
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError:
            whole = False
    return None if whole else f"the file is damaged or cut after {path.stat().st_size} bytes"


# Redirects and the Hugging Face hub


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http(s), never from https to http, and keeps what the hub announces."""

    sha256 = None

    def redirect_request(self, request, file, code, message, headers, new_url):
        schemes = urlsplit(request.full_url).scheme, urlsplit(new_url).scheme
        if schemes[1] not in ("http", "https") or schemes == ("https", "http"):
            raise _TransferError(f"the server redirects to {new_url}, which is not {schemes[0]}")
        self.sha256 = self.sha256 or _announced(request, headers)
        redirected = super().redirect_request(request, file, code, message, headers, new_url)
        _authorise(redirected)
        return redirected


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB


def _through_endpoint(url: str) -> str:
    return _endpoint() + url.removeprefix(HUB) if url.startswith(f"{HUB}/") else url


def _is_hub(url: str) -> bool:
    return urlsplit(url)[:2] == urlsplit(_endpoint())[:2]  # scheme and host


def _authorise(request: urllib.request.Request) -> None:
    """Send HF_TOKEN to the hub, and to no other server that it redirects to."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if token and _is_hub(request.full_url):
        request.add_unredirected_header("Authorization", f"Bearer {token}")


def _announced(request: urllib.request.Request, headers) -> str | None:
    """The SHA-256 of a large file, which the hub names in a header."""
    tag = headers.get("X-Linked-ETag", "").strip('"')
    return tag if _is_hub(request.full_url) and re.fullmatch("[0-9a-f]{64}", tag) else None
