"""Padded batches: with the images' sizes, each image's maps are those that it has alone.

First the plain networks, then the adapters inside models of Detectron2, MMDetection and
MMSegmentation.
"""

import copy
import gc
import re
import runpy
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from randomness import random_images, randomised, relative_difference
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from convnext_backbones import ConvNeXt, ConvNeXtV2
from convnext_backbones.errors import UserError
from convnext_backbones.network import padding
from convnext_backbones.network.padding import inside_masks, note_image_sizes, noted_image_sizes

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "padding_effect.py"
EXACT = 1e-9  # relative, in float64
VERSIONS = pytest.mark.parametrize("version", [ConvNeXt, ConvNeXtV2])
SMALL = {"depths": (2, 1, 2, 1), "dims": (8, 16, 24, 32)}
NAMES = ("stem", "stage1", "stage2", "stage3", "stage4")
STAGES = NAMES[1:]
# Multiples of 32, of 2 alone, odd, and the smallest; the batch is 128 x 128.
SIZES = [(64, 96), (70, 90), (101, 47), (32, 33)]


def small(version, dtype=torch.float64, **options):
    return randomised(version(SMALL, out_features=NAMES, **options), dtype)


def images_of(sizes=SIZES, dtype=torch.float64):
    return [random_images(3, *size, dtype=dtype, seed=i) for i, size in enumerate(sizes)]


def padded(images, height=128, width=128, fill=0.0):
    sides = [(0, width - image.shape[2], 0, height - image.shape[1]) for image in images]
    return torch.stack([F.pad(x, s, value=fill) for x, s in zip(images, sides, strict=True)])


def assert_as_alone(model, maps, images, tolerance=EXACT):
    """The maps of every image in the batch begin with the maps that the model gives it alone."""
    for i, image in enumerate(images):
        for x, alone in zip(maps, model(image[None]), strict=True):
            height, width = alone.shape[2:]
            assert relative_difference(x[i : i + 1, :, :height, :width], alone) <= tolerance


# --- the plain networks -------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [0.0, 7.0])
@pytest.mark.parametrize("output_stride", [None, 16, 8, 4])
@VERSIONS
@torch.no_grad()
def test_with_sizes_the_maps_are_the_unpadded_images_everywhere(version, output_stride, fill):
    model = small(version, output_stride=output_stride)
    images = images_of()
    assert_as_alone(model, model(padded(images, fill=fill), SIZES), images)


@torch.no_grad()
def test_without_sizes_padding_changes_v2_far_from_the_border_and_v1_only_near_it():
    """Stage 1 has two blocks here: its positions see 6 positions far."""
    image = random_images(3, 64, 96, dtype=torch.float64)
    for version in (ConvNeXt, ConvNeXtV2):
        model = randomised(version(SMALL, out_indices=(0,)), torch.float64)
        (x,), (alone,) = model(padded([image])), model(image[None])
        assert relative_difference(x[:, :, :16, :24], alone) > 0.01
        far = relative_difference(x[:, :, :10, :18], alone[:, :, :10, :18])
        assert far <= EXACT if version is ConvNeXt else far > 0.01


@VERSIONS
def test_no_part_of_a_map_depends_on_how_far_it_was_padded(version):
    """Also beyond the image, and in training, where drop path draws the same for each batch."""
    model = small(version, drop_path_rate=0.5).train()
    maps = []
    for size in ((128, 128), (160, 224), (133, 150)):
        torch.manual_seed(3)
        maps.append(model(padded(images_of(), *size), SIZES))
    for near, *others in zip(*maps, strict=True):
        height, width = near.shape[2:]
        for far in others:
            assert relative_difference(far[:, :, :height, :width], near) <= EXACT


