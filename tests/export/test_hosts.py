"""Whole detectors and segmentors as files: the frameworks' own results at other sizes and batches, the same
overlays by predict, and a server without torch."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from randomness import random_state

from convnext_backbones.cli import run
from convnext_backbones.errors import UserError
from convnext_backbones.export import operators, writing
from convnext_backbones.export.files import Options, export
from convnext_backbones.runs import exported

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
host = pytest.importorskip("convnext_backbones.adapters.openmmlab.run")
exportable = importlib.import_module("convnext_backbones.adapters.openmmlab.export").exportable

ROOT = Path(__file__).parent.parent.parent
UPERNET = ROOT / "configs/ade20k_upernet_convnextv2_atto.py"
RTMDET = ROOT / "configs/coco_rtmdet_convnextv2_atto.py"
SMALL_UPERNET = (
    "model.decode_head.channels=16", "model.auxiliary_head.channels=16",
    "test_dataloader.dataset.pipeline.1.scale=(160,96)",
    "model.test_cfg.crop_size=(96,96)", "model.test_cfg.stride=(64,64)",
)  # fmt: skip
SMALL_RTMDET = (
    "model.neck.out_channels=16", "model.bbox_head.in_channels=16", "model.bbox_head.feat_channels=16",
    "model.neck.num_csp_blocks=1", "model.bbox_head.stacked_convs=1",
    "model.bbox_head.norm_cfg.num_groups=8", "model.test_cfg.nms_pre=200", "model.test_cfg.max_per_img=20",
    "test_dataloader.dataset.pipeline.1.scale=(128,96)", "test_dataloader.dataset.pipeline.2.size=(160,96)",
    "model.data_preprocessor.pad_size_divisor=32",
)  # fmt: skip


def save_checkpoint(config, options, path):
    """Weights under which every parameter matters, as a run saves them."""
    changes = host.overrides(type("args", (), {"cfg_options": list(options)}))
    cfg = host.load_config(str(config), shrink=True, options=changes)
    model = host.build_model(cfg, "cpu")
    for name, values in random_state(model).items():
        model.get_parameter(name).data = values
    torch.save({"state_dict": model.state_dict(), "meta": {}}, path)


def exported_file(config, options, folder):
    """A checkpoint and an ONNX file of it, by the command; the command's arguments of both."""
    save_checkpoint(config, options, folder / "last.pth")
    of = [str(config), str(folder / "last.pth"), "--shrink", "--cfg-options", *options]
    assert run("export", [*of, "--to", "onnx", "--out", str(folder / "model.onnx")]) == 0
    return of, folder / "model.onnx"


@pytest.fixture(scope="module")
def upernet(tmp_path_factory):
    yield from made(UPERNET, SMALL_UPERNET, tmp_path_factory.mktemp("upernet"))


@pytest.fixture(scope="module")
def rtmdet(tmp_path_factory):
    yield from made(RTMDET, SMALL_RTMDET, tmp_path_factory.mktemp("rtmdet"))


def made(config, options, folder):
    of, file = exported_file(config, options, folder)
    yield of, file, pictures_in(folder)
    for path in (folder / "last.pth", file):
        path.unlink()


def pictures_in(folder):
    for k, size in enumerate([(128, 96), (200, 150), (128, 96)]):
        rng = np.random.default_rng(k)
        patches = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8))
        patches.resize(size, Image.Resampling.NEAREST).save(folder / f"{k}.png")
    return sorted(folder.glob("?.png"))


def predictions(of, file, pictures, folder, save):
    """What predict writes by the checkpoint and by the file, as two folders."""
    pictures = [str(p) for p in pictures]
    end = ["--save", save, "--score", "0.05", "--out"]
    config, checkpoint, *options = of
    assert run("predict", [config, checkpoint, *pictures, *end, str(folder / "a"), *options]) == 0
    assert run("predict", ["--model", str(file), *pictures, *end, str(folder / "b"), "--batch-size", "2"]) == 0  # fmt: skip
    return folder / "a", folder / "b"


