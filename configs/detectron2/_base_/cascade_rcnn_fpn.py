# Cascade R-CNN with FPN: three box heads of the official recipe, 4conv1fc with SyncBN and a GIoU loss of
# weight 10, no masks. A config sets backbone.bottom_up.
# What is Detectron2's own: boxes are class-agnostic, and the stages' gradients are averaged where
# MMDetection weights their losses 1, 0.5, 0.25.
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
)

model = L(GeneralizedRCNN)(
    backbone=L(FPN)(
        in_features="${.bottom_up.out_features}",
        out_channels=256,
        top_block=L(LastLevelMaxPool)(),
    ),
    proposal_generator=L(RPN)(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=L(StandardRPNHead)(in_channels=256, num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32], [64], [128], [256], [512]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=[2000, 1000],  # training, test
        post_nms_topk=[2000, 1000],
        nms_thresh=0.7,
    ),
    roi_heads=L(CascadeROIHeads)(
        num_classes=80,
        batch_size_per_image=512,
        positive_fraction=0.25,
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=L(ROIPooler)(
            output_size=7,
            scales=[1 / 4, 1 / 8, 1 / 16, 1 / 32],
            sampling_ratio=0,
            pooler_type="ROIAlignV2",
        ),
        box_heads=[
            L(FastRCNNConvFCHead)(
                input_shape=L(ShapeSpec)(channels=256, height=7, width=7),
                conv_dims=[256, 256, 256, 256],
                fc_dims=[1024],
                conv_norm="SyncBN",
            )
            for _ in range(3)
        ],
        box_predictors=[
            L(FastRCNNOutputLayers)(
                input_shape=L(ShapeSpec)(channels=1024),
                test_score_thresh=0.05,
                test_topk_per_image=100,
                box2box_transform=L(Box2BoxTransform)(weights=weights),
                cls_agnostic_bbox_reg=True,
                box_reg_loss_type="giou",
                loss_weight=dict(loss_box_reg=10.0),
                num_classes="${...num_classes}",
            )
            for weights in ([10, 10, 5, 5], [20, 20, 10, 10], [30, 30, 15, 15])
        ],
        proposal_matchers=[
            L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False)
            for iou in (0.5, 0.6, 0.7)
        ],
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
)
