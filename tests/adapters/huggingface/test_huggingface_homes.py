"""Every detector and segmentor of transformers that takes a backbone_config, with our backbone in it.

The list is held to be whole: a model of transformers that loads a backbone stands in HOMES or in NO_HOMES.
"""

import re
from pathlib import Path

import pytest
import torch
import transformers
from randomness import random_images

from convnext_backbones.adapters.huggingface import ConvNeXtBackbone, ConvNeXtBackboneConfig

WIDTHS = [8, 16, 24, 32]
STAGES = ["stage1", "stage2", "stage3", "stage4"]
PYRAMID, LAST = STAGES[1:], STAGES[3:]
SIZE = 64  # pixels


# ---- what the models are fed with
def images(channels=3):
    return random_images(2, channels, SIZE, SIZE)


def integers(*shape, low=0, high=3):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(1))


def boxes():
    of_an_image = {
        "class_labels": torch.tensor([0, 1]),
        "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.6, 0.2, 0.3]]),
    }
    return {"pixel_values": images(), "labels": [of_an_image, of_an_image]}


def boxes_and_masks():
    given = boxes()
    for label in given["labels"]:
        label["masks"] = integers(2, SIZE, SIZE, high=2).float()
    return given


def boxes_and_words():
    cat_and_dog = [101, 7, 1012, 8, 1012, 102]  # BERT's [CLS] cat . dog . [SEP]
    return {**boxes(), "input_ids": torch.tensor([cat_and_dog] * 2)}


def masks():
    return {
        "pixel_values": images(),
        "mask_labels": [integers(2, SIZE, SIZE, high=2).float() for _ in range(2)],
        "class_labels": [torch.tensor([0, 2])] * 2,
    }


def masks_and_texts():
    words = {
        "task_inputs": integers(2, 7, low=1, high=9),
        "text_inputs": integers(2, 3, 7, low=1, high=9),
    }
    return {**masks(), **words}


def label_map():
    return {"pixel_values": images(), "labels": integers(2, SIZE, SIZE)}


def pictures():
    return {"pixel_values": images()}


def pictures_and_trimap():
    return {"pixel_values": images(4)}


def frames_and_words():
    frames = random_images(1, 2, 3, SIZE, SIZE)
    labels = torch.tensor([[10.0], [1.0], [4.0]])  # duration, start, end
    words = integers(1, 6, low=1, high=9)
    return {
        "pixel_values": frames,
        "input_ids": words,
        "attention_mask": torch.ones_like(words),
        "labels": labels,
    }


def classes_and_task():
    words = integers(4, 6, low=1, high=9)
    return {
        "pixel_values": images(),
        "classes_input_ids": words, "classes_attention_mask": torch.ones_like(words),
        "tasks_input_ids": words[:2], "tasks_attention_mask": torch.ones_like(words[:2]),
        "classes_structure": torch.tensor([2, 2]),
    }  # fmt: skip


# ---- how each is built small
DETR = dict(d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
            encoder_attention_heads=8, decoder_attention_heads=2, num_queries=5, num_labels=3)  # fmt: skip
DAB = {"hidden_size": 32, **{key: value for key, value in DETR.items() if key != "d_model"}}
LEVELS = dict(num_feature_levels=4, encoder_n_points=2, decoder_n_points=2)
RT_DETR = dict(encoder_hidden_dim=16, d_model=16, encoder_in_channels=WIDTHS[1:], feat_strides=[8, 16, 32],
               encoder_ffn_dim=16, encoder_attention_heads=2, decoder_in_channels=[16, 16, 16],
               decoder_ffn_dim=16, decoder_layers=2, decoder_attention_heads=2, decoder_n_points=2,
               num_queries=5, num_denoising=2, num_labels=3, initializer_range=0.02)  # fmt: skip
D_FINE = {**RT_DETR, "decoder_n_points": [2, 2, 2], "lqe_hidden_dim": 8, "top_prob_values": 2}
READING = dict(hidden_size=16, num_attention_heads=2, intermediate_size=16, num_hidden_layers=1,
               coordinate_size=3, shape_size=2, global_pointer_head_size=4, num_classes=3)  # fmt: skip