def loss_inside(model, batch, sizes):
    """A weighted sum of what the maps hold of the images."""
    total = 0
    for x, stride in zip(model(batch, sizes), model.strides, strict=True):
        for sample, (height, width) in zip(x, sizes, strict=True):
            inside = sample[:, : height // stride, : width // stride]
            total = total + (inside * random_images(*inside.shape, dtype=x.dtype)).sum()
    return total


@pytest.mark.parametrize("options", [{}, {"frozen_stages": 2}, {"with_cp": True}], ids=str)
@VERSIONS
def test_with_sizes_the_gradients_are_the_unpadded_images(version, options):
    model = small(version, **options).train()
    images = [image.requires_grad_() for image in images_of()]
    leaves = [*images, *(p for p in model.parameters() if p.requires_grad)]
    own = torch.autograd.grad(loss_inside(model, padded(images), SIZES), leaves)
    alone = sum(loss_inside(model, x[None], [x.shape[1:]]) for x in images)
    for gradient, expected in zip(own, torch.autograd.grad(alone, leaves), strict=True):
        assert expected.abs().max() > 0
        assert relative_difference(gradient, expected) <= EXACT


@VERSIONS
@torch.no_grad()
def test_a_border_of_less_than_a_position_is_seen_beyond_the_image_and_by_no_position_of_it(
    version,
):
    model, image = small(version), images_of([(70, 90)])[0]
    changed = image.clone()
    changed[:, 68:] += 1  # the last two rows, beyond 70 // 4 positions of 4 pixels
    maps, others = (model(padded([x]), [(70, 90)]) for x in (image, changed))
    for x, y, stride in zip(maps, others, model.strides, strict=True):
        rows = 70 // stride
        assert torch.equal(y[:, :, :rows], x[:, :, :rows])
        assert relative_difference(y[:, :, rows], x[:, :, rows]) > 0.01
        assert torch.equal(y[:, :, rows + 1 :], x[:, :, rows + 1 :])


@VERSIONS
@torch.no_grad()
def test_an_image_of_less_than_a_position_keeps_one(version):
    model = small(version)
    images = images_of([(5, 90), (3, 2)])
    near, far = (model(padded(images, *size), [(5, 90), (3, 2)]) for size in ((64, 96), (96, 128)))
    for x, y in zip(near, far, strict=True):
        assert x.isfinite().all()
        assert relative_difference(y[:, :, : x.shape[2], : x.shape[3]], x) <= EXACT
    (mask,) = inside_masks(torch.zeros(1, 3, 64, 96), [(3, 2)], [32])
    assert mask.tolist() == [[[True, False, False], [False, False, False]]]


class Operators(TorchDispatchMode):
    """The operators that run inside."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_where_nothing_is_padded_nothing_is_masked():
    model, images = small(ConvNeXtV2, output_stride=8), random_images(2, 3, 64, 64).double()
    masks = {"aten.lt.Tensor", "aten.bitwise_and.Tensor", "aten.arange.default"}
    for sizes in (None, [(64, 64), (64, 64)], [(64, 64), (64, 40)]):
        padded = sizes is not None and sizes[1] != (64, 64)
        with Operators() as operators:
            model(images, sizes)
        assert masks <= set(operators.names) if padded else masks.isdisjoint(operators.names)


@VERSIONS
@torch.no_grad()
def test_sizes_without_padding_change_no_bit(version):
    for output_stride in (None, 8):
        model = small(version, torch.float32, output_stride=output_stride)
        images = random_images(2, 3, 70, 101)
        for x, plain in zip(model(images, [(70, 101)] * 2), model(images), strict=True):
            assert torch.equal(x, plain)
            assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mixed", [True, False])
@torch.no_grad()
def test_low_precision_stays_close_to_the_unpadded_images(dtype, mixed):
    images = images_of(dtype=torch.float32)
    model = small(ConvNeXtV2, torch.float32)
    expected = [model(image[None]) for image in images]
    if not mixed:
        model, images = model.to(dtype), [image.to(dtype) for image in images]
    with torch.autocast("cpu", dtype, enabled=mixed):
        maps = model(padded(images), SIZES)
    for i, alone in enumerate(expected):
        for x, y in zip(maps, alone, strict=True):
            inside = x[i : i + 1, :, : y.shape[2], : y.shape[3]].float()
            error = (inside - y).square().mean() / y.square().mean()
            assert error.sqrt() <= (0.01 if dtype == torch.float16 else 0.06)


@VERSIONS
def test_a_batch_of_none_gives_empty_maps(version):
    for sizes in ([], torch.empty(0, 2, dtype=torch.int64)):
        maps = small(version)(torch.empty(0, 3, 64, 64).double(), sizes)
        assert [len(x) for x in maps] == [0] * 5


@pytest.mark.parametrize("sizes", [SIZES, torch.tensor(SIZES), torch.tensor(SIZES).int()])
@torch.no_grad()
def test_sizes_are_a_list_or_a_tensor(sizes):
    model, images = small(ConvNeXtV2), images_of()
    assert_as_alone(model, model(padded(images), sizes), images)


@pytest.mark.parametrize("output_stride", [None, 4])
def test_with_sizes_compile_has_no_graph_break_and_one_graph_for_all_sizes(output_stride):
    torch.compiler.reset()
    arch = {"depths": (1, 1), "dims": (8, 16)}
    model = randomised(ConvNeXtV2(arch, output_stride=output_stride), torch.float64)
    graphs = []

    def backend(graph, examples):
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    images = images_of()
    with torch.no_grad():
        for size in ((128, 160), (160, 224)):
            assert_as_alone(model, compiled(padded(images, *size), torch.tensor(SIZES)), images)
    assert len(graphs) == 1


@torch.no_grad()
def test_with_sizes_a_trace_takes_any_sizes():
    model, images = small(ConvNeXtV2, output_stride=16), images_of()
    batch = padded(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of all tracing
        warnings.simplefilter("error", torch.jit.TracerWarning)  # a value frozen into the graph
        traced = torch.jit.trace(model, (batch[:2, :, :96], torch.tensor([(50, 40), (96, 128)])))
    assert_as_alone(model, traced(batch, torch.tensor(SIZES)), images)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(64, 64)], r"\(N, 2\).* each of the 2 images, got torch.int64 of shape \(1, 2\)"),
        ([64, 64], r"of shape \(N, 2\).*got torch.int64 of shape \(2,\)"),
        ([(64.0, 64.0)] * 2, r"whole numbers.*got torch.float32"),
        ([(64, 64), (0, 64)], "holds 0x64, but the padded images are 64x96; give"),
        ([(96, 64), (64, 64)], "holds 96x64, but the padded images are 64x96; give"),
        ([(64, 97), (64, 64)], "holds 64x97, but"),
        ([(-1, 64), (64, 64)], "holds -1x64, but"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        small(ConvNeXtV2)(torch.zeros(2, 3, 64, 96).double(), sizes)


# --- how the frameworks tell the sizes ----------------------------------------------------------


def test_sizes_are_known_for_the_very_batch_and_for_as_long_as_it_lives():
    gc.collect()
    before = len(padding._NOTED)
    batch, other = torch.zeros(2, 3, 64, 96), torch.zeros(2, 3, 64, 96)
    note_image_sizes(batch, [(64, 96), (40, 50)])
    assert noted_image_sizes(batch) == [(64, 96), (40, 50)]
    for unknown in (other, batch.clone(), batch.half()):
        with pytest.raises(UserError, match=r"not known for this batch of shape \(2, 3, 64, 96\)"):
            noted_image_sizes(unknown)
    assert len(padding._NOTED) == before + 1
    del batch
    gc.collect()
    assert len(padding._NOTED) == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_crop_has_no_padding_where_its_batch_has_none_and_is_refused_otherwise(mode):
    with mode():
        whole, part = torch.zeros(2, 3, 64, 96), torch.zeros(2, 3, 64, 96)
        note_image_sizes(whole, [(64, 96), (64, 96)])
        note_image_sizes(part, [(64, 96), (64, 90)])
        assert noted_image_sizes(whole) is None
        assert noted_image_sizes(whole[:, :, 3:50, 10:]) is None
        with pytest.raises(UserError, match="was cropped or copied since"):
            noted_image_sizes(part[:, :, :32])


class Watch(list):
    """The batches that a module of a framework's model was given, with its outputs."""

    def __init__(self, module):
        super().__init__()
        module.register_forward_hook(
            lambda _, inputs, output: self.append((inputs[0], _values(output)))
        )

    def assert_as_alone(self, core, sizes_of_batches):
        """In float32, as the frameworks' RoIAlign and NMS take nothing else."""
        assert len(self) == len(sizes_of_batches) > 0
        for (batch, maps), sizes in zip(self, sizes_of_batches, strict=True):
            images = [x[:, :h, :w] for x, (h, w) in zip(batch, sizes, strict=True)]
            with torch.no_grad():
                assert_as_alone(core, maps, images, tolerance=1e-4)


def _values(maps):
    return tuple(maps.values()) if isinstance(maps, dict) else maps


def core_of(backbone):
    """The plain network with the weights of an adapter's."""
    core = ConvNeXtV2(SMALL, out_features=STAGES).to(next(backbone.parameters()).dtype).eval()
    core.load_state_dict(backbone.state_dict())
    return core


def assert_levels_as_alone(fpn, levels, batch, sizes):
    """The FPN's levels but for its own 3x3 convolutions at the border, one position."""
    for i, (height, width) in enumerate(sizes):
        alone = _values(fpn(batch[i : i + 1, :, :height, :width]))
        for x, y in zip(levels[:4], alone[:4], strict=True):
            rows, columns = y.shape[2] - 1, y.shape[3] - 1
            y = y[:, :, :rows, :columns]
            assert y.numel() > 0
            assert relative_difference(x[i : i + 1, :, :rows, :columns], y) <= EXACT


# --- Detectron2 ---------------------------------------------------------------------------------


@pytest.fixture
def detectron2_model():
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2 import model_zoo
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    from convnext_backbones.adapters.detectron2 import add_convnext_config

    def build(ignore_padding, file="COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"):
        cfg = get_cfg()
        add_convnext_config(cfg)
        cfg.merge_from_file(model_zoo.get_config_file(file))
        m = cfg.MODEL
        m.DEVICE, m.BACKBONE.NAME, m.BACKBONE.FREEZE_AT = "cpu", "build_convnext_fpn_backbone", 0
        m.CONVNEXT.VERSION, m.CONVNEXT.ARCH, m.CONVNEXT.IGNORE_PADDING = 2, "custom", ignore_padding
        m.CONVNEXT.DEPTHS, m.CONVNEXT.DIMS = list(SMALL["depths"]), list(SMALL["dims"])
        m.FPN.IN_FEATURES = list(STAGES)
        m.FPN.OUT_CHANNELS = m.SEM_SEG_HEAD.CONVS_DIM = m.ROI_MASK_HEAD.CONV_DIM = 32
        m.ROI_BOX_HEAD.FC_DIM, m.ROI_HEADS.NUM_CLASSES, m.SEM_SEG_HEAD.NUM_CLASSES = 32, 4, 4
        m.ROI_HEADS.SCORE_THRESH_TEST, m.RPN.POST_NMS_TOPK_TEST = 0.0, 20
        cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE = (96, 120), 200
        model = randomised(build_model(cfg))
        model.cfg = cfg
        return model

    return build


def detectron2_sample(height, width):
    from detectron2.structures import BitMasks, Boxes, Instances

    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[5.0, 8.0, 45.0, 60.0]]))
    instances.gt_classes = torch.tensor([1])
    instances.gt_masks = BitMasks(torch.ones(1, height, width, dtype=torch.bool))
    image = 255 * torch.rand(3, height, width, generator=torch.Generator().manual_seed(width))
    return dict(
        image=image.to(torch.uint8),
        instances=instances,
        height=height,
        width=width,
        sem_seg=torch.ones(height, width, dtype=torch.long),
    )


