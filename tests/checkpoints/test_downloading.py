"""Downloads from a web server on this machine that behaves well, and in every bad way we know."""

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from web_server import (
    Server,
    drip,
    forward,
    ignore_ranges,
    redirect,
    running,
    serve,
    slowly,
    stall,
    stall_at_once,
    status,
    truncate,
    web_page,
)

from convnext_backbones.checkpoints import downloading
from convnext_backbones.checkpoints.downloading import download
from convnext_backbones.checkpoints.sources import locate
from convnext_backbones.errors import CheckpointError

CONTENT = random.Random(0).randbytes(500_000)  # which no check of the format knows
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ROOT = Path(__file__).parents[2]
OWN_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "HF_TOKEN", "http_proxy",
                 "https_proxy", "all_proxy", "no_proxy", "HF_HUB_DOWNLOAD_TIMEOUT")  # fmt: skip


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in OWN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(downloading, "PAUSE", 0.01)


@pytest.fixture
def server():
    with running(Server(CONTENT)) as server:
        yield server


def fetch(server, folder, name="model.pth", **options) -> Path:
    return download(f"{server.url}/{name}", folder=folder, **{"timeout": 0.4} | options)


def ranges(server) -> list:
    return [headers.get("Range") for _, headers in server.requests]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"model.pth.lock"}


def refused(server, folder, **options) -> str:
    """The sentence of a download that must fail, which always tells the way by hand."""
    with pytest.raises(CheckpointError) as caught:
        fetch(server, folder, **options)
    sentence = str(caught.value)
    assert f"{server.url}/model.pth" in sentence
    assert f"put it at {folder / 'model.pth'}" in sentence
    assert not (folder / "model.pth").exists()
    assert "\n" not in sentence
    return sentence


def interrupt(server, folder) -> None:
    """Leave half of the file in the cache."""
    server.answers = [truncate, status(404)]
    refused(server, folder)
    server.answers = [serve]


def test_a_file_lands_whole_with_its_hash_beside_it(server, tmp_path):
    path = fetch(server, tmp_path / "cache")
    assert path == tmp_path / "cache" / "model.pth"
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == {"model.pth", "model.pth.sha256"}
    checked = subprocess.run(["sha256sum", "--check", "--strict", "model.pth.sha256"],
                             cwd=path.parent, capture_output=True, text=True)  # fmt: skip
    assert checked.stdout == "model.pth: OK\n", checked.stderr


