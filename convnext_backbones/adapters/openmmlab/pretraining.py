"""FCMAE by MMEngine's runner: a run's config, what it names, and what is left at its end (own_runs.py)."""

from argparse import Namespace
from datetime import date
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, get_dist_info, is_main_process
from mmengine.model import BaseModel
from mmengine.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS, MODELS
from mmengine.structures import BaseDataElement

from ...console import counted, say
from ...errors import UserError
from ...network.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ...pretraining import FCMAE, masks
from ...pretraining.fcmae import DECODER_DIM
from ...pretraining.files import load_fcmae, official_state
from ...pretraining.pictures import (
    PassingNumbers,
    Sample,
    UnlabelledPictures,
    pictures_in,
    whole_view,
)
from ...recipes.pretraining import PRETRAINING, pretraining_recipe
from ...runs import preparation, report
from ...runs.commands import called
from ...runs.sample import SHRUNK_DEPTHS, SHRUNK_DIMS, WIDTH, ensure_sample_data
from ...runs.visualize import save_grid, spread
from ...runs.whole_files import written_whole
from . import own_runs, run
from .checkpoints import read_training_checkpoint
from .registration import register
from .saving import last_whole

UNIT = 32  # pixels, of the published networks
SETTINGS = "pretraining.json"  # in the run's folder
SHOWN = 6  # pictures in reconstruction.png
GREY = 127  # of what is removed, in it
# --sample: generated pictures, a few minutes of two cores
SAMPLE = dict(size=(96, 96), epochs=40, batch=16)


# ---- what the config names -----------------------------------------------------------------------
class FCMAEModel(BaseModel):
    """FCMAE as MMEngine trains a model.

    Args:
        arch, version, mask_ratio, decoder_dim, with_cp: of FCMAE.
        weights: a file to start from; see load_fcmae.
    """

    def __init__(
        self,
        arch: str | dict,
        *,
        version: int = 2,
        mask_ratio: float,
        decoder_dim: int = DECODER_DIM,
        with_cp: bool = False,
        weights: str | None = None,
    ):
        mean, std = ([255 * v for v in values] for values in (IMAGENET_MEAN, IMAGENET_STD))
        super().__init__(dict(type="ImgDataPreprocessor", mean=mean, std=std))
        self.fcmae = FCMAE(
            arch, version=version, mask_ratio=mask_ratio, decoder_dim=decoder_dim, with_cp=with_cp
        )
        self.weights = weights

    def init_weights(self) -> None:
        """Load `weights`; without, all is drawn already."""
        if self.weights:
            say(load_fcmae(self.fcmae, self.weights))

    def forward(self, inputs, mask=None, data_samples=None, mode: str = "tensor"):
        """(N, 3, H, W) normalised images and (N, units) masks to the loss, or a Reconstruction."""
        result = self.fcmae(inputs, mask)
        return dict(loss=result.loss) if mode == "loss" else result

    def parse_losses(self, losses):
        """Logs the mean over all processes, which is the whole batch's."""
        loss, logged = super().parse_losses(losses)
        mean = loss.detach().clone()
        all_reduce(mean, "mean")
        return loss, {**logged, "loss": mean}


class Numbers(PassingNumbers):
    """As MMEngine builds a sampler."""

    def __init__(self, dataset, seed: int | None = None):
        rank, processes = get_dist_info()
        super().__init__(len(dataset), rank=rank, processes=processes)


def unlabelled_batch(samples: list[Sample]) -> dict:
    """Samples as MMEngine's models have a batch; data_samples name the pictures for who reports on them."""
    return dict(
        inputs=torch.stack([sample.image for sample in samples]),
        mask=torch.stack([sample.mask for sample in samples]),
        data_samples=[BaseDataElement(metainfo=dict(img_path=s.path)) for s in samples],
    )


register(MODELS, FCMAEModel)
register(DATASETS, UnlabelledPictures)
register(DATA_SAMPLERS, Numbers)
FUNCTIONS.register_module(module=unlabelled_batch, force=True)


# ---- a run ---------------------------------------------------------------------------------------
def pretrain(args: Namespace) -> None:
    """Pretrain as the command line says, and leave weights, curves and a picture of what is completed."""
    own_runs.carry_out(args, prepared, finish)