def test_detectron2s_mask_rcnn_trains_and_infers_on_the_maps_of_unpadded_images(detectron2_model):
    from detectron2.utils.events import EventStorage

    model = detectron2_model(ignore_padding=True)
    seen = Watch(model.backbone.bottom_up)
    batches = [[(96, 128), (70, 90)], [(100, 64), (64, 64), (65, 130)]]
    for sizes in batches:
        samples = [detectron2_sample(*size) for size in sizes]
        with EventStorage():
            sum(model.train()(samples).values()).backward()
        with torch.no_grad():
            model.eval()(samples)
    assert all(p.grad.isfinite().all() for p in model.parameters())
    seen.assert_as_alone(core_of(model.backbone.bottom_up), [s for s in batches for _ in range(2)])


@torch.no_grad()
def test_detectron2s_fpn_has_the_levels_of_unpadded_images_but_at_its_own_border(detectron2_model):
    sizes = [(128, 192), (160, 96)]
    samples = [detectron2_sample(*size) for size in sizes]
    model = detectron2_model(ignore_padding=True).double()
    plain = detectron2_model(ignore_padding=False).double()
    batch = model.preprocess_image(samples).tensor
    assert_levels_as_alone(plain.backbone, _values(model.backbone(batch)), batch, sizes)
    with pytest.raises(AssertionError):
        assert_levels_as_alone(plain.backbone, _values(plain.backbone(batch)), batch, sizes)


