"""Fine-tuning a classifier by MMEngine's runner: a run's config, what it names, and what is left at its end
(own_runs.py).

The recipe is a row of recipes/finetuning.py; the network's, the optimizer's and the pictures' parts of it are told
to each of them. The average of the weights is MMEngine's.
"""

import dataclasses
import re
from argparse import Namespace
from datetime import date
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, FUNCTIONS, METRICS, MODELS
from mmengine.structures import BaseDataElement
from torch.nn import functional as F

from ...checkpoints.inspection import Inspected, inspect_checkpoint
from ...checkpoints.loading import load_inspected
from ...checkpoints.preprocessing import preprocessing_of
from ...console import counted, progress, say
from ...data.tree import some
from ...errors import UserError
from ...network.classifier import ConvNeXtClassifier
from ...network.preprocessing import WARP_FROM
from ...network.variants import VARIANTS
from ...pretraining.class_folders import ClassFolders, find_class_folders
from ...pretraining.labelled import Labelled, LabelledPictures, mixing
from ...pretraining.networks import options_of
from ...pretraining.outcome import Outcome, print_classes, save_confusion, save_mistakes
from ...recipes.finetuning import Chosen, FineTuningRecipe, fine_tuning_recipe
from ...runs import preparation, report
from ...runs.commands import called
from ...runs.sample import SHRUNK_DEPTHS, SHRUNK_DIMS
from ...runs.whole_files import written_whole
from . import own_runs, run
from .checkpoints import read_training_checkpoint
from .registration import register
from .saving import last_whole

SETTINGS = "finetuning.json"  # in the run's folder
BATCH = 64  # pictures of a process
VALIDATIONS = 50  # in a run, at most
MOST_UNREADABLE = 0.1  # of the pictures that validate
NAMED = 10  # of them, in a sentence
OF_IMAGENET_1K = re.compile(r"^(?!.*(22k|12k)).*(in1k|1k_224)")  # names of weights, at 224 pixels


# ---- what the config names -----------------------------------------------------------------------
class FineTunedClassifier(BaseModel):
    """A ConvNeXtClassifier as MMEngine trains a model.

    Args:
        network: options of ConvNeXtClassifier.
        classes: their names, in the order of the head.
        recipe: fields of FineTuningRecipe.
        weights, section: of the network to start from; see load_pretrained.
    """

    def __init__(
        self,
        network: dict,
        classes: list[str],
        recipe: dict,
        weights: str | None = None,
        section: str | None = None,
    ):
        super().__init__()
        recipe = FineTuningRecipe(**recipe)
        self.network = ConvNeXtClassifier(
            **network,
            num_classes=len(classes),
            drop_path_rate=recipe.drop_path,
            head_init_scale=recipe.head_init_scale,
        )
        self.network.class_names = classes
        self.mixing, self.smoothing = mixing(recipe, len(classes)), recipe.smoothing
        self.weights, self.section = weights, section

    def init_weights(self) -> None:
        """Load `weights`; without, all is drawn already."""
        if self.weights:
            say(load_weights(self.network, inspect_checkpoint(self.weights, section=self.section)))

    def forward(self, inputs, labels=None, data_samples=None, mode: str = "tensor"):
        """(N, 3, H, W) normalised images to logits (N, classes), the loss, or a row of probabilities each."""
        if mode == "loss":
            if self.mixing is not None:
                inputs, labels = self.mixing(inputs, labels)
            logits = self.network(inputs).float()
            return dict(loss=F.cross_entropy(logits, labels, label_smoothing=self.smoothing))
        logits = self.network(inputs)
        return list(logits.float().softmax(dim=1)) if mode == "predict" else logits


def load_weights(network: ConvNeXtClassifier, file: Inspected) -> str:
    """Load what a checkpoint has; its head only where it names the same classes. The verdict, in lines."""
    names = network.class_names
    report = load_inspected(network, file)
    if "head.weight" not in report.loaded:
        network.class_names = names
        return str(report)
    if file.class_names == names:
        return f"{report}\n  head: the file's, of the same classes"
    network._reset_head()
    network.class_names = names
    report = dataclasses.replace(
        report,
        loaded=tuple(n for n in report.loaded if not n.startswith("head.")),
        reinitialised=(*report.reinitialised, "head.weight", "head.bias"),
    )
    return f"{report}\n  head: new, as the file does not say that its classes are these"