def test_the_folder_is_torchs_hub_cache(server, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    assert download(f"{server.url}/a/model.pth?x=1") == tmp_path / "checkpoints" / "model.pth"


def test_the_progress_is_shown_in_bytes(server, tmp_path, capsys):
    fetch(server, tmp_path)
    assert "model.pth: 100%" in capsys.readouterr().err


def test_a_cached_file_needs_no_network(server, tmp_path):
    fetch(server, tmp_path)
    server.answers = [status(500)]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_file_placed_by_hand_is_taken(server, tmp_path):
    (tmp_path / "model.pth").write_bytes(b"by hand")
    assert fetch(server, tmp_path).read_bytes() == b"by hand"
    assert not server.requests


def test_a_file_placed_by_hand_is_verified_where_the_hash_is_known(server, tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(CONTENT)
    assert fetch(server, tmp_path, sha256=SHA256[:8].upper()) == path
    assert (tmp_path / "model.pth.sha256").exists()
    other = tmp_path / "other.pth"
    other.write_bytes(b"something else")
    with pytest.raises(
        CheckpointError, match=rf"other.pth is not the published file.*{SHA256[:8]}"
    ):
        fetch(server, tmp_path, "other.pth", sha256=SHA256[:8])
    assert other.exists()


def test_a_file_of_the_same_name_from_elsewhere_is_not_taken_for_it(server, tmp_path):
    fetch(server, tmp_path, "a/model.pth")
    server.content = b"another model"
    assert fetch(server, tmp_path, "b/model.pth").read_bytes() == b"another model"
    server.content = b"a third"
    assert fetch(server, tmp_path, "b/model.pth?id=3").read_bytes() == b"a third"


def test_a_signature_in_the_address_is_not_kept(server, tmp_path):
    fetch(server, tmp_path, "model.pth?signature=secret")
    assert "secret" not in (tmp_path / "model.pth.sha256").read_text()


def test_a_file_that_changed_in_the_cache_is_named(server, tmp_path):
    path = fetch(server, tmp_path)
    path.write_bytes(CONTENT[:-1])
    os.utime(path, ns=(time.time_ns(), time.time_ns()))
    with pytest.raises(CheckpointError, match=f"model.pth has changed .* recorded was {SHA256}"):
        fetch(server, tmp_path)


def test_a_touched_file_is_read_again_and_believed_again(server, tmp_path):
    path = fetch(server, tmp_path)
    record = tmp_path / "model.pth.sha256"
    os.utime(record, (0, 0))
    assert fetch(server, tmp_path) == path
    assert record.stat().st_mtime_ns >= path.stat().st_mtime_ns
    assert len(server.requests) == 1


@pytest.mark.parametrize("known", [SHA256, SHA256[:8], SHA256.upper()])
def test_a_known_hash_is_verified(server, tmp_path, known):
    assert fetch(server, tmp_path, sha256=known).read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_the_file_removed(server, tmp_path):
    sentence = refused(server, tmp_path, sha256="0123abcd")
    assert SHA256 in sentence
    assert "0123abcd" in sentence
    assert names(tmp_path) == {"model.pth.part.json"}
    assert len(server.requests) == 1


# Servers that break off


def test_a_cut_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.answers = [truncate, serve]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert ranges(server) == [None, f"bytes={len(CONTENT) // 2}-"]
    assert server.requests[1][1]["If-Range"] == '"1"'
    assert names(tmp_path) == {"model.pth", "model.pth.sha256"}


def test_a_date_resumes_where_the_server_gives_no_etag(server, tmp_path):
    server.etag, server.last_modified = None, "Mon, 02 Jan 2023 10:00:00 GMT"
    server.answers = [truncate, serve]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[1][1]["If-Range"] == server.last_modified


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_without_a_version_the_file_is_fetched_anew(server, tmp_path, etag):
    server.etag = etag
    server.answers = [truncate, serve]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert ranges(server) == [None, None]


def test_a_server_that_ignores_ranges_sends_the_whole(server, tmp_path):
    server.answers = [truncate, ignore_ranges]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert ranges(server)[1] is not None


@pytest.mark.parametrize("understands", [True, False])
def test_a_file_that_changes_between_attempts_is_not_mixed(server, tmp_path, understands):
    new = bytes(reversed(CONTENT)) + b"longer"

    def change(request):
        truncate(request)
        server.content, server.etag = new, '"2"'

    server.answers = [change, lambda request: serve(request, if_range=understands)]
    assert fetch(server, tmp_path).read_bytes() == new


def test_a_part_of_another_address_is_not_continued(server, tmp_path):
    interrupt(server, tmp_path)
    (tmp_path / "model.pth.part").write_bytes(CONTENT)
    server.content = bytes(reversed(CONTENT))  # with the same name, version and length
    assert fetch(server, tmp_path, "b/model.pth").read_bytes() == server.content


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    interrupt(server, tmp_path)
    (tmp_path / "model.pth.part").write_bytes(bytes(len(CONTENT) + 1))
    server.answers = [serve]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_part_that_only_lacked_its_name_is_not_fetched_again(server, tmp_path):
    interrupt(server, tmp_path)
    (tmp_path / "model.pth.part").write_bytes(CONTENT)
    asked = len(server.requests)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == asked


def test_a_spoiled_part_is_fetched_anew_where_the_hash_is_known(server, tmp_path):
    interrupt(server, tmp_path)
    part = tmp_path / "model.pth.part"
    part.write_bytes(b"\0" * part.stat().st_size)
    server.answers = [serve]
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("answer", [stall, stall_at_once, drip])
def test_a_stalling_server_ends_within_seconds(server, tmp_path, answer):
    server.answers = [answer]
    start = time.monotonic()
    sentence = refused(server, tmp_path, timeout=0.3)
    assert time.monotonic() - start < 6
    assert "nothing for 0.3 s" in sentence or "bytes came in 0.3 s" in sentence
    assert len(server.requests) == downloading.ATTEMPTS


def test_a_stall_is_survived(server, tmp_path):
    server.answers = [stall, serve]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert ranges(server)[1] == "bytes=1000-"


def test_the_timeout_comes_from_the_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.2")
    server.answers = [stall_at_once]
    assert "nothing for 0.2 s" in refused(server, tmp_path, timeout=None)
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "soon")
    with pytest.raises(ValueError, match=r"HF_HUB_DOWNLOAD_TIMEOUT must be seconds, got 'soon'"):
        fetch(server, tmp_path, timeout=None)


def test_a_server_that_always_breaks_off_is_given_up(server, tmp_path):
    server.answers = [lambda request: serve(request, cut=1000)]
    sentence = refused(server, tmp_path)
    assert f"{1000 * downloading.ATTEMPTS} of {len(CONTENT)} bytes came" in sentence
    server.answers = [serve]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert ranges(server)[-1] == f"bytes={1000 * downloading.ATTEMPTS}-"


# Servers that lie


def test_a_length_above_the_truth_is_noticed(server, tmp_path):
    server.answers = [lambda request: serve(request, length=len(CONTENT) + 100)]
    assert f"{len(CONTENT)} of {len(CONTENT) + 100} bytes came" in refused(server, tmp_path)


def test_a_length_below_the_truth_is_noticed_by_the_hash(server, tmp_path):
    server.answers = [lambda request: serve(request, length=1000)]
    assert "SHA-256" in refused(server, tmp_path, sha256=SHA256)


@pytest.mark.parametrize("length", ["9" * 5000, "-5", "many", ""])
def test_a_length_that_is_none_is_passed_over(server, tmp_path, length):
    server.answers = [lambda request: serve(request, length=length)]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_version_that_cannot_be_sent_back_is_passed_over(server, tmp_path):
    server.etag = '"1\r\n 2"'
    server.answers = [truncate, serve]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert ranges(server) == [None, None]


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_a_length_below_the_truth_is_noticed_by_the_format(server, tmp_path, name):
    source = tmp_path / name
    state = {"weight": torch.zeros(100, 100)}
    torch.save(state, source) if name.endswith("pth") else save_file(state, source)
    server.content = source.read_bytes()
    cache = tmp_path / "cache"
    server.answers = [lambda request: serve(request, length=len(server.content) - 100), serve]
    with pytest.raises(CheckpointError, match="damaged or cut after"):
        fetch(server, cache, name)
    assert fetch(server, cache, name).read_bytes() == server.content


def test_a_file_without_a_length_is_fetched(server, tmp_path):
    server.answers = [lambda request: serve(request, announce=False)]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_chunked_transfer_that_is_cut_is_noticed(server, tmp_path):
    def chunked(request):
        request.head(200, Transfer_Encoding="chunked")
        request.body(b"3e8\r\n" + CONTENT[:1000] + b"\r\n3e8\r\n" + CONTENT[1000:1500])

    server.answers = [chunked]
    assert "the connection was cut" in refused(server, tmp_path)


def test_a_range_from_another_place_is_not_appended(server, tmp_path):
    def elsewhere(request):
        half = len(CONTENT) // 2
        content_range = f"bytes 0-{half - 1}/{len(CONTENT)}"
        request.head(206, Content_Range=content_range, Content_Length=str(half))
        request.body(CONTENT[:half])

    server.answers = [truncate, elsewhere, serve]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("code", "requests"), [(404, 1), (403, 1), (500, 3), (503, 3), (429, 3), (204, 1)]
)
def test_an_error_is_told_and_repeated_only_where_it_may_pass(server, tmp_path, code, requests):
    server.answers = [status(code)]
    assert f"the server answers {code}" in refused(server, tmp_path)
    assert len(server.requests) == requests


