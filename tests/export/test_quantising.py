"""Files in int8: what of a network they quantise, on what they are calibrated, and what they may lose."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from randomness import randomised
from torch import nn

from convnext_backbones.cli import run
from convnext_backbones.data.pictures import read_label_map
from convnext_backbones.data.records import Record, Records
from convnext_backbones.errors import UserError
from convnext_backbones.export.exportable import LABEL_MAP, Exportable
from convnext_backbones.export.files import Options, export
from convnext_backbones.export.opened import open_exported
from convnext_backbones.export.quantising import Accuracy, Int8
from convnext_backbones.runs import calibration
from convnext_backbones.runs.host import Classes, Result

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

IMAGES = torch.rand(8, 3, 48, 40, generator=torch.Generator().manual_seed(1)) * 255


def int8(*, lost=0.5, most_lost=1.0, images=IMAGES):
    """Calibrated on images, with a measurement that says `lost`."""
    return Int8(
        lambda opened: (x[None].numpy() for x in images),
        len(IMAGES),
        lambda before, after: Accuracy("8 pictures", {"mIoU (%)": 50.0}, {"mIoU (%)": 50 - lost}, lost),
        most_lost,
    )  # fmt: skip


def quantised(out, model, to="onnx", images=IMAGES, **options):
    return export(model, out, Options(to=to, precision="int8", int8=int8(images=images), **options))


def made_by(graph):
    """Name of a value to the operator that it comes from."""
    return {name: node.op_type for node in graph.node for name in node.output}


# ---- the file ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def in_onnx(tmp_path_factory):
    """An int8 file and the float one, and what differs."""
    folder = tmp_path_factory.mktemp("onnx")
    export(tiny.backbone(), folder / "exact.onnx", Options())
    return folder, quantised(folder / "a.onnx", tiny.backbone())


def check_near(opened, exact):
    wanted = exact.run(IMAGES[:3].numpy())
    for name, x in opened.run(IMAGES[:3].numpy()).items():
        off = np.sqrt(((x - wanted[name]) ** 2).mean() / (wanted[name] ** 2).mean())
        assert 1e-4 < off < 0.05


def test_an_int8_file_is_near_the_float_one_and_says_what_it_is(in_onnx):
    folder, rows = in_onnx
    assert max(row.relative for row in rows) > 1e-4
    opened = open_exported(folder / "a.onnx")
    check_near(opened, open_exported(folder / "exact.onnx"))
    about = opened.about
    assert about["precision"] == "int8"
    assert about["int8"]["calibration_pictures"] == 8
    assert about["int8"]["layers"] == 4  # two linear layers a block
    assert about["int8"]["after"] == {"mIoU (%)": 49.5}
    assert about["int8"]["exact_form_agrees_to"] < 1e-4
    assert about["int8"]["seconds"]["int8"] > 0
    assert {file.name for file in folder.iterdir()} == {"exact.onnx", "a.onnx"}


def test_openvino_has_its_own_int8_file(in_onnx, tmp_path):
    quantised(tmp_path / "a.xml", tiny.backbone(), "openvino")
    check_near(open_exported(tmp_path / "a.xml"), open_exported(in_onnx[0] / "exact.onnx"))
    assert {file.name for file in tmp_path.iterdir()} == {"a.xml", "a.bin"}


def test_norms_grn_and_a_backbones_convolutions_stay_in_float32(in_onnx):
    graph = onnx.load(in_onnx[0] / "a.onnx").graph
    source = made_by(graph)
    kinds = {"DequantizeLinear", "QuantizeLinear"}
    for node in graph.node:
        inputs = {source.get(name) for name in node.input}
        if node.op_type in ("Pow", "ReduceSum", "Sqrt", "Gelu"):
            assert not inputs & kinds, node.name
        if node.op_type == "MatMul":
            assert inputs == {"DequantizeLinear"}
        if node.op_type == "Conv":
            assert not inputs & kinds
    scales = {t.name: t.dims for t in graph.initializer if t.name.endswith("_scale")}
    assert [32] in [list(dims) for dims in scales.values()]  # a scale for each channel


def test_a_file_of_one_size_keeps_its_batch_free_for_onnx_runtimes_int8_products(tmp_path):
    images = IMAGES.repeat(1, 1, 1, 2)[:, :, :32, :64]
    quantised(tmp_path / "a.onnx", tiny.classifier(), images=images, fixed=(32, 64), batch=1)
    dims = onnx.load(tmp_path / "a.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims[1:]] == [3, 32, 64]
    assert dims[0].dim_param
    assert open_exported(tmp_path / "a.onnx").about["batch"] == 1


def test_only_the_modules_that_may_be_low_are_quantised(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

        def forward(self, x):
            return self.second(self.first(x).relu())

    quantised(tmp_path / "a.onnx", Exportable(Two(), ("y",), "features", low=("first",)))
    assert open_exported(tmp_path / "a.onnx").about["int8"]["layers"] == 1


def test_a_file_that_loses_more_than_it_may_is_not_kept(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"before")
    options = Options(precision="int8", int8=int8(lost=2.5, most_lost=2.0))
    with pytest.raises(
        UserError,
        match=r"--int8 loses 2\.5 points, more than the 2 of --most-lost: mIoU \(%\) 50 -> 47\.5 on 8 pictures",
    ):
        export(tiny.backbone(), tmp_path / "a.onnx", options)
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("a.onnx", b"before")]


def test_a_network_without_layers_of_weights_is_refused(tmp_path):
    model = Exportable(nn.ReLU(), ("y",), "features")
    with pytest.raises(UserError, match="no convolution and no linear layer"):
        quantised(tmp_path / "a.onnx", model)
    assert list(tmp_path.iterdir()) == []


# ---- of a config ---------------------------------------------------------------------------------
@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k, image in enumerate(IMAGES.permute(0, 2, 3, 1).numpy().astype(np.uint8)):
        Image.fromarray(image).save(folder / f"{k}.png")
    return folder


def host_of(files, error=None):
    records = Records(
        "train", "label maps", ("a", "b"), [Record(str(f)) for f in files], error=error
    )
    return SimpleNamespace(records=lambda config, split, *, most=None: records)


def of_config(host, measure=None, **options):
    options = dict(calibration=None, evaluate=None, most_lost=None) | options
    return calibration.of_config(host, None, measure, **options)


def segmentor():
    return Exportable(
        randomised(nn.Conv2d(3, 2, 3, padding=1)), ("logits",), LABEL_MAP, mean=(100.0,) * 3, std=(50.0,) * 3,
        about={"classes": ["a", "b"], "palette": [], "resize": None, "windows": {"size": [40, 40], "stride": [8, 40]}},
        least=40,
    )  # fmt: skip


def test_calibration_takes_training_pictures_as_predict_does_and_the_evaluator_judges(
    tmp_path, pictures
):
    files, seen = sorted(pictures.iterdir()), []

    def measure(see, most):
        seen.append(see(files[0]).label_map)
        return {"mIoU (%)": 60.0 - len(seen), "pixel accuracy (%)": 9.0}, most

    made = of_config(host_of(files), measure, evaluate=5, most_lost=1.5)
    shapes = []
    inputs = made.inputs
    made = made._replace(
        inputs=lambda opened: (shapes.append(x.shape) or x for x in inputs(opened))
    )
    export(segmentor(), tmp_path / "a.onnx", Options(precision="int8", int8=made))
    assert shapes == [(1, 3, 40, 40)] * 16  # two windows a picture
    assert [y.shape for y in seen] == [(48, 40)] * 2
    found = open_exported(tmp_path / "a.onnx").about["int8"]
    assert found["lost"] == 1.0
    assert found["measured_on"] == "5 pictures of the validation set"
    assert found["before"] == {"mIoU (%)": 59.0}


def test_ap_counts_in_points_of_a_hundred_and_an_untrained_model_is_told(capsys):
    values = iter([{"box AP": 0.4, "mask AP": 0.5}, {"box AP": 0.41, "mask AP": 0.47}, {"box AP": 0.001}, {"box AP": 0.0}])  # fmt: skip
    opened = SimpleNamespace(about={})
    made = of_config(host_of(["a.png"] * 9), lambda see, most: (next(values), 3), calibration="8")
    accuracy = made.accuracy(opened, opened)
    assert accuracy.lost == pytest.approx(3)
    assert str(accuracy) == (
        "box AP 0.4 -> 0.41, mask AP 0.5 -> 0.47 on 3 pictures of the validation set"
    )
    made.accuracy(opened, opened)
    assert "the float file itself reaches box AP 0.001" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        ([], {}, "calibrates on pictures of the training set, and there are none: the config has none"),
        (["a.png"], {}, "the training set holds one picture; the ranges of 8 or more are needed"),
        (["a.png"] * 20, {"calibration": "3"}, "--calibration 3: take 8 pictures or more; 32 will do"),
        (["a.png"] * 20, {"calibration": "no/such"}, "there is no such folder; give one of pictures"),
        (["a.png"] * 20, {"calibration": "."}, r"\. holds no picture; the ranges of 8"),
    ],
)  # fmt: skip
def test_too_few_calibration_pictures_get_a_sentence(tmp_path, monkeypatch, files, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        of_config(host_of(files), **options)


def test_an_unreadable_training_set_says_why():
    with pytest.raises(UserError, match=r"there are none: no a\.json\. Give a folder"):
        of_config(host_of([], error="no a.json"))


def test_a_config_without_validation_data_is_refused_before_anything_is_exported():
    host = SimpleNamespace(records=lambda config, split, *, most=None: None)
    with pytest.raises(UserError, match="on the validation set, and the config has none"):
        of_config(host)


def test_other_metrics_from_0_to_1_count_in_points_of_a_hundred_too():
    values = iter([{"mAP": 0.5}, {"mAP": 0.48}])
    made = of_config(host_of(["a.png"] * 9), lambda see, most: (next(values), 3))
    opened = SimpleNamespace(about={})
    assert made.accuracy(opened, opened).lost == pytest.approx(2)


def test_pictures_are_spread_over_a_set():
    assert calibration.spread(10, 4) == [0, 2, 5, 7]
    assert calibration.spread(3, 8) == [0, 1, 2]


# ---- the command ---------------------------------------------------------------------------------
def test_the_command_quantises_a_classifier_by_a_folder(tmp_path, checkpoint, pictures, capsys):
    out = tmp_path / "a.onnx"
    end = ["--to", "onnx", "--fixed", "48x64", "--int8", "--calibration", str(pictures), "--out"]
    more = ["--most-lost", "50"]  # of random weights
    assert run("export", ["convnextv2_atto", str(checkpoint), *end, str(out), *more]) == 0
    told = capsys.readouterr().out
    assert re.search(
        r"MB, int8; 25 layers, calibrated on 6 pictures; difference from float32", told
    )
    assert "on 2 other pictures of" in told
    assert re.search(r"\d+ ms instead of \d+ in float32 by ONNX Runtime \(2 of 48x64\)", told)
    out.unlink()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "onnx", "--int8"], "a model's name has no training set: give a folder"),
        (["--to", "onnx", "--int8", "--calibration", "32"], "a model's name has no training set"),
        (["--to", "onnx", "--int8", "--calibration", "no"], "--calibration no: there is no such folder"),
        (["--to", "onnx", "--int8", "--fp16"], "not allowed with argument"),
        (["--to", "exported-program", "--int8"], "--int8 is for --to onnx and openvino"),
        (["--to", "onnx", "--calibration", "32"], "--calibration is about --int8; add that"),
        (["--to", "onnx", "--most-lost", "2"], "--most-lost is about --int8"),
        (["--to", "onnx", "--int8", "--calibration", "{}", "--evaluate", "3"], "--evaluate counts pictures"),
    ],
)  # fmt: skip
def test_wrong_options_of_int8_each_get_a_sentence(
    tmp_path, checkpoint, pictures, capsys, arguments, words
):
    arguments = [a.format(pictures) for a in arguments]
    suffix = ".pt2" if "exported-program" in arguments else ".onnx"
    out = tmp_path / f"a{suffix}"
    try:
        status = run("export", ["convnextv2_atto", str(checkpoint), *arguments, "--out", str(out)])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert re.search(words, capsys.readouterr().err)
    assert not out.exists()


# ---- the frameworks' evaluators ------------------------------------------------------------------
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("framework", "config", "metric", "whole"),
    [
        ("openmmlab", "ade20k_upernet_convnextv2_atto", "mIoU (%)", 100),
        ("openmmlab", "coco_rtmdet_convnextv2_atto", "box AP", 1),
        ("detectron2", "detectron2/ade20k_sem_seg_fpn_convnextv2_atto", "mIoU (%)", 100),
        ("detectron2", "detectron2/coco_mask_rcnn_convnextv2_atto", "box AP", 1),
    ],
)
def test_a_configs_evaluator_gives_its_own_annotations_all_points(
    framework, config, metric, whole, tmp_path, monkeypatch
):
    host = pytest.importorskip(f"convnext_backbones.adapters.{framework}.run")
    judged = pytest.importorskip(f"convnext_backbones.adapters.{framework}.judged")
    monkeypatch.chdir(tmp_path)
    made = host.load_config(str(ROOT / f"configs/{config}.py"), sample=True, shrink=True)
    host.set_work_dir(made, tmp_path / "run")
    data = host.records(made, "val")
    truth = {Path(record.picture).resolve(): record for record in data.records}
    found, count = judged.accuracy(made, lambda file: seen(truth[file.resolve()], data), 5)
    assert count == 5
    assert found[metric] == pytest.approx(whole)
    none = judged.accuracy(made, lambda file: seen(data.records[0], data), 5)[0]
    assert none[metric] < 0.7 * whole


def seen(record, data):
    """An annotation as a prediction."""
    classes = Classes(data.classes)
    if record.label_map is None:
        boxes = np.array(record.boxes, np.float32)
        return Result(classes, boxes=boxes, labels=np.array(record.labels), scores=np.ones(len(boxes), np.float32))  # fmt: skip
    values = read_label_map(record.label_map).astype(np.int64)
    labels = values.copy()
    for value, label in data.renumber.items():
        labels[values == value] = label
    labels[labels >= len(data.classes)] = 0  # no class, which counts for nothing
    return Result(classes, label_map=labels)