@torch.no_grad()
def test_detectron2s_test_time_augmentation_has_the_maps_of_unpadded_images(detectron2_model):
    from detectron2.modeling import GeneralizedRCNNWithTTA

    model = detectron2_model(ignore_padding=True)
    seen = Watch(model.backbone.bottom_up)
    sample = detectron2_sample(100, 130)
    assert len(GeneralizedRCNNWithTTA(model.cfg, model)([sample])[0]["instances"]) > 0
    views = [[(96, 125), (96, 125), (120, 156)], [(120, 156)]]  # in batches of at most three
    seen.assert_as_alone(core_of(model.backbone.bottom_up), [*views, *views])  # boxes, then masks


@torch.no_grad()
def test_detectron2s_segmentor_has_the_maps_of_unpadded_images(detectron2_model):
    model = detectron2_model(ignore_padding=True, file="Misc/semantic_R_50_FPN_1x.yaml")
    seen = Watch(model.backbone.bottom_up)
    sizes = [(20, 90), (96, 64)]  # the first: less than the last stride
    model([detectron2_sample(*size) for size in sizes])
    (batch, maps), *_ = seen
    assert all(x.isfinite().all() for x in maps)
    seen[:] = [(batch[1:], [x[1:] for x in maps])]
    seen.assert_as_alone(core_of(model.backbone.bottom_up), [sizes[1:]])