def test_a_segmentor_draws_the_same_from_its_file_by_windows(upernet, tmp_path):
    of, file, pictures = upernet
    about = exported.load(file).dataset_meta
    assert about["windows"] == {"size": [96, 96], "stride": [64, 64]}
    a, b = predictions(of, file, pictures, tmp_path, "masks,overlays")
    for k in range(3):
        one, other = (np.asarray(Image.open(x / f"masks/{k}.png")) for x in (a, b))
        assert len(np.unique(one)) > 1
        assert (one == other).mean() > 0.999
        one, other = (np.asarray(Image.open(x / f"overlays/{k}.png"), int) for x in (a, b))
        assert (np.abs(one - other).max(-1) > 8).mean() < 0.01


def test_a_segmentor_is_right_where_frozen_pooling_was_not(upernet):
    """At the sizes at which an export of the host's own pooling is wrong, or fails."""
    _, file, _ = upernet
    rows = exported.load(file).dataset_meta["differences"]
    assert "1 of 64x64" in {row["images"] for row in rows}
    assert max(row["relative"] for row in rows) < 1e-5


@pytest.mark.slow
def test_a_detector_finds_the_same_from_its_file(rtmdet, tmp_path):
    of, file, pictures = rtmdet
    a, b = predictions(of, file, pictures, tmp_path, "json")
    one, other = (json.loads((x / "results.json").read_text()) for x in (a, b))
    found = [[(e["image_id"], e["category_id"], *e["bbox"], e["score"]) for e in x["annotations"]] for x in (one, other)]  # fmt: skip
    assert len(found[0]) > 10
    assert len(found[0]) == len(found[1])
    np.testing.assert_allclose(sorted(found[0]), sorted(found[1]), atol=1e-2)


def test_the_serving_example_needs_the_runtime_alone(tmp_path):
    export(tiny.classifier(), tmp_path / "a.onnx", Options())
    check_served(tmp_path / "a.onnx", pictures_in(tmp_path), "logits")


@pytest.mark.slow
def test_the_serving_example_resizes_and_pads_for_a_detector(rtmdet):
    _, file, pictures = rtmdet
    served = check_served(file, pictures, "scores")
    (found,) = exported.infer(exported.load(file), pictures[:1])
    np.testing.assert_allclose(served[0], found.outputs["scores"], atol=1e-5)