class ClassificationScores(BaseMetric):
    """Top-1 and more of the pictures that validate; Outcome.scores.

    Raises:
        UserError: more than MOST_UNREADABLE of them cannot be read.
    """

    def process(self, data_batch, data_samples) -> None:
        for probabilities, label, sample in zip(
            data_samples, data_batch["labels"], data_batch["data_samples"], strict=True
        ):
            row = (probabilities.cpu(), int(label), sample.img_path, sample.reason)
            self.results.append(row)

    def compute_metrics(self, results: list) -> dict[str, float]:
        return outcome_of(results).scores


def outcome_of(results: list[tuple]) -> Outcome:
    """Of rows of probabilities, label, path and why it cannot be read."""
    read = [row for row in results if not row[3]]
    unreadable = tuple(row[3] for row in results if row[3])
    if len(unreadable) > MOST_UNREADABLE * len(results):
        raise UserError(
            f"{len(unreadable)} of the {len(results)} pictures that validate cannot be read: "
            f"{some(unreadable)}; mend or remove them"
        )
    probabilities, labels, paths, _ = zip(*read, strict=True)
    return Outcome(torch.stack(probabilities), torch.tensor(labels), paths, unreadable)


def labelled_batch(samples: list[Labelled]) -> dict:
    """Samples as MMEngine's models have a batch; data_samples name the pictures for who reports on them."""
    return dict(
        inputs=torch.stack([sample.pixels for sample in samples]),
        labels=torch.tensor([sample.label for sample in samples]),
        data_samples=[
            BaseDataElement(metainfo=dict(img_path=s.path, reason=s.reason)) for s in samples
        ],
    )


register(MODELS, FineTunedClassifier)
register(DATASETS, LabelledPictures)
register(METRICS, ClassificationScores)
FUNCTIONS.register_module(module=labelled_batch, force=True)


# ---- a run ---------------------------------------------------------------------------------------
def finetune(args: Namespace) -> None:
    """Fine-tune as the command line says, and leave a classifier, curves, confusions and mistakes."""
    own_runs.carry_out(args, prepared, finish)