def prepared(args: Namespace) -> tuple[Config, dict]:
    """The config as it will run here, and what of it says which run it is.

    Raises:
        UserError: wrong or missing input.
    """
    variant = own_runs.network_named(args.arch)
    version, size_name = variant.version, variant.size
    if args.sample:
        args.images = args.images or str(ensure_sample_data() / "coco" / "train2017")
    elif not args.images:
        raise UserError(
            "give the folder of the pictures: --images FOLDER; or try generated ones: --sample"
        )
    size = _size(args.size or (SAMPLE["size"] if args.sample else (224,)))
    masks.grid_of(*size, UNIT)
    masks.check_ratio(args.mask_ratio)
    listed = pictures_in(args.images)
    count, processes = len(listed.pictures), own_runs.processes_of(args.launcher)
    recipe = pretraining_recipe(count, args.recipe)
    epochs = args.epochs or (SAMPLE["epochs"] if args.sample else recipe.epochs)
    batch = args.batch or (SAMPLE["batch"] if args.sample else 64)
    if count < processes:
        raise UserError(
            f"{args.images} holds {counted(count, 'picture')}, fewer than the {processes} processes of this run: "
            "start fewer"
        )
    taken = min(batch, count // processes)
    whole = taken * processes * args.accumulate
    steps = count // processes // taken * epochs
    network = (
        f"{'convnextv2' if version == 2 else 'convnext'}_{'shrunk' if args.shrink else size_name}"
    )
    settings = dict(
        network=network, size=list(size), mask_ratio=args.mask_ratio, epochs=epochs,
        recipe=next(name for name, row in PRETRAINING.items() if row == recipe), seed=args.seed,
        started_from=args.weights or "random weights",
    )  # fmt: skip
    config = _config(
        args, version, size_name, size, epochs, steps, taken, recipe, recipe.rate(whole)
    )
    if args.shrink:
        config["model"] |= dict(
            arch=dict(depths=SHRUNK_DEPTHS, dims=SHRUNK_DIMS), decoder_dim=WIDTH
        )
    cfg = own_runs.made(config, f"pretrain_{network}", args)
    settings = own_runs.noted(cfg, settings, SETTINGS, resume=args.resume)
    if is_main_process():
        _tell(args, listed, settings, recipe, cfg, steps, whole, batch)
    return cfg, settings


def _size(sides) -> tuple[int, int]:
    if len(sides) > 2:
        raise UserError(
            f"--size takes one side, or height and width, got {' '.join(map(str, sides))}"
        )
    return sides[0], sides[-1]


def _config(args, version, arch, size, epochs, steps, batch, recipe, lr) -> dict:
    """The run's config, whole."""
    hooks = [dict(type="Throughput")]
    if args.ema:
        hooks.append(dict(type="EMAHook", momentum=1 - args.ema))
    return dict(
        default_scope="mmengine",
        custom_imports=dict(imports=["convnext_backbones.adapters.openmmlab.pretraining"]),
        model=dict(
            type="FCMAEModel", arch=arch, version=version, mask_ratio=args.mask_ratio,
            weights=None if args.resume else args.weights,
        ),
        train_dataloader=dict(
            batch_size=batch, num_workers=args.workers, persistent_workers=args.workers > 0, drop_last=True,
            pin_memory=torch.cuda.is_available(),
            dataset=dict(
                type="UnlabelledPictures", folder=str(args.images), size=size, mask_ratio=args.mask_ratio,
                smallest_crop=recipe.smallest_crop, unit=UNIT, seed=args.seed,
            ),
            sampler=dict(type="Numbers"),
            collate_fn=dict(type="unlabelled_batch"),
        ),
        train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=epochs),
        optim_wrapper=dict(
            **own_runs.wrapper_of(args),
            optimizer=dict(type="AdamW", lr=lr, betas=recipe.betas, weight_decay=recipe.weight_decay),
            constructor="ConvNeXtLayerDecay",  # of none: it leaves norms, biases and GRN without weight decay
            paramwise_cfg=dict(decay_rate=1.0),
        ),
        param_scheduler=own_runs.schedule(steps, recipe.warmup),
        default_hooks=own_runs.default_hooks(epochs),
        custom_hooks=hooks,
        env_cfg=dict(dist_cfg=dict(backend="nccl")),
        randomness=dict(seed=args.seed),
    )  # fmt: skip


