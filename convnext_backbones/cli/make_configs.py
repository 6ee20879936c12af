"""Write configs/ of both hosts and docs/model_zoo.md from the table of recipes, for maintainers.

    python tools/make_configs.py            # write
    python tools/make_configs.py --check    # name the files that differ from the table, status 1

The table is convnext_backbones/recipes/table.py, the texts are convnext_backbones/recipes/writers/.
"""

from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from . import make_parser

ROOT = Path(__file__).parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("make-configs", __doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(argv)
    files = written_files()
    unknown = sorted(shipped_configs() - set(files))
    for path in unknown:
        print(f"{path}: no row of the table; delete it, or add its row")
    return update(files, args.check) or int(bool(unknown))


def written_files() -> dict[str, str]:
    """recipes.writers.written_files(); UserError where the templates or their engine are missing."""
    if not (ROOT / "configs").is_dir():
        raise UserError(
            "the configs are written in a clone of the repository; this is an installed package, which "
            "carries them as they are in convnext_backbones/configs"
        )
    try:
        from ..recipes.writers import written_files
    except ModuleNotFoundError as error:
        if error.name != "jinja2":
            raise
        raise UserError('the configs are written by Jinja: pip install -e ".[dev]"') from None
    return written_files()


def update(files: dict[str, str], check: bool) -> int:
    """Write what differs from the table, or with `check` name it and return 1."""
    differing = [
        path
        for path, text in files.items()
        if not (ROOT / path).is_file() or (ROOT / path).read_text(encoding="utf-8") != text
    ]
    for path in differing:
        print(f"{path}: {'differs from the table' if check else 'written'}")
        if not check:
            (ROOT / path).write_text(files[path], encoding="utf-8")
    return int(check and bool(differing))


def shipped_configs() -> set[str]:
    """The configs that are there, by their paths in the repository."""
    found = (path for end in ("*.py", "*.yaml") for path in (ROOT / "configs").rglob(end))
    return {path.relative_to(ROOT).as_posix() for path in found}