@torch.no_grad()
def test_a_traced_detectron2_model_keeps_ignoring_padding_at_other_sizes(detectron2_model):
    from detectron2.export import TracingAdapter

    model = detectron2_model(ignore_padding=True)
    image = detectron2_sample(100, 130)["image"]
    wrapper = TracingAdapter(model, image, lambda m, x: [m.backbone.bottom_up(_preprocessed(m, x))])
    traced = torch.jit.trace(wrapper.eval(), (image[:, :64, :96],))  # not padded
    (maps,) = wrapper.outputs_schema(traced(image))
    batch = _preprocessed(model, image)
    assert batch.shape[2:] == (128, 160)
    core, alone = core_of(model.backbone.bottom_up), batch[0, :, :100, :130]
    assert_as_alone(core, maps.values(), [alone], tolerance=1e-4)


def _preprocessed(model, image):
    return model.preprocess_image([dict(image=image)]).tensor


def test_a_scripted_detectron2_model_is_refused_when_it_should_ignore_padding(detectron2_model):
    from detectron2.export import scripting_with_instances

    fields = {"proposal_boxes": torch.Tensor}
    model = detectron2_model(ignore_padding=True).eval()
    with pytest.raises(UserError, match=r"trace the model .*or build it with ignore_padding=False"):
        torch.jit.script(model.backbone.bottom_up)
    with pytest.raises(UserError, match="trace the model"):
        scripting_with_instances(model, fields)


def test_detectron2s_own_models_can_be_scripted_after_sizes_are_noted(detectron2_model):
    from detectron2.structures import ImageList

    detectron2_model(ignore_padding=True)

    class Padding(torch.nn.Module):
        def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
            return ImageList.from_tensors(images, 32).tensor

    assert hasattr(ImageList.from_tensors, "__wrapped__")
    batch = torch.jit.script(Padding())([torch.ones(3, 40, 50), torch.ones(3, 64, 10)])
    assert batch.shape == (2, 3, 64, 64)
    assert batch.sum() == 3 * (40 * 50 + 64 * 10)


# --- MMDetection and MMSegmentation -------------------------------------------------------------


