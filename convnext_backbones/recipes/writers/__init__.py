"""What is written from the table: configs/ of both hosts, and docs/model_zoo.md.

The texts stand in templates/, which the wheel does not carry: only maintainers write configs, by
tools/make_configs.py. What files share stands once there; what is written is complete.
"""

from . import detectron2, openmmlab, zoo


def written_files() -> dict[str, str]:
    """Every file that the table determines: its path in the repository, and its text."""
    return {**openmmlab.files(), **detectron2.files(), zoo.PATH: zoo.page()}