PP_2 = {
    **RT_DETR,
    "class_thresholds": [0.0] * 3,
    "class_order": [0, 1, 2],
    "reading_order_config": READING,
}
PP_3 = {**RT_DETR, "x4_feat_dim": WIDTHS[0], "mask_feature_channels": [32, 32]}
PP_4 = {key: value for key, value in RT_DETR.items() if key != "d_model"} | {"hidden_size": 16}
WORDS = dict(
    vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
)
GROUNDING = {
    **DETR,
    **LEVELS,
    "text_config": {"model_type": "bert", **WORDS, "vocab_size": 1013},
    "max_text_len": 8,
}
OMDET = dict(text_config={"model_type": "clip_text_model", **WORDS, "hidden_size": 8}, num_queries=5, encoder_hidden_dim=16,
             apply_layernorm_after_vision_backbone=False, encoder_in_channels=WIDTHS[1:],
             vision_features_channels=[16] * 3, decoder_hidden_dim=16, decoder_num_heads=2,
             decoder_num_layers=1, decoder_dim_feedforward=16, encoder_attention_heads=2,
             encoder_dim_feedforward=16, text_projection_in_dim=8, text_projection_out_dim=8,
             class_embed_dim=8, task_encoder_hidden_dim=8, image_size=SIZE)  # fmt: skip
UNIVERSAL = dict(hidden_dim=32, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
                 dim_feedforward=16, encoder_feedforward_dim=16, num_queries=5, num_labels=3,
                 train_num_points=20)  # fmt: skip
ONE = {**UNIVERSAL, "hidden_dim": 64, "conv_dim": 64, "mask_dim": 64, "is_training": True, "text_encoder_width": 64,
       "text_encoder_context_length": 7, "task_seq_len": 7, "text_encoder_num_layers": 1,
       "text_encoder_vocab_size": 20, "text_encoder_n_ctx": 2}  # fmt: skip