def _tell(args, listed, settings, recipe, cfg, steps, whole, batch) -> None:
    """What is trained on what, a line each."""
    say(f"pictures: {len(listed.pictures)} in {args.images}")
    if listed.label_maps:
        maps = counted(len(listed.label_maps), "label map")
        say(f"left out: {maps} of these pictures, such as {listed.label_maps[0]}")
    taken = cfg.train_dataloader.batch_size
    if taken < batch:
        say(f"batch:    {taken} of each process instead of {batch}: there are no more pictures")
    say(
        f"recipe:   {settings['recipe']}, {recipe.source}; --recipe takes the other. "
        f"{counted(settings['epochs'], 'epoch')}, {counted(steps // args.accumulate, 'step')} of "
        f"{counted(whole, 'picture')}, lr {cfg.optim_wrapper.optimizer.lr:.3g}"
    )


# ---- its end -------------------------------------------------------------------------------------
def finish(cfg: Config, settings: dict, args: Namespace) -> None:
    """Weights in the official layout, curves, originals beside what was completed; name what comes next."""
    work_dir = Path(cfg.work_dir)
    checkpoint = last_whole(work_dir)
    model = run_model(cfg, checkpoint)
    training, _ = report.scalars(run.read_log(work_dir))
    losses = [record["loss"] for record in training if "loss" in record]
    weights = work_dir / f"{settings['network']}_fcmae.pth"
    metadata = dict(
        what="FCMAE pretraining (arXiv:2301.00808)", by=args.program, **settings,
        pictures=len(pictures_in(cfg.train_dataloader.dataset.folder).pictures),
        folder=str(cfg.train_dataloader.dataset.folder),
        lr=cfg.optim_wrapper.optimizer.lr, loss=losses[-1] if losses else None,
        command=args.command_line, date=date.today().isoformat(), torch=str(torch.__version__),
    )  # fmt: skip
    with written_whole(weights) as file:
        torch.save({"model": official_state(model.fcmae), "metadata": metadata}, file)
    if curves := report.save_curves(training, [], work_dir / "curves.png"):
        print(f"curves:         {curves}")
    if rows := reconstruction_rows(model, cfg):
        titles = ("picture", "what is seen", "completed")
        print(f"reconstruction: {save_grid(rows, titles, work_dir / 'reconstruction.png')}")
    print(f"checkpoint:     {checkpoint}")
    print(f"weights:        {weights}, which pretrained= of every config of this network takes")
    print(
        f"train with it:  {called('train')} CONFIG --cfg-options model.backbone.init_cfg.checkpoint={weights}"
    )


def run_model(cfg: Config, checkpoint: Path) -> FCMAEModel:
    """The run's model with a checkpoint's weights: EMA's, where EMA made them."""
    options = {k: v for k, v in cfg.model.items() if k not in ("type", "weights")}
    model = FCMAEModel(**options)
    content = read_training_checkpoint(str(checkpoint))
    preparation.load_whole(model, content["state_dict"], str(checkpoint), None)
    return model.eval()


@torch.no_grad()
def reconstruction_rows(model: FCMAEModel, cfg: Config) -> list[list]:
    """Originals, what is seen of them and what is completed, as (H, W, 3) uint8 arrays."""
    settings = cfg.train_dataloader.dataset
    files = pictures_in(settings.folder).pictures
    views = []
    for k in spread(len(files), min(SHOWN, len(files)), lambda k: True):
        try:
            views.append(whole_view(files[k], settings.size))
        except UserError:  # which the run has named
            continue
    if not views:
        return []
    pixels = torch.stack(views)
    images = model.data_preprocessor(dict(inputs=pixels))["inputs"]
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(0)
        result = model.fcmae(images)
    mean, std = model.data_preprocessor.mean, model.data_preprocessor.std
    completed = model.fcmae.completed(images, result) * std + mean
    grid = settings.size[0] // UNIT, settings.size[1] // UNIT
    removed = (result.mask == 1).view(-1, 1, *grid)
    removed = removed.repeat_interleave(UNIT, 2).repeat_interleave(UNIT, 3)
    seen = torch.where(removed, GREY, pixels)
    shown = (pixels, seen, completed.round().clamp(0, 255).to(torch.uint8))
    columns = [images.permute(0, 2, 3, 1).contiguous().numpy() for images in shown]
    return [list(row) for row in zip(*columns, strict=True)]
