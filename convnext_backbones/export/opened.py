"""An exported file, opened by its runtime: images to named arrays, and what it says of itself."""

import functools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..errors import UserError

KEY = "convnext_backbones"  # of the metadata
ONNX, OPENVINO, PROGRAM = "onnx", "openvino", "exported-program"
SUFFIXES = {ONNX: ".onnx", OPENVINO: ".xml", PROGRAM: ".pt2"}
LIBRARIES = {ONNX: "onnxruntime", OPENVINO: "openvino"}


class Opened(NamedTuple):
    """A file that can be run: (N, C, H, W) float32 to arrays by name. about: its metadata."""

    run: Callable[[np.ndarray], dict[str, np.ndarray]]
    about: dict


def is_exported(path: str | Path) -> bool:
    """Whether a file's name is that of an export."""
    return Path(path).suffix.lower() in SUFFIXES.values()


def open_exported(path: str | Path, *, throughput: bool = False) -> Opened:
    """Open a file that export wrote, on the CPU.

    throughput: of many images in a time rather than of one (OpenVINO's hint; ONNX Runtime's parallel
    branches).

    Raises:
        UserError: it is not there, cannot be read, has no metadata of export, or its runtime is missing.
    """
    path = Path(path)
    kind = next((kind for kind, suffix in SUFFIXES.items() if suffix == path.suffix.lower()), None)
    if kind is None:
        raise UserError(f"{path} is no exported file: those end in {', '.join(SUFFIXES.values())}")
    if not path.is_file():
        raise UserError(f"there is no file {path}; export writes it")
    try:
        return _OPENERS[kind](path, throughput)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise missing_library(error.name, f"{path} is run by it") from error
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as {kind}: {str(error).strip().splitlines()[0]:.200}; export it again"
        ) from error


def missing_library(name: str, why: str) -> UserError:
    """The sentence for a runtime that is not installed."""
    return UserError(
        f'{name} is not installed, and {why}: pip install "convnext_backbones[export]"'
    )


def _about(text: str | None, path: Path) -> dict:
    try:
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path} holds no metadata of convnext-backbones export, which say how pictures come into it; "
            "export the model with it"
        ) from error


def _onnx(path: Path, throughput: bool) -> Opened:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Its threads would go on for 30 ms after a run, on the cores of whoever computes next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if throughput:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    about = _about(session.get_modelmeta().custom_metadata_map.get(KEY), path)
    names, image = [o.name for o in session.get_outputs()], session.get_inputs()[0].name

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {image: images}), strict=True))

    return Opened(run, about)


@functools.cache
def _openvino_core():
    """The one Core of a process, kept to its end. OpenVINO's CPU plugin gives the thread a stack for signals;
    where two Cores end in the order in which they began, it is left with freed memory, and the next signal
    that Python handles, such as Ctrl-C, is a segmentation fault (2026.4.1)."""
    import openvino

    return openvino.Core()


def _openvino(path: Path, throughput: bool) -> Opened:
    core = _openvino_core()
    network = core.read_model(path)
    text = network.get_rt_info(KEY).value if network.has_rt_info(KEY) else None
    about = _about(text, path)
    compiled = core.compile_model(
        network,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if about["precision"] == "bf16" else "f32",
            "PERFORMANCE_HINT": "THROUGHPUT" if throughput else "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        },
    )
    names = about["outputs"]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        results = compiled(images)
        return {name: results[k].copy() for k, name in enumerate(names)}

    return Opened(run, about)


def _program(path: Path, throughput: bool) -> Opened:
    from . import operators  # noqa: F401  (which a detector's program names)

    extra = {KEY: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, on its own deprecations
        program = torch.export.load(path, extra_files=extra)
    about = _about(extra[KEY], path)
    module = program.module()
    names = about["outputs"]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = module(torch.from_numpy(images))
        return {name: y.numpy() for name, y in zip(names, outputs, strict=True)}

    return Opened(run, about)


_OPENERS = {ONNX: _onnx, OPENVINO: _openvino, PROGRAM: _program}