def test_a_web_page_is_refused(server, tmp_path):
    server.answers = [web_page]
    assert "answers with a web page, perhaps a login" in refused(server, tmp_path)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"\n <!DOCTYPE html><title>Log in</title>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_its_start(server, tmp_path, content, cause):
    server.content = content
    assert cause in refused(server, tmp_path)
    assert names(tmp_path) <= {"model.pth.part.json"}


# Redirects


def test_a_redirect_is_followed(server, tmp_path):
    server.answers = [redirect("/elsewhere/file"), serve]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[1][0] == "/elsewhere/file"


def test_a_redirect_loop_ends(server, tmp_path):
    server.answers = [redirect("/model.pth")]
    assert "infinite loop" in refused(server, tmp_path)


@pytest.mark.parametrize("to", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,weights"])
def test_a_redirect_away_from_the_web_is_refused(server, tmp_path, to):
    server.answers = [redirect(to)]
    assert to.split(":")[0] in refused(server, tmp_path).replace(server.url, "")
    assert len(server.requests) == 1


def test_a_redirect_that_gives_up_encryption_is_refused():
    request = urllib.request.Request("https://host/model.pth")
    target = "http://host/model.pth"
    with pytest.raises(downloading._TransferError, match=f"{target}, which is not https"):
        downloading._Redirects().redirect_request(request, None, 302, "Found", {}, target)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/hostname", "ftp://host/a.pth", "/etc/hostname", "http://[", "http:///a.pth",
     "https://host", "https://host/", "https://name:secret@host/a.pth"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(url, tmp_path):
    with pytest.raises(CheckpointError, match=r"must be http\(s\)://SERVER/\.\.\./FILE") as caught:
        download(url, folder=tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("path", ["a b.pth", "ä.pth"])
def test_an_address_that_cannot_be_sent_is_refused(server, tmp_path, path):
    with pytest.raises(CheckpointError, match="cannot be fetched"):
        fetch(server, tmp_path, path)


def test_a_server_that_is_not_there_is_told(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CheckpointError, match=r"Connection refused.* put it at .*model.pth"):
        download(f"http://127.0.0.1:{port}/model.pth", folder=tmp_path, timeout=1)


# The environment


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_asks_nobody(server, tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    assert f"not in the cache, and {variable} forbids" in refused(server, tmp_path)
    assert not server.requests
    monkeypatch.setenv(variable, "0")
    path = fetch(server, tmp_path)
    monkeypatch.setenv(variable, "true")
    assert fetch(server, tmp_path) == path


def test_the_proxy_of_the_environment_is_used_and_no_proxy_respected(server, tmp_path, monkeypatch):
    with running(Server()) as proxy:
        proxy.answers = [forward]
        monkeypatch.setenv("http_proxy", proxy.url)
        assert fetch(server, tmp_path / "a").read_bytes() == CONTENT
        assert [path for path, _ in proxy.requests] == [f"{server.url}/model.pth"]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert fetch(server, tmp_path / "b").read_bytes() == CONTENT
        assert len(proxy.requests) == 1


HUB_URL = "https://huggingface.co/timm/some_model/resolve/main/model.safetensors"


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """The server as HF_ENDPOINT, with a safetensors file."""
    save_file({"weight": torch.zeros(10)}, tmp_path / "hub.safetensors")
    server.content = (tmp_path / "hub.safetensors").read_bytes()
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
    return server


def test_hf_endpoint_stands_in_for_the_hub(hub, tmp_path):
    path = download(HUB_URL, folder=tmp_path)
    assert path.name == "timm--some_model--model.safetensors"
    assert hub.requests[0][0] == "/timm/some_model/resolve/main/model.safetensors"


def test_the_token_goes_to_the_hub_and_to_nobody_else(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with running(Server(hub.content)) as elsewhere:
        hub.answers = [redirect("/moved"), redirect(f"{elsewhere.url}/file")]
        download(HUB_URL, folder=tmp_path)
        download(f"{elsewhere.url}/other.pth", folder=tmp_path)
    sent = [headers.get("Authorization") for _, headers in hub.requests]
    assert sent == ["Bearer hf_secret", "Bearer hf_secret"]
    assert [path for path, _ in elsewhere.requests] == ["/file", "/other.pth"]
    assert not any("Authorization" in headers for _, headers in elsewhere.requests)


def test_a_gated_file_names_the_token(hub, tmp_path):
    hub.answers = [status(401)]
    with pytest.raises(CheckpointError, match=r"401 Unauthorized; accept .* set HF_TOKEN"):
        download(HUB_URL, folder=tmp_path)


@pytest.mark.parametrize("right", [True, False])
def test_the_hash_that_the_hub_announces_is_verified(hub, tmp_path, right):
    digest = hashlib.sha256(hub.content if right else b"").hexdigest()
    hub.answers = [redirect("/cdn", X_Linked_ETag=f'"{digest}"'), serve]
    if right:
        download(HUB_URL, folder=tmp_path)
    else:
        with pytest.raises(CheckpointError, match=f"published is {digest}"):
            download(HUB_URL, folder=tmp_path)


def test_another_server_cannot_announce_a_hash(server, tmp_path):
    server.answers = [redirect("/cdn", X_Linked_ETag="0" * 64), serve]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


# Disks and processes


def test_a_folder_that_cannot_be_written_is_told(server, tmp_path):
    (tmp_path / "file").touch()
    sentence = refused(server, tmp_path / "file" / "cache")
    assert "cannot be kept in" in sentence
    assert "TORCH_HOME" in sentence


def test_a_disk_too_small_is_told_before_anything_comes(server, tmp_path):
    server.answers = [lambda request: serve(request, length=10**18)]
    assert "1000000000000 MB are missing" in refused(server, tmp_path)


PROGRAM = """
import resource, sys
from convnext_backbones.checkpoints import downloading
url, folder, full_disk = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
print(downloading.download(url, folder=folder, timeout=20).read_bytes() != b"", flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # bytes of any one file
try:
    downloading.download(url, folder=full_disk, timeout=20)
except downloading.CheckpointError as error:
    print(error)
"""


@pytest.fixture
def other(server, tmp_path):
    """Another process, which downloads into `shared` when a line comes, then onto a full disk."""
    folders = str(tmp_path / "shared"), str(tmp_path / "full")
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    program = [sys.executable, "-c", PROGRAM, f"{server.url}/model.pth", *folders]
    with subprocess.Popen(program, cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout.readline() == "ready\n", process.communicate()
        yield process
        process.kill()


def test_two_processes_at_once_fetch_once_and_a_full_disk_is_told(server, tmp_path, other, capsys):
    """In one test, since importing torch is what takes the time."""
    server.answers = [slowly]
    other.stdin.write("\n")
    other.stdin.flush()
    path = fetch(server, tmp_path / "shared", timeout=20)
    out, err = other.communicate(timeout=60)
    here, there = "waiting for another process" in capsys.readouterr().err, "waiting for" in err
    assert here != there
    success, sentence = out.splitlines()
    assert success == "True", err
    assert path.read_bytes() == CONTENT
    assert "cannot be kept in" in sentence
    assert "File too large" in sentence
    assert not {"model.pth", "model.pth.part"} & names(tmp_path / "full")
    assert [path for path, _ in server.requests] == ["/model.pth"] * 2


def test_a_killed_download_leaves_no_file_and_is_resumed(server, tmp_path, other):
    server.answers = [stall, serve]
    other.stdin.write("\n")
    other.stdin.flush()
    part = tmp_path / "shared" / "model.pth.part"
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert names(part.parent) == {"model.pth.part", "model.pth.part.json"}
    assert fetch(server, part.parent).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=1000-"]


# What a user names


def test_an_existing_file_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("convnext_tiny.fb_in1k").touch()
    located = locate("convnext_tiny.fb_in1k")
    assert located.path == Path("convnext_tiny.fb_in1k")
    assert located.weights.name == "convnext_tiny.fb_in1k"


def test_a_local_file_is_known_by_its_official_name(tmp_path):
    path = tmp_path / "convnextv2_tiny_1k_224_ema.pt"
    path.touch()
    assert locate(path)[:2] == (path, locate(str(path)).weights)
    assert locate(path).weights.name == "convnextv2_tiny.fcmae_ft_in1k"
    (tmp_path / "mine.pth").touch()
    assert locate(tmp_path / "mine.pth").weights is None
    assert locate(tmp_path).path == tmp_path


@pytest.mark.parametrize("name", ["convnext_atto.d2_in1k", "timm/convnext_atto.d2_in1k"])
def test_a_name_is_downloaded_under_its_own_name(hub, tmp_path, monkeypatch, name):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    located = locate(name)
    assert located.path == tmp_path / "checkpoints" / "convnext_atto.d2_in1k.safetensors"
    assert located.label == "convnext_atto.d2_in1k"
    assert located.weights.licence == "Apache-2.0"
    assert hub.requests[0][0] == "/timm/convnext_atto.d2_in1k/resolve/main/model.safetensors"
    assert locate(located.path).weights == located.weights


def test_a_file_from_a_mirror_is_known_and_verified(server, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    url = f"{server.url}/mirror/convnext_tiny-983f1562.pth"
    with pytest.raises(CheckpointError, match="published is 983f1562"):
        locate(url)
    url = f"{server.url}/mirror/convnext_tiny_1k_224_ema.pth"
    assert locate(url).weights.name == "convnext_tiny.fb_in1k"
    assert locate(f"{server.url}/mine.pth").weights is None


def test_isotropic_weights_are_refused_before_any_download(server):
    for name in ("convnext_iso_base.fb_in1k", f"{server.url}/convnext_iso_base_1k_224_ema.pth"):
        with pytest.raises(CheckpointError, match="isotropic"):
            locate(name)
    assert not server.requests


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("convnextv2_tiny", "did you mean 'convnextv2_tiny.fcmae' or"),
        ("convnext_tiny.fb_in1kk", "did you mean 'convnext_tiny.fb_in1k'"),
        ("facebook/convnext-tiny", "did you mean 'facebook/convnext-tiny-224'"),
        ("runs/convnext_tiny_1k_224_ema.pth", "there is no such file"),
        ("nothing.pth", "there is no such file, and no published weights have this name. Give"),
        ("", "there is no such file"),
        (True, "got True"),
    ],
)
def test_what_is_neither_file_nor_name_is_told_with_the_nearest_names(source, words):
    with pytest.raises(CheckpointError, match=f"(?i){words}"):
        locate(source)