def check_served(file, pictures, name):
    """The outputs `name` that docs/serve_onnx.py prints of pictures."""
    code = (
        "import runpy, sys; script, *sys.argv = sys.argv[1:]; sys.argv.insert(0, script)\n"
        "runpy.run_path(script)\nassert not {'torch', 'mmdet', 'convnext_backbones'} & set(sys.modules)"
    )
    script = ROOT / "docs/serve_onnx.py"
    assert len(script.read_text().splitlines()) <= 40
    done = subprocess.run(
        [sys.executable, "-c", code, script, file, *pictures, "--batch", "2", "--throughput"],
        capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["0.png", "1.png", "2.png"]
    return [line[name] for line in lines]


def test_a_model_that_no_graph_is_known_of_is_refused_by_name():
    class RetinaNet(torch.nn.Module):
        pass

    with pytest.raises(UserError, match=r"RetinaNet cannot be exported.*RTMDet.*--features"):
        exportable(None, RetinaNet())


# ---- operators -----------------------------------------------------------------------------------
class Operators(torch.nn.Module):
    def forward(self, boxes, scores, one, two, rois, levels):
        keep = operators.kept(boxes, scores, 0.5, 0.1, 7)
        pooled = operators.pooled_rois([one, two], rois, levels, [0.25, 0.125], 3, 2, 0, True)
        return keep, pooled


def test_suppression_and_region_pooling_are_torchvisions_in_onnx():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 40, 2, generator=generator) * 60
    boxes = torch.cat((corners, corners + 5 + torch.rand(2, 40, 2, generator=generator) * 30), 2)
    rois = torch.cat((torch.tensor([0.0, 1] * 3)[:, None], boxes[0, :6]), 1)
    inputs = (
        boxes, torch.rand(2, 40, generator=generator), torch.rand(2, 4, 24, 24, generator=generator),
        torch.rand(2, 4, 12, 12, generator=generator), rois, torch.tensor([0, 1, 0, 1, 1, 0]),
    )  # fmt: skip
    program = torch.export.export(Operators(), inputs)
    names = ["boxes", "scores", "one", "two", "rois", "levels"]
    with writing.quiet():
        model = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=names,
            custom_translation_table=operators.translations(),
        )  # fmt: skip
    session = onnxruntime.InferenceSession(model.model_proto.SerializeToString())
    assert {"NonMaxSuppression", "RoiAlign"} <= {n.op_type for n in model.model_proto.graph.node}
    onnx.checker.check_model(model.model_proto)
    for levels in (inputs[-1], torch.zeros(6, dtype=torch.int64)):  # a level without a region, too
        given = (*inputs[:-1], levels)
        keep, pooled = Operators()(*given)
        feed = {name: value.numpy() for name, value in zip(names, given, strict=True)}
        found = session.run(None, feed)
        assert keep.sum() == 14
        np.testing.assert_array_equal(found[0], keep.numpy())
        np.testing.assert_allclose(found[1], pooled.numpy(), atol=1e-5)


# ---- the other families, a minute each -----------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "to", "options"),
    [
        ("coco_mask_rcnn_convnextv2_atto", "onnx", {}),
        ("coco_mask_rcnn_convnextv2_atto", "openvino", {"precision": "fp16"}),
        ("coco_cascade_mask_rcnn_convnextv2_atto", "onnx", {}),
        ("coco_faster_rcnn_convnextv2_atto", "exported-program", {}),
        ("coco_dino_convnextv2_t_22k", "onnx", {"fixed": (96, 128)}),
        ("ade20k_mask2former_convnextv2_t", "onnx", {"fixed": (96, 128)}),
    ],
)
def test_every_family_of_openmmlab(config, to, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = host.load_config(str(ROOT / f"configs/{config}.py"), sample=True, shrink=True)
    model = host.build_model(cfg, "cpu")
    for name, values in random_state(model).items():
        model.get_parameter(name).data = values
    model.test_pipeline = host.test_pipeline(cfg)
    model.dataset_meta = {"classes": ("a", "b")}
    suffix = {"onnx": "onnx", "openvino": "xml"}.get(to, "pt2")
    rows = export(exportable(cfg, model), tmp_path / f"a.{suffix}", Options(to=to, **options))
    assert len(rows) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("config", ["coco_mask_rcnn_convnextv2_atto", "ade20k_sem_seg_fpn_convnextv2_atto"])  # fmt: skip
def test_every_family_of_detectron2(config, tmp_path, monkeypatch):
    detectron2 = pytest.importorskip("convnext_backbones.adapters.detectron2.run")
    from convnext_backbones.adapters.detectron2.export import exportable as of_detectron2

    monkeypatch.chdir(tmp_path)
    made = detectron2.load_config(str(ROOT / f"configs/detectron2/{config}.py"), sample=True, shrink=True)  # fmt: skip
    model = detectron2.build_model(made, "cpu").eval()
    for name, values in random_state(model).items():
        model.get_parameter(name).data = values
    model.test_mapper, model.dataset_meta = made.build_test_mapper(), {}
    exportable = of_detectron2(made, model)
    rows = export(exportable, tmp_path / "a.onnx", Options())
    assert len(rows) >= 4
    if exportable.task == "label map":  # its shortest edge is 0: pictures as they are
        assert exportable.about["resize"] is None