def prepared(args: Namespace) -> tuple[Config, dict]:
    """The config as it will run here, and what of it says which run it is.

    Raises:
        UserError: wrong or missing input.
    """
    folders = find_class_folders(args.data, val_share=args.val_share, seed=args.seed)
    network, name, preprocessing = _network(args)
    version, count = network["version"], len(folders.train)
    variant = VARIANTS.get(name)
    enlarged = (args.size or 0) >= WARP_FROM and bool(OF_IMAGENET_1K.search(str(args.checkpoint)))
    chosen = fine_tuning_recipe(
        version, variant.size if variant else "own", count, args.recipe,
        pretrained_on="in1k" if enlarged else None,
    )  # fmt: skip
    recipe = chosen.recipe._replace(
        **{
            key: value
            for key in ("epochs", "drop_path")
            if (value := getattr(args, key)) is not None
        }
    )
    recipe = recipe._replace(warmup=recipe.warmup * recipe.epochs / chosen.recipe.epochs)
    size = args.size or preprocessing.get("image_size", recipe.pixels)
    least = 8 * network["patch_size"]
    if size < least:
        raise UserError(f"--size {size}: this network needs at least {least} pixels")
    preprocessing.pop("image_size", None)
    processes = own_runs.processes_of(args.launcher)
    if count < processes:
        raise UserError(
            f"{args.data} has {counted(count, 'picture')} to train, fewer than the {processes} processes of this "
            "run: start fewer"
        )
    batch = min(args.batch, count // processes)
    whole = batch * processes * args.accumulate
    steps = -(-count // processes) // batch * recipe.epochs
    settings = dict(
        network=name, size=size, epochs=recipe.epochs, recipe=chosen.name, seed=args.seed,
        data=str(folders.root), classes=list(folders.classes), pictures=[count, len(folders.val)],
        started_from=str(args.checkpoint or "random weights"),
    )  # fmt: skip
    lr = recipe.rate(whole) if args.lr is None else args.lr
    config = _config(args, folders, network, recipe, lr, size, preprocessing, batch, steps)
    cfg = own_runs.made(config, f"finetune_{name}", args)
    settings = own_runs.noted(cfg, settings, SETTINGS, resume=args.resume)
    if is_main_process():
        _tell(args, folders, settings, chosen, recipe, cfg, steps, whole)
    return cfg, settings


def _network(args: Namespace) -> tuple[dict, str, dict]:
    """Options of the classifier, the network's name, and how its pictures are prepared.

    Raises:
        UserError: neither weights nor a network are named, or they are two.
    """
    wanted = own_runs.network_named(args.arch) if args.arch else None
    if args.checkpoint is None:
        if wanted is None and not args.shrink:
            raise UserError(
                "give the weights to start from: --checkpoint FILE, such as a run's of pretrain, or a name such as "
                "convnextv2_atto.fcmae; or a network of random weights: --arch atto"
            )
        if args.shrink:
            arch = dict(depths=list(SHRUNK_DEPTHS), dims=list(SHRUNK_DIMS))
            return dict(arch=arch, version=2, patch_size=4), "convnextv2_shrunk", {}
        return dict(arch=wanted.size, version=wanted.version, patch_size=4), wanted.name, {}
    if args.shrink:
        raise UserError("--shrink trains a small network of random weights; leave out --checkpoint")
    file = inspect_checkpoint(args.checkpoint, section=args.section)
    if wanted and (wanted.version, wanted.depths, wanted.dims) != file.network[:3]:
        raise UserError(
            f"{file.source} is {file.network}, and --arch {args.arch} is {wanted.name}: leave out --arch, which "
            f"the checkpoint tells, or give a checkpoint of {wanted.name}"
        )
    options = options_of(file)
    preprocessing, _ = preprocessing_of(file.located.weights, file.located.path, file.preprocessing)
    name = file.network.variant or f"convnext{'v2' * (file.network.version == 2)}_own"
    return options, name, preprocessing


def _config(args, folders, network, recipe, lr, size, preprocessing, batch, steps) -> dict:
    """The run's config, whole."""
    fields = {key: value for key, value in recipe._asdict().items() if key != "source"}
    fields["source"] = "see recipes/finetuning.py"
    data = dict(
        type="LabelledPictures", root=str(args.data), size=size, recipe=fields, preprocessing=preprocessing,
        val_share=args.val_share, seed=args.seed,
    )  # fmt: skip
    loader = dict(
        batch_size=batch, num_workers=args.workers, persistent_workers=args.workers > 0,
        pin_memory=torch.cuda.is_available(), collate_fn=dict(type="labelled_batch"),
    )  # fmt: skip
    hooks = [dict(type="Throughput")]
    if recipe.ema:
        hooks.append(dict(type="EMAHook", momentum=1 - recipe.ema))
    return dict(
        default_scope="mmengine",
        custom_imports=dict(imports=["convnext_backbones.adapters.openmmlab.finetuning"]),
        model=dict(
            type="FineTunedClassifier", network=network, classes=list(folders.classes), recipe=fields,
            weights=None if args.resume or args.checkpoint is None else str(args.checkpoint),
            section=args.section,
        ),
        train_dataloader=dict(
            **loader, drop_last=True, dataset=dict(data, split="train"),
            sampler=dict(type="DefaultSampler", shuffle=True),
        ),
        val_dataloader=dict(
            **loader, dataset=dict(data, split="val"), sampler=dict(type="DefaultSampler", shuffle=False),
        ),
        val_evaluator=dict(type="ClassificationScores"),
        val_cfg=dict(),
        train_cfg=dict(
            type="EpochBasedTrainLoop", max_epochs=recipe.epochs,
            val_interval=max(1, -(-recipe.epochs // VALIDATIONS)),
        ),
        optim_wrapper=dict(
            **own_runs.wrapper_of(args),
            optimizer=dict(type="AdamW", lr=lr, betas=recipe.betas, weight_decay=recipe.weight_decay),
            constructor="ConvNeXtLayerDecay",
            paramwise_cfg=dict(decay_rate=recipe.layer_decay, decay_type=recipe.decay_type),
        ),
        param_scheduler=own_runs.schedule(
            steps, recipe.warmup / recipe.epochs, min(recipe.min_lr / lr, 1.0)
        ),
        default_hooks=own_runs.default_hooks(recipe.epochs),
        custom_hooks=hooks,
        randomness=dict(seed=args.seed),
    )  # fmt: skip


def _tell(
    args,
    folders: ClassFolders,
    settings,
    chosen: Chosen,
    recipe: FineTuningRecipe,
    cfg,
    steps,
    whole,
) -> None:
    """What is trained on what, a line each."""
    say(f"data:     {folders}")
    for note in folders.notes:
        say(f"          {note}")
    if args.checkpoint is None:
        say(
            "weights:  random, which few pictures do not teach much; --checkpoint starts from learned ones"
        )
    if cfg.train_dataloader.batch_size < args.batch:
        say(
            f"batch:    {cfg.train_dataloader.batch_size} of each process: there are no more pictures"
        )
    of = f", {chosen.nearest}'s, as none is published for this network" if chosen.nearest else ""
    say(
        f"recipe:   {chosen.name}{of} ({recipe.source}); --recipe takes the other. {recipe.epochs} epochs, "
        f"{steps // args.accumulate} steps of {whole} pictures of {settings['size']} pixels, "
        f"lr {cfg.optim_wrapper.optimizer.lr:.3g}"
    )
    say(
        f"          layer decay {recipe.layer_decay:g} {recipe.decay_type}, drop path {recipe.drop_path:g}, weight "
        f"decay {recipe.weight_decay:g}, smoothing {recipe.smoothing:g}, mixup {recipe.mixup:g}, cutmix "
        f"{recipe.cutmix:g}, erasing {recipe.erasing:g}, {recipe.rand_augment or 'no RandAugment'}, "
        f"EMA {recipe.ema or 'none'}"
    )


# ---- its end -------------------------------------------------------------------------------------
def finish(cfg: Config, settings: dict, args: Namespace) -> None:
    """The classifier in a file, its figures by class, curves, confusions and mistakes; name what comes next."""
    work_dir, classes = Path(cfg.work_dir), settings["classes"]
    checkpoint = last_whole(work_dir)
    model = run_model(cfg, checkpoint)
    outcome = validated(model, cfg)
    scores = outcome.scores
    dataset = cfg.val_dataloader.dataset
    weights = work_dir / f"{settings['network']}_classifier.pth"
    metadata = dict(
        what="fine-tuned classifier", by=args.program, **settings, scores=scores,
        recipe_fields={k: v for k, v in dict(cfg.model.recipe).items() if k != "source"},
        lr=cfg.optim_wrapper.optimizer.lr, command=args.command_line, date=date.today().isoformat(),
        torch=str(torch.__version__),
    )  # fmt: skip
    content = {
        "model": {k: v.detach().cpu().clone() for k, v in model.network.state_dict().items()},
        "class_names": list(classes),
        "preprocessing": {**plain(dataset.preprocessing), "image_size": dataset.size},
        "metadata": plain(metadata),
    }
    with written_whole(weights) as file:
        torch.save(content, file)
    training, validation = report.scalars(run.read_log(work_dir))
    print_classes(outcome, classes)
    report.print_metrics(scores, f"{len(outcome.labels)} pictures that validate")
    if outcome.unreadable:
        print(f"not read:     {some(outcome.unreadable, NAMED)}")
    if curves := report.save_curves(training, validation, work_dir / "curves.png"):
        print(f"curves:       {curves}")
    print(f"confusions:   {save_confusion(outcome, classes, work_dir / 'confusion.png')}")
    mistakes = save_mistakes(outcome, classes, work_dir / "mistakes.png")
    print(f"mistakes:     {mistakes or 'none'}")
    print(f"checkpoint:   {checkpoint}")
    print(
        f"classifier:   {weights}, which knows its classes; a detector's pretrained= takes it, too"
    )
    print(
        f"for Python:   create_classifier({settings['network']!r}, num_classes={len(classes)}, "
        f"pretrained={str(weights)!r})"
        if settings["network"] in VARIANTS
        else f"for Python:   load_pretrained(model, {str(weights)!r})"
    )
    print(f"Hugging Face: {called('convert')} {weights} FOLDER --to huggingface")


def plain(value):
    """A config's value as plain data."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def run_model(cfg: Config, checkpoint: Path) -> FineTunedClassifier:
    """The run's model with a checkpoint's weights: the average's, where there is one."""
    options = {k: v for k, v in cfg.model.items() if k not in ("type", "weights", "section")}
    model = FineTunedClassifier(**options)
    content = read_training_checkpoint(str(checkpoint))
    preparation.load_whole(model, content["state_dict"], str(checkpoint), None)
    return model.eval()


@torch.inference_mode()
def validated(model: FineTunedClassifier, cfg: Config) -> Outcome:
    """What the model says of the pictures that validate."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    options = {k: v for k, v in cfg.val_dataloader.dataset.items() if k != "type"}
    loader = torch.utils.data.DataLoader(
        LabelledPictures(**options), cfg.val_dataloader.batch_size,
        num_workers=cfg.val_dataloader.num_workers, collate_fn=labelled_batch,
    )  # fmt: skip
    metric = ClassificationScores()
    for batch in progress(loader, "validating"):
        metric.process(batch, model(batch["inputs"].to(device), mode="predict"))
    model.cpu()
    return outcome_of(metric.results)
