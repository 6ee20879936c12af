"""One place asks the processor, and a variable masks what it has."""

import pytest
import torch
from randomness import random_images, randomised, relative_difference

from convnext_backbones import ConvNeXtV2, prepare_for_inference
from convnext_backbones.errors import UserError
from convnext_backbones.kernels import cpp, processor
from convnext_backbones.kernels.cpp import library, modules
from convnext_backbones.network.prepared import fastest_dtype

ALL = "amx,avx512,avx2,bf16,compiler"


@pytest.fixture
def everything(monkeypatch):
    """A processor that has all we ask for, and a compiler."""
    monkeypatch.delenv(processor.VARIABLE, raising=False)
    monkeypatch.setattr(processor, "_capabilities", lambda: dict.fromkeys(processor._ASKED, True))
    monkeypatch.setattr(processor.shutil, "which", lambda name: f"/usr/bin/{name}")


@pytest.mark.parametrize(
    ("mask", "has_amx", "has_avx512", "bfloat16", "compiler"),
    [
        ("", True, True, True, True),
        ("amx", False, True, True, True),
        ("avx512", True, False, True, True),
        ("bf16", True, True, False, True),
        ("amx, avx512", False, False, False, True),
        ("compiler", True, True, True, False),
        (ALL, False, False, False, False),
    ],
)
def test_what_is_masked_is_missing(
    everything, monkeypatch, mask, has_amx, has_avx512, bfloat16, compiler
):
    monkeypatch.setenv(processor.VARIABLE, mask)
    assert processor.processor_has("amx_tile") == has_amx
    assert processor.processor_has("avx512_f") == has_avx512
    assert processor.computes_in_bfloat16() == bfloat16
    assert (processor.cxx_compiler() is not None) == compiler


def test_every_capability_that_the_kernels_need_can_be_masked(monkeypatch):
    monkeypatch.setenv(processor.VARIABLE, ALL)
    for family in cpp.FAMILIES.values():
        assert set(family.needed) <= processor.masked()


def test_a_word_that_masks_nothing_is_refused(monkeypatch):
    monkeypatch.setenv(processor.VARIABLE, "amx,avx-512")
    with pytest.raises(
        UserError, match="holds 'avx-512'; it takes amx, avx512, avx2, bf16, compiler"
    ):
        processor.processor_has("avx2")


def test_a_masked_processor_prepares_in_float32_and_says_why_there_is_no_kernel(
    everything, monkeypatch
):
    model = randomised(ConvNeXtV2(dict(depths=(1,), dims=(8,))))
    assert fastest_dtype(model) == torch.bfloat16
    monkeypatch.setenv(processor.VARIABLE, ALL)
    assert fastest_dtype(model) == torch.float32
    assert "lacks amx_tile, amx_bf16, avx512_f" in cpp.why_not("amx")
    assert cpp.choice(torch.float32) == (None, "this processor lacks avx2")


def test_without_a_compiler_the_reason_says_what_to_install(everything, monkeypatch):
    monkeypatch.setattr(library.platform, "system", lambda: "Linux")
    monkeypatch.setenv(processor.VARIABLE, "compiler")
    assert cpp.why_not("avx2") == "no C++ compiler was found; install g++ or set CXX"


@pytest.mark.skipif(
    processor.cxx_compiler() is None or library.platform.system() != "Linux",
    reason="needs Linux and a C++ compiler",
)
@pytest.mark.parametrize("family", cpp.FAMILIES)
def test_the_kernels_compile_where_they_cannot_run(family, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    built = library.build(family, processor.cxx_compiler())
    assert built.read_bytes().startswith(b"\x7fELF")


@pytest.mark.parametrize("family", cpp.FAMILIES)
def test_a_model_prepared_with_kernels_runs_where_they_cannot(family, monkeypatch):
    """As after torch.save on one machine and torch.load on another."""
    monkeypatch.setattr(cpp, "choice", lambda dtype: (family, None))
    model = randomised(ConvNeXtV2(dict(depths=(1, 1), dims=(8, 16))))
    dtype = cpp.FAMILIES[family].dtype
    prepared = prepare_for_inference(model, dtype, compile=True)
    assert prepared.stages[0][0].kernel is not None
    monkeypatch.setattr(modules, "runs_here", lambda family: False)
    images = random_images(1, 3, 32, 32)
    plain = prepare_for_inference(model, dtype)
    for ours, reference in zip(prepared(images), plain(images), strict=True):
        assert relative_difference(ours, reference) == 0


@pytest.mark.parametrize(
    ("vendor", "held_back"),
    [
        ("vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nvendor_id\t: AuthenticAMD\n", True),
        ("vendor_id\t: HygonGenuine\n", True),
        ("vendor_id\t: GenuineIntel\nmodel name\t: Xeon\n", False),
        ("", False),
    ],
)
def test_mkl_is_held_back_on_amds_processors(vendor, held_back, monkeypatch):
    monkeypatch.setattr(processor.Path, "read_text", lambda path: vendor)
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    asked = processor.mkl_is_held_back.__wrapped__
    assert asked() == held_back
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not asked()


def test_without_a_list_of_processors_windows_name_of_it_tells(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(processor.Path, "read_text", missing)
    monkeypatch.setattr(processor.platform, "machine", lambda: "AMD64")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    for name, held_back in (
        ("AMD64 Family 25 Model 1 Stepping 1, AuthenticAMD", True),
        ("Intel64 Family 6 Model 143 Stepping 8, GenuineIntel", False),
    ):
        monkeypatch.setattr(processor.platform, "processor", lambda name=name: name)
        assert processor.mkl_is_held_back.__wrapped__() == held_back


@pytest.mark.parametrize(
    ("mask", "wanted"), [("", True), ("amx", True), ("avx512", True), ("amx,avx512", False)]
)
def test_int8_products_are_asked_for_of_either_kind(everything, monkeypatch, mask, wanted):
    monkeypatch.setenv(processor.VARIABLE, mask)
    assert processor.computes_in_int8() == wanted
