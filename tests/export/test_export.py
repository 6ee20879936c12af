"""Exported files: the same numbers in another runtime, checked before they are kept, or no file."""

import errno
import importlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional as F

from convnext_backbones.cli import export as command
from convnext_backbones.cli import run
from convnext_backbones.errors import UserError
from convnext_backbones.export import files, opened, pooling, writing
from convnext_backbones.export.exportable import FEATURES, Exportable
from convnext_backbones.export.files import Options, export
from convnext_backbones.export.opened import open_exported
from convnext_backbones.export.sizes import checked_shapes, shapes_of, size_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
importlib.import_module("onnx.reference")
SUFFIXES = opened.SUFFIXES
IMAGES = torch.rand(3, 3, 55, 41, generator=torch.Generator().manual_seed(3)) * 255


def pixels_to(model, images=IMAGES):
    """What a network says of pixels."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (model.mean, model.std))
    with torch.no_grad():
        return model.network((images - mean) / std)


# ---- each kind of file ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("to", "precision"),
    [("onnx", "fp32"), ("openvino", "fp16"), ("exported-program", "fp32")],
)
def test_a_file_computes_the_network_at_sizes_and_batches_of_no_check(tmp_path, to, precision):
    model = tiny.backbone()
    wanted = pixels_to(model)
    out = tmp_path / f"file{SUFFIXES[to]}"
    rows = export(model, out, Options(to=to, precision=precision))
    assert len({row.images for row in rows}) == 4
    found = open_exported(out).run(IMAGES.numpy())
    assert list(found) == ["stage1", "stage2"]
    for name, y in zip(found, wanted, strict=True):
        near = dict(rtol=0, atol=1e-5 if precision == "fp32" else 2e-2)
        np.testing.assert_allclose(found[name], y.numpy(), **near)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {out.name} | ({"file.bin"} if to == "openvino" else set())


def test_bfloat16_in_the_runtimes_that_have_it(tmp_path):
    model = tiny.classifier(version=2)
    rows = export(model, tmp_path / "a.pt2", Options(to="exported-program", precision="bf16"))
    assert 1e-5 < max(row.relative for row in rows) < 8e-2
    with pytest.raises(UserError, match="ONNX Runtime computes no bfloat16 on a CPU"):
        export(tiny.classifier(), tmp_path / "a.onnx", Options(precision="bf16"))


def test_the_metadata_say_how_pixels_come_in_and_what_differed(tmp_path):
    export(tiny.classifier(), tmp_path / "a.onnx", Options(fixed=(32, 48), batch=2))
    loaded = open_exported(tmp_path / "a.onnx")
    about = loaded.about
    assert about["task"] == "classes"
    assert about["outputs"] == ["logits"]
    assert about["input"] == "RGB pixels in 0..255"
    assert about["batch"] == 2
    assert about["size"] == [32, 48]
    assert about["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert {row["images"] for row in about["differences"]} == {"2 of 32x48"}
    assert loaded.run(np.zeros((2, 3, 32, 48), np.float32))["logits"].shape == (2, 5)


def test_normalised_images_where_the_graph_does_not_normalise(tmp_path):
    model = tiny.classifier()
    x = torch.randn(1, 3, 40, 40)
    wanted = model.network(x)
    export(model, tmp_path / "a.onnx", Options(pixels=False))
    found = open_exported(tmp_path / "a.onnx")
    assert found.about["input"] == "normalised images"
    np.testing.assert_allclose(found.run(x.numpy())["logits"], wanted.numpy(), atol=1e-5)


# ---- no file leaves unchecked --------------------------------------------------------------------
class FrozenMean(nn.Module):
    """What exporters make of adaptive pooling: right at the traced size, silently wrong at others."""

    def forward(self, x):
        count = 96 * 128 if torch.compiler.is_compiling() else x.shape[2] * x.shape[3]
        return x.sum(dim=(2, 3)) / count


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.pools = nn.ModuleList(nn.AdaptiveAvgPool2d(size) for size in (1, 2, 3, (6, None)))

    def forward(self, x):
        return tuple(pool(x) for pool in self.pools)


def of(network, outputs=("y",), **options):
    return Exportable(network, outputs, FEATURES, **options)


def test_a_graph_that_is_right_at_the_traced_size_alone_leaves_no_file(tmp_path):
    out = tmp_path / "a.onnx"
    out.write_bytes(b"before")
    with pytest.raises(
        UserError,
        match=r"the written file differs from PyTorch by .* more than the 0.0001 that fp32 may",
    ):
        export(of(FrozenMean()), out, Options())
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [
        ("a.onnx", b"before")
    ]


def test_adaptive_pooling_is_exact_at_every_size(tmp_path):
    model = of(Pyramid(), ("a", "b", "c", "d"))
    export(model, tmp_path / "a.onnx", Options())
    run = open_exported(tmp_path / "a.onnx").run
    for height, width in ((33, 57), (64, 35), (47, 101)):
        x = torch.rand(2, 3, height, width)
        for y, size in zip(run(x.numpy()).values(), (1, 2, 3, (6, width)), strict=True):
            np.testing.assert_allclose(y, F.adaptive_avg_pool2d(x, size).numpy(), atol=1e-6)


@pytest.mark.parametrize(("length", "count"), [(1, 1), (7, 6), (5, 6), (12, 3), (100, 7)])
def test_windows_are_those_of_torch(length, count):
    x = torch.rand(length)
    wanted = F.adaptive_avg_pool1d(x[None], count)[0]
    torch.testing.assert_close(pooling.windows(length, count) @ x, wanted)


class BySize(nn.Module):
    def forward(self, x):
        return x.sum(dim=(1, 2, 3)) if x.shape[2] < 100 else x.amax(dim=(1, 2, 3))


class ByValue(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = Gate()

    def forward(self, x):
        return self.gate(x)


class Gate(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (BySize(), r"BySize.*cannot be exported for batch any, height and width any from 32 on"),
        (ByValue(), r"gate \(Gate\) cannot be exported"),
    ],
)
def test_what_depends_on_the_size_or_on_values_is_refused_by_name(tmp_path, network, words):
    with pytest.raises(UserError, match=words):
        export(of(network), tmp_path / "a.onnx", Options())
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_cannot_be_dynamic_is_asked_for(tmp_path):
    model = of(BySize(), fixed={"hw": "BySize sums at some sizes and not at others"})
    with pytest.raises(UserError, match=r"BySize sums at some sizes.*give one with --fixed HxW"):
        export(model, tmp_path / "a.onnx", Options())
    rows = export(model, tmp_path / "a.onnx", Options(fixed=(64, 96)))
    assert [row.images for row in rows] == ["2 of 64x96", "1 of 64x96", "3 of 64x96"]


def test_sizes_that_are_checked_differ_from_the_traced_one_and_in_batch():
    for model in (of(FrozenMean()), of(FrozenMean(), multiple=32, least=64)):
        shapes = shapes_of(model, ("hw", "batch"), None, None)
        (traced, *others) = checked_shapes(shapes)
        assert all(other[1:] != traced[1:] for other in others)
        assert len({n for n, _, _ in others}) > 1
        assert all(s % model.multiple == 0 and s >= model.least for _, *hw in others for s in hw)


# ---- fp16 that detects ---------------------------------------------------------------------------
@pytest.mark.parametrize(("version", "size"), [(1, 1e4), (2, 1e4)])
def test_float16_keeps_statistics_in_float32(tmp_path, version, size):
    """By ONNX's reference evaluator, which computes float16 in float16; ONNX Runtime's CPU widens it."""
    model = of_large_maps(version, size)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        wanted = model.network(x)[-1]
        greatest = float(hidden(model.network, x))
    assert greatest > size / 2
    export(model, tmp_path / "a.onnx", Options(precision="fp16", pixels=False))
    evaluator = onnx.reference.ReferenceEvaluator
    found = evaluator(onnx.load(tmp_path / "a.onnx")).run(None, {"images": x.numpy()})[-1]
    assert np.isfinite(found).all()
    assert np.abs(found - wanted.numpy()).max() < 2e-2 * wanted.abs().max()


def of_large_maps(version, size):
    """A backbone whose maps reach `size` at every norm."""
    model = tiny.backbone(version)
    block = model.network.stages[0][0]
    block.dwconv.weight.data *= size / 4
    if version == 2:  # what GRN sums
        block.pwconv1.weight.data *= size / 2
        block.pwconv2.weight.data /= size
    return model


def hidden(network, x):
    seen = []
    block = network.stages[0][0]
    part = block.norm if block.grn is None else block.grn
    part.register_forward_pre_hook(lambda module, args: seen.append(args[0].abs().max()))
    network(x)
    part._forward_pre_hooks.clear()
    return seen[0]


# ---- the command ---------------------------------------------------------------------------------
def exported(*arguments):
    return run("export", [str(a) for a in arguments])


def refused(capsys, *arguments):
    try:
        status = exported(*arguments)
    except SystemExit as end:
        status = end.code
    assert status == 2
    return capsys.readouterr().err


def test_the_command_writes_a_classifier_and_prints_the_report(tmp_path, checkpoint, capsys):
    out = tmp_path / "atto.onnx"
    assert (
        exported("convnextv2_atto", checkpoint, "--to", "onnx", "--fixed", "32x64", "--out", out)
        == 0
    )
    printed = capsys.readouterr().out
    assert "2 of 32x64         logits    greatest" in printed
    assert f"{out}: " in printed
    assert "agrees with PyTorch to" in printed
    out.unlink()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "onnx", "--out", "a.pb"], "a file of onnx ends in .onnx"),
        (["--to", "onnx", "--out", "no/a.onnx"], "there is no folder no; make it first"),
        (["--to", "onnx", "--out", "folder.onnx"], "folder.onnx is a folder"),
        (["--to", "onnx", "--out", "a.onnx", "--fixed", "64"], "'64' is no size; write HEIGHTxWIDTH"),
        (["--to", "onnx", "--out", "a.onnx", "--fixed", "16x64"], "16x64: .* at least 32 pixels"),
        (["--to", "onnx", "--out", "a.onnx", "--dynamic", "batch"], "give it with --fixed HxW"),
        (["--to", "onnx", "--out", "a.onnx", "--dynamic", "hw", "--fixed", "64x64"], "give one of the two"),
        (["--to", "onnx", "--out", "a.onnx", "--bf16"], "ONNX Runtime computes no bfloat16"),
        (["--to", "onnx", "--out", "a.onnx", "--pictures", "no.jpg"], "no.jpg"),
        (["--to", "onnx", "--out", "a.onnx", "--features", "stage9"], "stage9"),
        (["--to", "onnx", "--out", "a.onnx", "--shrink"], "change a config; a model's name has none"),
    ],
)  # fmt: skip
def test_wrong_options_each_get_a_sentence(
    tmp_path, monkeypatch, checkpoint, capsys, arguments, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    err = refused(capsys, "convnextv2_atto", checkpoint, *arguments)
    assert re.search(words, err), err
    assert [file.name for file in tmp_path.iterdir()] == ["folder.onnx"]


def test_other_names_and_checkpoints_get_a_sentence(tmp_path, checkpoint, capsys):
    end = ["--to", "onnx", "--out", tmp_path / "a.onnx"]
    assert "did you mean" in refused(capsys, "convnextv2_ato", checkpoint, *end)
    assert "no-such.pth" in refused(capsys, "convnextv2_atto", "no-such.pth", *end)
    assert "convnextv2_pico" in refused(capsys, "convnextv2_pico", checkpoint, *end)
    headless = tmp_path / "headless.pth"
    state = torch.load(checkpoint)
    torch.save({k: v for k, v in state.items() if not k.startswith(("head", "norm."))}, headless)
    assert "has no head: it classifies nothing. Give --features" in refused(
        capsys, "convnextv2_atto", headless, *end
    )
    headless.unlink()


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"openvino is not installed.*convnext_backbones\[export\]"):
        export(tiny.classifier(), tmp_path / "a.xml", Options(to="openvino"))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "written", lambda *a, **o: full)
    with pytest.raises(UserError, match=r"a\.onnx cannot be written: the disk is full"):
        export(tiny.classifier(), tmp_path / "a.onnx", Options())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_export_is_refused_by_name(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a\.onnx cannot be read as onnx"):
        open_exported(tmp_path / "a.onnx")
    with pytest.raises(UserError, match="there is no file"):
        open_exported(tmp_path / "b.onnx")
    with pytest.raises(UserError, match=r"those end in \.onnx, \.xml, \.pt2"):
        open_exported(tmp_path / "b.pth")
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> g (float[N] x) => (float[N] y) { y = Relu(x) }'
    )
    onnx.save(model, tmp_path / "c.onnx")
    with pytest.raises(UserError, match="holds no metadata of convnext-backbones export"):
        open_exported(tmp_path / "c.onnx")


TWO = """
import gc, signal, sys
from convnext_backbones.export.opened import open_exported
one, other = open_exported(sys.argv[1]), open_exported(sys.argv[1])
del one
gc.collect()
del other
gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_is_still_heard_after_files_of_openvino(tmp_path):
    file = tmp_path / "a.xml"
    export(tiny.classifier(), file, Options(to="openvino"))
    result = subprocess.run([sys.executable, "-c", TWO, str(file)], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "interrupted\n"), result.stderr


def test_the_options_of_a_file_are_read_as_written():
    assert size_of("512x1024") == (512, 1024)
    assert command._free("hw, batch") == ("hw", "batch")
    assert json.dumps(writing.INPUT) == '"images"'
