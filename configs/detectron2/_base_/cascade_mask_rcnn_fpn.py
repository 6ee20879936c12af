# Cascade Mask R-CNN with FPN: Mask R-CNN with three box heads of the official recipe, 4conv1fc with
# SyncBN and a GIoU loss of weight 10. A config sets backbone.bottom_up.
# What is Detectron2's own: boxes are class-agnostic, one mask head serves the three stages, and their
# gradients are averaged where MMDetection weights the stages' losses 1, 0.5, 0.25.
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
)

from .mask_rcnn_fpn import model

model.proposal_generator.post_nms_topk = [2000, 1000]  # training, test

for name in ("box_head", "box_predictor", "proposal_matcher"):  # Mask R-CNN's
    model.roi_heads.pop(name)
model.roi_heads.update(
    _target_=CascadeROIHeads,
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
)
