"""predict says what test says: one pipeline, one reader, the names of the checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope

from convnext_backbones.adapters.openmmlab import prediction, run
from convnext_backbones.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"
SEGMENTATION, DETECTION = "ade20k_upernet_convnextv2_atto", "coco_mask_rcnn_convnextv2_atto"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two photos, one turned by EXIF, with label maps and a COCO JSON of the frame that is shown."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, options in (("a", {}), ("b", {"exif": exif})):
        pixels = rng.integers(0, 256, (8, 12, 3), np.uint8)
        Image.fromarray(pixels).resize((120, 80)).save(root / f"{name}.jpg", **options)
        shown = (120, 80) if options else (80, 120)
        Image.fromarray(np.ones(shown, np.uint8)).save(root / f"{name}.png")
    (root / "val.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.jpg", "width": 120, "height": 80}, '
        '{"id": 2, "file_name": "b.jpg", "width": 80, "height": 120}], "annotations": [], '
        '"categories": [{"id": 1, "name": "person"}]}'
    )
    return root


def config(name, data, **options):
    cfg = run.load_config(str(CONFIGS / f"{name}.py"), shrink=True, options=options)
    dataset = cfg.test_dataloader.dataset
    dataset.data_root = str(data)
    if name == SEGMENTATION:
        dataset.data_prefix = dict(img_path="", seg_map_path="")
        dataset.pipeline[1].scale = (200, 96)  # the user's own, which test_pipeline does not have
    else:
        dataset.update(ann_file="val.json", data_prefix=dict(img=""))
        cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
        dataset.pipeline[1].scale = (200, 96)
    return cfg


def saved(cfg, tmp_path, meta):
    """A checkpoint of fresh weights, which see something everywhere."""
    model = run.build_model(cfg, "cpu")
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path / "iter_1.pth"
    meta = {"dataset_meta": meta, "iter": 1, "epoch": 1}
    state = {"state_dict": model.state_dict(), "meta": meta, "optimizer": {}, "message_hub": {}}
    torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("name", [SEGMENTATION, DETECTION])
def test_predict_and_test_agree_bit_for_bit(name, data, tmp_path):
    cfg = config(name, data)
    names = tuple(f"class {k}" for k in range(150 if name == SEGMENTATION else 80))
    model = run.load_model(cfg, saved(cfg, tmp_path, {"classes": names}), "cpu")
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    for index in range(2):
        with torch.no_grad():
            tested = model.test_step(pseudo_collate([dataset[index]]))[0]
        predicted = run.infer(model, [Path(tested.img_path)])[0]
        for key in ("ori_shape", "img_shape"):
            assert tested.metainfo[key] == predicted.metainfo[key]
        ours, theirs = (run.result_of(s, {}, 0.0) for s in (predicted, tested))
        if name == SEGMENTATION:
            assert (ours.label_map == theirs.label_map).all()
            assert (ours.confidence == theirs.confidence).all()
        else:
            assert len(ours.boxes)
            for key in ("boxes", "scores", "labels", "masks"):
                assert (getattr(ours, key) == getattr(theirs, key)).all()


def test_a_batch_holds_pictures_of_any_sizes(data, tmp_path):
    cfg = config(SEGMENTATION, data)
    model = run.load_model(cfg, saved(cfg, tmp_path, {"classes": ("a",)}), "cpu")
    files = [data / "a.jpg", data / "b.jpg", data / "a.jpg"]
    together = [run.result_of(s, {}, 0).label_map for s in run.infer(model, files)]
    assert [labels.shape for labels in together] == [(80, 120), (120, 80), (80, 120)]
    assert (together[0] == together[2]).all()
    alone = run.result_of(run.infer(model, files[1:2])[0], {}, 0).label_map
    assert (together[1] == alone).all()


def test_annotations_are_not_loaded_and_a_config_without_pictures_is_refused(data):
    cfg = config(SEGMENTATION, data)
    kinds = [type(t).__name__ for t in prediction.test_pipeline(cfg).transforms]
    assert kinds == ["LoadImageFromFile", "Resize", "PackSegInputs"]
    cfg.test_dataloader.dataset = dict(type="RepeatDataset", dataset=cfg.test_dataloader.dataset)
    assert len(prediction.test_pipeline(cfg).transforms) == 3
    cfg.test_dataloader = cfg.val_dataloader = None
    with pytest.raises(UserError, match="does not say how pictures are prepared: test_dataloader"):
        prediction.test_pipeline(cfg)


def test_the_checkpoint_names_the_classes_and_what_disagrees_is_said(data, capsys):
    cfg = config(SEGMENTATION, data)
    cfg.test_dataloader.dataset.metainfo = dict(classes=("sky", "road"))
    own = {"classes": ("road", "sky"), "palette": [[1, 2, 3]] * 2}
    assert prediction.names_of(cfg, own, "x.pth") == own
    printed = capsys.readouterr().out
    assert "the checkpoint's 2 classes are taken, not the config's 2: class 0 is 'road'" in printed
    same = {"classes": ["sky", "road"]}
    assert prediction.names_of(cfg, same, "x.pth") == same
    assert capsys.readouterr().out == ""
    assert prediction.names_of(cfg, {}, "x.pth")["classes"] == ("sky", "road")
    assert "names no classes (meta.dataset_meta): the config names them" in capsys.readouterr().out
    cfg.test_dataloader.dataset.pop("metainfo")
    assert prediction.names_of(cfg, {}, "x.pth")["classes"][0] == "wall"  # ADE20K's own
    cfg.test_dataloader.dataset.type = "BaseSegDataset"
    assert not prediction.names_of(cfg, {}, "x.pth").get("classes")
    assert "numbers stand for them" in capsys.readouterr().out


def sizes(pipeline):
    return [tuple(t["scale"]) for t in prediction._resizes(pipeline)]


def test_the_factors_of_multi_scale_testing_count_from_the_test_size(data, capsys):
    cfg = run.load_config(str(CONFIGS / f"{SEGMENTATION}.py"))
    shipped = sizes(prediction.multi_scale_pipeline(cfg))
    assert (2048, 512) in shipped
    assert capsys.readouterr().out == ""
    cfg.test_dataloader.dataset.pipeline[1].scale = (320, 160)
    assert sizes(prediction.multi_scale_pipeline(cfg)) == shipped
    assert "none of the sizes of tta_pipeline is the test size, 320x160" in capsys.readouterr().out
    stock = [dict(type="Resize", scale_factor=f, keep_ratio=True) for f in (0.5, 1.0, 1.75)]
    cfg.tta_pipeline[1]["transforms"][0] = stock
    assert sizes(prediction.multi_scale_pipeline(cfg)) == [(160, 80), (320, 160), (560, 280)]
    assert "the scale factors count from the test size, 320x160" in capsys.readouterr().out
    del cfg.test_dataloader.dataset.pipeline[1]
    kept = list(prediction._resizes(prediction.multi_scale_pipeline(cfg)))
    assert [t["scale_factor"] for t in kept] == [0.5, 1.0, 1.75]


class Runner:
    """What `examples` takes of a runner."""

    def __init__(self, model, dataset):
        self.model = torch.nn.Sequential()
        self.model.module = model  # wrapped, as by DDP
        self.val_dataloader = type("Loader", (), {"dataset": dataset})


def test_examples_are_drawn_with_the_weights_that_were_saved(data, tmp_path):
    cfg = config(SEGMENTATION, data)
    cfg.work_dir = str(tmp_path)
    checkpoint = saved(cfg, tmp_path, {})
    (tmp_path / "last_checkpoint").write_text(checkpoint)
    model = run.build_model(cfg, "cpu")  # the raw weights, beside which EMA made the checkpoint
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    shown = list(run.examples(cfg, Runner(model, dataset), 4))
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [example.image.shape for example in shown] == [(80, 120, 3), (120, 80, 3)]
    truth = run.truth_of(shown[1].truth, dataset.metainfo, shown[1].image)
    assert truth.label_map.shape == (120, 80)
