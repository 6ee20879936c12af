"""The model card of a model that is pushed: what it is, and what may be done with its weights."""

from collections.abc import Iterable

from huggingface_hub import ModelCard, ModelCardData

from ...checkpoints.catalogue import CATALOGUE

# The hub's own words for licences; for others it asks for "other" and a name.
LICENCES = {"MIT": "mit", "Apache-2.0": "apache-2.0", "BSD-3-Clause": "bsd-3-clause",
            "CC-BY-NC-4.0": "cc-by-nc-4.0"}  # fmt: skip
PAPERS = {
    1: "[A ConvNet for the 2020s](https://arxiv.org/abs/2201.03545)",
    2: "[Co-designing and Scaling ConvNets with Masked Autoencoders](https://arxiv.org/abs/2301.00808)",
}


def model_card(model, repo_id: str, *, tags: Iterable[str] = ()) -> ModelCard:
    """The card of one of our models for transformers.

    Its licence is that of the published weights that the model began with; without any, it is left to
    its author.
    """
    config = model.config
    weights = CATALOGUE.get(config.weights)
    classifies = hasattr(model, "classifier")
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification" if classifies else "image-feature-extraction",
        tags=["convnext_backbones", "convnextv2" if config.version == 2 else "convnext", *tags],
        **_licence(weights.licence if weights else None),
    )
    name = type(model).__name__
    size = f"depths {list(config.depths)}, widths {list(config.hidden_sizes)}"
    lines = [
        f"# {repo_id.rsplit('/', 1)[-1]}",
        f"ConvNeXt{' V2' if config.version == 2 else ''} ({PAPERS[config.version]}) of {size}"
        + (f", with {config.num_labels} classes." if classifies else "."),
        _origin(weights),
        "## Use",
        "```python\n"
        f"from convnext_backbones.adapters.huggingface import {name}\n\n"
        f'model = {name}.from_pretrained("{repo_id}")\n'
        "```",
    ]
    return ModelCard(f"---\n{data}\n---\n\n" + "\n\n".join(lines) + "\n")


def _licence(licence: str | None) -> dict:
    if licence is None:
        return {}
    known = LICENCES.get(licence)
    return {"license": known} if known else {"license": "other", "license_name": licence.lower()}


def _origin(weights) -> str:
    if weights is None:
        return (
            "The weights began at random, or with others than published ones. Their licence is for their "
            "author to say."
        )
    non_commercial = "NC" in weights.licence or "Noncommercial" in weights.licence
    limit = ", which forbids commercial use" if non_commercial else ""
    return (
        f"The weights began with `{weights.name}` ({weights.url}), trained on {weights.training_data}, "
        f"under {weights.licence}{limit}."
    )