@pytest.fixture
def openmmlab_model():
    pytest.importorskip("mmdet", reason="mmdet is not installed")
    pytest.importorskip("mmseg", reason="mmseg is not installed")
    from mmengine.registry import MODELS, init_default_scope

    from convnext_backbones.adapters.openmmlab import run as run

    def build(name, ignore_padding, changes=None):
        cfg = run.load_config(str(ROOT / "configs" / name))
        run.fit_to_device(cfg)
        init_default_scope(cfg.default_scope)
        backbone, dims = cfg.model.backbone, list(SMALL["dims"])
        backbone.arch, backbone.ignore_padding, backbone.drop_path_rate = SMALL, ignore_padding, 0.0
        backbone.pop("init_cfg", None)
        if "neck" in cfg.model:
            cfg.model.neck.update(in_channels=dims, out_channels=16)
            cfg.model.rpn_head.update(in_channels=16, feat_channels=16)
            head = cfg.model.roi_head
            for extractor in (head.bbox_roi_extractor, head.mask_roi_extractor):
                extractor.out_channels = 16
            head.bbox_head.update(in_channels=16, fc_out_channels=16, num_classes=4)
            head.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=4)
        else:
            cfg.model.decode_head.update(in_channels=dims, channels=16, num_classes=4)
            cfg.model.auxiliary_head.update(in_channels=dims[2], channels=16, num_classes=4)
        cfg.merge_from_dict(changes or {})
        return randomised(MODELS.build(cfg.model))

    return build


MASK_RCNN = "coco_mask_rcnn_convnextv2_atto.py"
UPERNET = "ade20k_upernet_convnextv2_atto.py"


def openmmlab_image(height, width):
    generator = torch.Generator().manual_seed(width)
    return (255 * torch.rand(3, height, width, generator=generator)).to(torch.uint8)


def detection_batch(sizes):
    import numpy as np
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    samples = []
    for size in sizes:
        sample = DetDataSample(
            metainfo=dict(
                img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), flip=False,
                flip_direction=None,
            )
        )  # fmt: skip
        sample.gt_instances = InstanceData(
            bboxes=HorizontalBoxes(torch.tensor([[5.0, 8.0, 45.0, 60.0]])),
            labels=torch.tensor([1]),
            masks=BitmapMasks(np.ones((1, *size), np.uint8), *size),
        )
        samples.append(sample)
    return dict(inputs=[openmmlab_image(*size) for size in sizes], data_samples=samples)


def train(model, data):
    data = model.train().data_preprocessor(data, True)
    model.parse_losses(model(**data, mode="loss"))[0].backward()


@torch.no_grad()
def predict(model, data):
    return model.eval().test_step(data)


def test_mmdetections_mask_rcnn_trains_and_infers_on_the_maps_of_unpadded_images(openmmlab_model):
    model = openmmlab_model(MASK_RCNN, ignore_padding=True)
    seen = Watch(model.backbone)
    batches = [[(96, 128), (70, 90)], [(100, 64), (64, 64), (65, 130)]]
    for sizes in batches:
        train(model, detection_batch(sizes))
        assert len(predict(model, detection_batch(sizes))) == len(sizes)
    assert all(p.grad.isfinite().all() for p in model.parameters())
    seen.assert_as_alone(core_of(model.backbone), [s for s in batches for _ in range(2)])


@torch.no_grad()
def test_mmdetections_fpn_has_the_levels_of_unpadded_images_but_at_its_own_border(openmmlab_model):
    sizes = [(128, 192), (160, 96)]
    model = openmmlab_model(MASK_RCNN, ignore_padding=True).double()
    plain = openmmlab_model(MASK_RCNN, ignore_padding=False).double()
    batch = model.data_preprocessor(detection_batch(sizes), False)["inputs"]
    assert_levels_as_alone(plain.extract_feat, model.extract_feat(batch), batch, sizes)
    with pytest.raises(AssertionError):
        assert_levels_as_alone(plain.extract_feat, plain.extract_feat(batch), batch, sizes)


def test_mmdetections_batch_augmentations_are_followed(openmmlab_model):
    """They come after the preprocessor's own padding, and change the batch."""
    pad = dict(type="BatchFixedSizePad", size=(192, 160), pad_mask=True)
    model = openmmlab_model(
        MASK_RCNN, ignore_padding=True, changes={"model.data_preprocessor.batch_augments": [pad]}
    )
    seen = Watch(model.backbone)
    sizes = [(96, 128), (70, 90)]
    train(model, detection_batch(sizes))
    assert seen[0][0].shape[2:] == (192, 160)
    seen.assert_as_alone(core_of(model.backbone), [sizes])


