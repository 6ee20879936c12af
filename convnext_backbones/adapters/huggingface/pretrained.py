"""from_pretrained and push_to_hub: weights by our loader, whole or refused, and a model card."""

import contextlib
import copy
import logging
import re
import tempfile
from pathlib import Path

import huggingface_hub
from torch import Tensor, device
from transformers import PreTrainedConfig
from transformers.utils.hub import is_offline_mode

from ...checkpoints import CheckpointError, LoadReport
from ...checkpoints.catalogue import find_weights
from ...checkpoints.class_names import names_of
from ...checkpoints.huggingface_config import read_json
from ...checkpoints.inspection import Inspected, inspect_content
from ...checkpoints.loading import STEM, judge_inspected
from ...checkpoints.reading import FOLDER_FILES, read_path
from ...checkpoints.sources import Located, locate
from ...errors import UserError
from .card import model_card
from .configuration import ConvNeXtConfig, as_ours, config_of_network, own_config

logger = logging.getLogger("convnext_backbones")

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
SMALL_FILES = (
    "config.json",
    "preprocessor_config.json",
    "model*.index.json",
    "pytorch_model*.index.json",
)
# What is fetched of a repository, without variants such as model.fp16: where there is none, the next.
WEIGHT_FILES = (
    ("model.safetensors", "model-*.safetensors", "open_clip_model.safetensors"),
    ("pytorch_model.bin", "pytorch_model-*.bin", "open_clip_pytorch_model.bin"),
)


class LoadsWhole:
    """from_pretrained, save_pretrained and push_to_hub of PreTrainedModel, with our loader and a card."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *,
        config=None,
        ignore_mismatched_sizes: bool = False,
        subfolder: str = "",
        variant: str | None = None,
        **options,
    ):
        """A model with published or own weights, in evaluation mode.

        A head of another size is refused, as in transformers, without ignore_mismatched_sizes; whatever stays
        as initialised is said, and nothing but a head, a final norm or output norms may.

        Args:
            pretrained_model_name_or_path: a folder saved by transformers or by these classes, in one file or in
                shards, safetensors or bin; a checkpoint of any other layout; a name of the catalogue, such as
                "convnextv2_tiny.fcmae_ft_in1k" or "facebook/convnext-tiny-224"; a repository of the hub.
            config: a configuration, or the name of one, instead of the one beside the weights.
            ignore_mismatched_sizes: start a new head, and stem, where the weights' have other shapes.
            options: fields of the configuration, e.g. num_labels=10; dtype, device_map, cache_dir, revision and
                whatever else PreTrainedModel.from_pretrained takes.

        Raises:
            UserError: no such name, another model, another network, or a parameter that would stay random.
        """
        if pretrained_model_name_or_path is None:  # transformers' way to give a state_dict
            return super().from_pretrained(None, config=config, **options)
        if variant is not None:
            raise UserError(
                f"variant={variant!r} is no choice of weights here; give the file itself, or convert it"
            )
        hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
        dtype = options.pop("torch_dtype", None)  # its name before transformers 5
        dtype = options.pop("dtype", dtype) or "auto"
        located = find(pretrained_model_name_or_path, subfolder, **hub)
        file = inspect_content(read_path(located.path), located)
        if isinstance(config, PreTrainedConfig):
            config = copy.deepcopy(own_config(config))
        elif config is not None:
            config, options = ConvNeXtConfig.from_pretrained(
                config, return_unused_kwargs=True, **hub, **options
            )
        else:
            config, options = ConvNeXtConfig.from_dict(
                _config_of(file), return_unused_kwargs=True, **options
            )
        if located.weights:
            config.weights = located.weights.name
        state, report = cls._judged(config, file, ignore_mismatched_sizes)
        loaded = super().from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, **options
        )
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.name_or_path = model.config.name_or_path = str(pretrained_model_name_or_path)
        logger.log(logging.WARNING if report.non_commercial else logging.INFO, "%s", report)
        return loaded

    @classmethod
    def _judged(
        cls, config: ConvNeXtConfig, file: Inspected, new_head: bool
    ) -> tuple[dict[str, Tensor], LoadReport]:
        """The parameters that a model of this configuration gets from the file, under its own names."""
        with device("meta"):
            network = cls.core_network(config)
        state, report = judge_inspected(network, file, allow_random=(STEM,) if new_head else ())
        if "head.weight" in file.state and "head.weight" in report.reinitialised and not new_head:
            raise CheckpointError(
                f"{file.source}: its head has {file.state['head.weight'].shape[0]} classes, and the model "
                f"{config.num_labels} (num_labels); leave num_labels out, or start a new head with "
                "ignore_mismatched_sizes=True"
            )
        return {cls.own_name(name): value for name, value in state.items()}, report

    def save_pretrained(self, save_directory, *args, push_to_hub: bool = False, **options):
        """As PreTrainedModel's; with push_to_hub, push_to_hub(repo_id) after it."""
        where = {k: options.pop(k) for k in ("repo_id", "commit_message", "private", "create_pr")
                 if k in options}  # fmt: skip
        super().save_pretrained(save_directory, *args, **options)
        if push_to_hub:
            repo_id = where.pop("repo_id", Path(save_directory).name)
            self.push_to_hub(repo_id, token=options.get("token"), **where)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload model",
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
    ):
        """Upload configuration, weights and, where the repository has none, a model card.

        The card says which published weights the model began with, and their licence (card.py).
        """
        api = huggingface_hub.HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            if not api.file_exists(repo_id, "README.md", revision=revision):
                model_card(self, repo_id, tags=tags or ()).save(Path(folder, "README.md"))
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )


def find(source: str | Path, subfolder: str = "", **hub) -> Located:
    """A folder or file on this machine, weights of the catalogue, or a repository of the hub, in this order.

    Raises:
        CheckpointError: there is none of this name, or it cannot be fetched.
    """
    text = str(source)
    path = Path(text).expanduser() / subfolder
    if path.exists() or "://" in text:
        return locate(path if path.exists() else text)
    known = find_weights(text)
    known = known if known and text in (known.name, *known.aliases) else None
    in_hub = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text)
    if known is None and in_hub:
        return Located(Path(_snapshot(text, subfolder, **hub), subfolder), None, text)
    try:
        return locate(source)
    except CheckpointError:
        if known is None or not in_hub:
            raise
        with contextlib.suppress(CheckpointError):  # it may lie in the hub's cache
            return Located(Path(_snapshot(text, subfolder, **hub), subfolder), known, text)
        raise


def _snapshot(repo_id: str, subfolder: str, **hub) -> str:
    """The folder of a repository: its configuration and the weights that reading.py prefers."""
    start = f"{subfolder}/" if subfolder else ""
    folder = ""
    try:
        for weights in WEIGHT_FILES:
            patterns = [start + name for name in (*SMALL_FILES, *weights)]
            folder = huggingface_hub.snapshot_download(repo_id, allow_patterns=patterns, **hub)
            if any(Path(folder, subfolder, name).exists() for name in FOLDER_FILES):
                break
    except (OSError, ValueError) as error:
        offline = ", which is switched off (HF_HUB_OFFLINE)" if is_offline_mode() else ""
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{repo_id}: there is no such folder, no published weights have this name, and it could not be "
            f"fetched from huggingface.co{offline} ({reason}). Give a folder that save_pretrained wrote, or a "
            "name of checkpoints.CATALOGUE such as 'convnextv2_tiny.fcmae_ft_in1k'"
        ) from error
    return folder


def _config_of(file: Inspected) -> dict:
    """The content of a config.json for the weights: the one beside them, else what they tell themselves."""
    beside = file.located.path / "config.json"
    if file.located.path.is_dir() and beside.is_file():
        return as_ours(read_json(beside))
    config = config_of_network(file.network, file.located.weights, _class_names(file))
    if file.network.version == 1 and "stages.0.0.gamma" not in file.state:
        config["layer_scale_init_value"] = 0.0
    return config


def _class_names(file: Inspected) -> tuple[str, ...] | None:
    count = file.network.num_classes
    names = (
        names_of(file.located.weights, file.located.path, count, file.class_names)
        if count
        else None
    )
    try:
        return names() if callable(names) else names
    except UserError as error:  # the library that has the names is not there
        logger.warning("%s; until then the classes are LABEL_0 and so on", error)
        return None