DPT = dict(is_hybrid=True, image_size=SIZE, patch_size=16, hidden_size=16, num_hidden_layers=4,
           num_attention_heads=2, intermediate_size=16, backbone_out_indices=[0, 1, 2, 3],
           neck_hidden_sizes=WIDTHS, fusion_hidden_size=16, num_labels=3, readout_type="project",
           backbone_featmap_shape=[1, WIDTHS[2], SIZE // 16, SIZE // 16])  # fmt: skip
TVP = {
    **WORDS,
    "num_frames": 2,
    "max_img_size": SIZE,
    "visual_prompt_size": 8,
    "max_position_embeddings": 20,
}

# Class: the features that it asks a backbone for, how it is made small, and what it is fed with.
HOMES = {
    "ConditionalDetrForObjectDetection": (LAST, DETR, boxes),
    "ConditionalDetrForSegmentation": (STAGES, DETR, boxes_and_masks),
    "DFineForObjectDetection": (PYRAMID, D_FINE, boxes),
    "DPTForSemanticSegmentation": (STAGES[:3], DPT, label_map),
    "DPTForDepthEstimation": (STAGES[:3], DPT, pictures),
    "DabDetrForObjectDetection": (LAST, DAB, boxes),
    "DeformableDetrForObjectDetection": (PYRAMID, {**DETR, **LEVELS}, boxes),
    "Deimv2ForObjectDetection": (PYRAMID, D_FINE, boxes),
    "DetrForObjectDetection": (LAST, DETR, boxes),
    "DetrForSegmentation": (STAGES, DETR, boxes_and_masks),
    "GroundingDinoForObjectDetection": (PYRAMID, GROUNDING, boxes_and_words),
    "MMGroundingDinoForObjectDetection": (PYRAMID, GROUNDING, boxes_and_words),
    "Mask2FormerForUniversalSegmentation":
        (STAGES, {**UNIVERSAL, "feature_size": 32, "mask_feature_size": 32}, masks),
    "MaskFormerForInstanceSegmentation":
        (STAGES, dict(fpn_feature_size=32, mask_feature_size=32, num_labels=3), masks),
    "OmDetTurboForObjectDetection": (PYRAMID, OMDET, classes_and_task),
    "OneFormerForUniversalSegmentation": (STAGES, ONE, masks_and_texts),
    "PPDocLayoutV2ForObjectDetection": (PYRAMID, PP_2, pictures),
    "PPDocLayoutV3ForObjectDetection": (STAGES, PP_3, pictures),
    "PPDocLayoutV4ForObjectDetection": (PYRAMID, PP_4, pictures),
    "RTDetrForObjectDetection": (PYRAMID, RT_DETR, boxes),
    "RTDetrV2ForObjectDetection": (PYRAMID, RT_DETR, boxes),
    "SLANetForTableRecognition": (PYRAMID, dict(post_conv_out_channels=16, hidden_size=16, out_channels=5, max_text_length=4), pictures),
    "TableTransformerForObjectDetection": (LAST, DETR, boxes),
    "TvpForVideoGrounding": (LAST, TVP, frames_and_words),
    "UperNetForSemanticSegmentation":
        (STAGES, dict(hidden_size=16, auxiliary_in_channels=24, auxiliary_channels=8, num_labels=3), label_map),
    "VitMatteForImageMatting":
        (["stage3"], dict(hidden_size=24, convstream_hidden_sizes=[4, 8, 16], fusion_hidden_sizes=[16, 8, 8, 8]), pictures_and_trimap),
}  # fmt: skip


def loss_of(output):
    if getattr(output, "loss", None) is not None:
        return output.loss.sum()
    values = [value for value in output.values() if isinstance(value, torch.Tensor)]
    return sum(value.float().square().sum() for value in values if value.requires_grad)


def build(name):
    features, fields, inputs = HOMES[name]
    given = inputs()
    model_class = getattr(transformers, name)
    torch.manual_seed(0)
    backbone = ConvNeXtBackboneConfig(
        version=2,
        depths=[1, 1, 1, 1],
        hidden_sizes=WIDTHS,
        out_features=features,
        num_channels=given["pixel_values"].shape[-3],
        image_size=SIZE,
    )
    return model_class(model_class.config_class(backbone_config=backbone, **fields)), given


@pytest.mark.parametrize("name", HOMES)
def test_a_home_loads_what_it_saved_and_trains_a_step(name, tmp_path):
    model, inputs = build(name)
    model.eval().save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert equal_states(again, model)
    outputs = []
    for one in (model, again):
        torch.manual_seed(0)
        outputs.append(one(**inputs))
    for key, value in outputs[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, outputs[1][key]), key

    (backbone,) = [m for m in again.modules() if isinstance(m, ConvNeXtBackbone)]
    before = {n: p.detach().clone() for n, p in backbone.named_parameters()}
    loss_of(again.train()(**inputs)).backward()
    without = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    torch.optim.AdamW(again.parameters(), lr=1e-3).step()
    assert all(not torch.equal(p, before[n]) for n, p in backbone.named_parameters())


def test_a_detector_recomputes_its_backbone_too_where_that_is_switched_on():
    model, _ = build("DetrForObjectDetection")
    (backbone,) = [m for m in model.modules() if isinstance(m, ConvNeXtBackbone)]
    model.activation_checkpointing_enable()
    assert backbone.network.with_cp
    model.activation_checkpointing_disable()
    assert not backbone.network.with_cp


def equal_states(one, other):
    state = other.state_dict()
    return all(torch.equal(value, state[n]) for n, value in one.state_dict().items())


# Models of transformers that load a backbone and do not take ours, and why.
NO_HOMES = {
    "chmv2": "it takes the class tokens and patches of a ViT",
    "depth_anything": "it takes the class tokens and patches of a ViT",
    "edgetam": "it takes the list of maps of a timm model",
    "lw_detr": "it builds its own ViT, whatever the backbone_config says",
    "pp_ocrv5_mobile_det": "it reads stage_out_channels and the like of PaddlePaddle's own backbones",
    "pp_ocrv5_mobile_rec": "it reads stage_out_channels and the like of PaddlePaddle's own backbones",
    "pp_ocrv5_server_det": "it reads stage_out_channels and the like of PaddlePaddle's own backbones",
    "pp_ocrv5_server_rec": "it reads stage_out_channels and the like of PaddlePaddle's own backbones",
    "pp_ocrv6_medium_det": "it reads stage_out_channels and the like of PaddlePaddle's own backbones",
    "pp_ocrv6_small_det": "it reads stage_out_channels and the like of PaddlePaddle's own backbones",
    "pp_ocrv6_small_rec": "it reads stage_out_channels and the like of PaddlePaddle's own backbones",
    "pp_ocrv6_tiny_rec": "it reads stage_out_channels and the like of PaddlePaddle's own backbones",
    "prompt_depth_anything": "it takes the class tokens and patches of a ViT",
    "rf_detr": "it builds its own ViT, whatever the backbone_config says",
    "sam2": "it takes intermediate_hidden_states, which Hiera alone has",
    "sam3": "it takes the patches of a ViT",
    "tipsv2_dpt": "it takes the class tokens and patches of a ViT",
    "uvdoc": "it builds its own backbone, whatever the backbone_config says",
    "vitpose": "it takes the patches of a ViT",
    "zoedepth": "it takes the class tokens and patches of a ViT",
}


def test_every_model_that_loads_a_backbone_is_accounted_for():
    loads = r"load_backbone\(|AutoBackbone.from_config|config.backbone_config"
    models = Path(transformers.__file__).parent / "models"
    takes = {
        path.parent.name
        for path in models.glob("*/modeling_*.py")
        if re.search(rf"(?m)^(?!\s*>>>).*({loads})", path.read_text())
    }
    at_home = {getattr(transformers, name).__module__.split(".")[2] for name in HOMES}
    assert takes - {"auto"} == at_home | NO_HOMES.keys()
    assert not at_home & NO_HOMES.keys()