@torch.no_grad()
def test_mmdetections_test_time_augmentation_has_the_maps_of_unpadded_images(openmmlab_model):
    from mmdet.models import DetTTAModel
    from mmengine.config import ConfigDict

    model = openmmlab_model(MASK_RCNN, ignore_padding=True)
    model.roi_head.mask_head = None  # MMDetection augments boxes alone
    seen = Watch(model.backbone)
    views = [[(96, 128), (70, 90)], [(120, 160), (88, 113)]]
    batches = [detection_batch(sizes) for sizes in views]
    data = {key: [batch[key] for batch in batches] for key in batches[0]}
    merging = ConfigDict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=9)
    tta = DetTTAModel(merging, module=model)
    assert len(predict(tta, data)) == 2
    seen.assert_as_alone(core_of(model.backbone), views)


def test_each_branch_of_semi_supervised_training_has_its_own_sizes(openmmlab_model):
    from mmdet.models import MultiBranchDataPreprocessor

    openmmlab_model(MASK_RCNN, ignore_padding=True)
    own = dict(type="DetDataPreprocessor", pad_size_divisor=32)
    sizes = {"sup": [(96, 128), (70, 90)], "unsup": [(60, 50), (33, 100)]}
    batches = {name: detection_batch(s) for name, s in sizes.items()}
    data = {key: {n: b[key] for n, b in batches.items()} for key in ("inputs", "data_samples")}
    branches = MultiBranchDataPreprocessor(own)(data, True)["inputs"]
    assert {name: noted_image_sizes(x) for name, x in branches.items()} == sizes


def segmentation_batch(sizes):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for size in sizes:
        sample = SegDataSample(
            metainfo=dict(img_shape=size, ori_shape=size, flip=False, img_path="")
        )
        sample.gt_sem_seg = PixelData(data=torch.ones(1, *size, dtype=torch.long))
        samples.append(sample)
    return dict(inputs=[openmmlab_image(*size) for size in sizes], data_samples=samples)


def test_mmsegmentations_upernet_trains_on_the_maps_of_unpadded_crops(openmmlab_model):
    size = {"model.data_preprocessor.size": (128, 128)}
    model = openmmlab_model(UPERNET, ignore_padding=True, changes=size)
    seen = Watch(model.backbone)
    sizes = [(128, 128), (70, 128), (101, 47)]
    train(model, segmentation_batch(sizes))
    seen.assert_as_alone(core_of(model.backbone), [sizes])


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_mmsegmentations_upernet_infers_as_without_the_option_where_nothing_is_padded(
    openmmlab_model, mode
):
    """Also in sliding windows, which are crops of the batch, and in test-time augmentation."""
    from mmseg.models import SegTTAModel

    logits = []
    for ignore_padding in (True, False):
        model = openmmlab_model(UPERNET, ignore_padding=ignore_padding)
        model.test_cfg.update(mode=mode, crop_size=(64, 64), stride=(40, 40))
        views = [segmentation_batch([size]) for size in ((100, 90), (120, 110))]
        logits.append([predict(model, view)[0].seg_logits.data for view in views])
        same_size = [segmentation_batch([(100, 90)]) for _ in range(2)]
        data = {key: [view[key] for view in same_size] for key in views[0]}
        assert len(predict(SegTTAModel(module=model), data)) == 1
    for own, expected in zip(*logits, strict=True):
        assert torch.equal(own, expected)


def test_a_padded_sliding_window_is_refused(openmmlab_model):
    pad = {"model.data_preprocessor.test_cfg": dict(size=(128, 128))}
    model = openmmlab_model(UPERNET, ignore_padding=True, changes=pad)
    model.test_cfg.update(mode="slide", crop_size=(64, 64), stride=(40, 40))
    with pytest.raises(UserError, match="was cropped or copied since"):
        predict(model, segmentation_batch([(100, 90)]))


@pytest.mark.parametrize("mode", ["loss", "predict", "tensor"])
def test_an_openmmlab_model_is_refused_a_batch_of_unknown_sizes(openmmlab_model, mode):
    model = openmmlab_model(MASK_RCNN, ignore_padding=True)
    data = model.data_preprocessor(detection_batch([(96, 128), (70, 90)]), True)
    with pytest.raises(UserError, match=r"shape \(2, 3, 96, 128\).*with image_sizes, or build it"):
        model(data["inputs"].clone(), data["data_samples"], mode=mode)
    for sample in data["data_samples"]:
        del sample.img_shape
    data = model.data_preprocessor(
        dict(inputs=data["inputs"], data_samples=data["data_samples"]), False
    )
    with pytest.raises(UserError, match="not known for this batch"):
        model(**data, mode=mode)


