# What every run in MMDetection shares, whatever is trained.
custom_imports = dict(imports=["convnext_backbones.adapters.openmmlab"], allow_failed_imports=False)
default_scope = "mmdet"

val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(
    type="DetLocalVisualizer",
    vis_backends=vis_backends,
    name="visualizer",
)
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0)