@pytest.mark.parametrize("framework", ["openmmlab", "detectron2"])
def test_an_adapter_takes_sizes_in_its_call_and_compiles_with_noted_ones(framework):
    adapter = pytest.importorskip(f"convnext_backbones.adapters.{framework}", exc_type=ImportError)
    torch.compiler.reset()
    arch = {"depths": (1, 1), "dims": (8, 16)}
    model = randomised(adapter.ConvNeXtV2(arch, ignore_padding=True), torch.float64)
    images, core = images_of(), ConvNeXtV2(arch).double()
    core.load_state_dict(model.state_dict())
    batch = padded(images)
    with torch.no_grad():
        assert_as_alone(core, _values(copy.deepcopy(model)(batch, SIZES)), images)
        note_image_sizes(batch, SIZES)
        compiled = torch.compile(model, dynamic=True, backend="eager")
        assert_as_alone(core, _values(compiled(batch)), images)
        model.ignore_padding = False
        for x, y in zip(_values(model(batch)), core(batch), strict=True):
            assert torch.equal(x, y)


# --- the measurement ----------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch, capsys):
    """Runs tools/padding_effect.py on pictures of 128 pixels and gives what it prints."""

    def run(*arguments, code=0):
        small = ["--scale", "0.16", "--margin", "16"]
        monkeypatch.syspath_prepend(TOOL.parent)
        monkeypatch.setattr(sys, "argv", [str(TOOL), *small, *map(str, arguments)])
        with pytest.raises(SystemExit, match=f"^{code}$"):
            runpy.run_path(str(TOOL), run_name="__main__")
        printed = capsys.readouterr()
        return printed.out + printed.err

    return run


def test_the_tool_finds_what_padding_changes_and_that_sizes_mend_it(measured):
    v1, v2 = measured("convnext_atto", "convnextv2_atto").split("convnextv2_atto:")
    rows = re.findall(r"(\d+)%  off +([-.e\d]+) .*\n +on +([-.e\d]+) .* ([-.e\d]+)\n", v2)
    assert len(rows) == 5
    for share, off, *on in rows:
        assert float(off) > (0.05 if int(share) > 30 else 0.001)  # stage 1
        assert max(map(float, on)) < 1e-5  # stages 1 and 4
    control = re.findall(r"off +([-.e\d]+) ", v1)
    assert all(float(own) < float(row[1]) for own, row in zip(control, rows, strict=True))


def test_the_tool_takes_weights_and_pictures(measured, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(randomised(ConvNeXtV2("atto")).state_dict(), path)
    Image.new("RGB", (64, 48), (90, 120, 20)).save(tmp_path / "picture.png")
    printed = measured("convnextv2_atto", "--weights", path, "--images", tmp_path)
    assert "is convnextv2_atto" in printed
    assert len(re.findall(r"%  off ", printed)) == 5
    printed = measured("convnext_atto", "--weights", path, code=2)
    assert "this is convnextv2_atto" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convnextv2_ato"], "did you mean 'convnextv2_atto'"),
        (["--weights", "a.pth"], "needs the name of its one network"),
        (["convnextv2_atto", "--limit", "0"], "--limit begins at 1"),
        (["convnextv2_atto", "--images", "nowhere"], "there is no picture or folder nowhere"),
        (["convnextv2_atto", "--margin", "300"], "give a smaller --margin or a greater --scale"),
    ],
)
def test_the_tool_answers_a_wrong_argument_with_a_sentence(measured, arguments, message):
    assert re.search(rf"error: .*{message}", measured(*arguments, code=2))


def test_threads_note_and_look_up_sizes_at_once():
    """Each with its own batches, as several do in a server; the notes of all are one table. Threads that
    take turns every microsecond meet in it."""
    failed = []

    def work():
        try:
            kept = []
            for _ in range(300):
                batch = torch.zeros(1, 3, 8, 8)
                padding.note_image_sizes(batch, [(4, 8)])
                kept = [*kept[-200:], batch]  # many, so that a look through the notes takes a while
                assert padding.noted_image_sizes(batch) == [(4, 8)]
                with pytest.raises(UserError, match="not known for"):
                    padding.noted_image_sizes(batch.clone())
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failed == []
