"""One page of a run: what was trained, curves, metrics, confusions and pictures, in a file of HTML.

convnext-backbones report work_dirs/my                        # work_dirs/my/report.html, as train writes it
convnext-backbones report work_dirs/a work_dirs/b work_dirs/c  # several beside each other: comparison.html

What was seen in validation pictures is kept at the end of a training; of a run without that, the page says
what is missing.
"""

from collections.abc import Sequence
from pathlib import Path

from ..adapters import FRAMEWORKS, framework_of, host_of
from ..errors import UserError
from . import make_parser

CONFIGS = ("*.py", "*.yaml", "*.yml", "config.json", "*/vis_data/config.py")
COMPARISON = "comparison.html"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page by the command line."""
    parser = make_parser("report", __doc__)
    parser.add_argument("folders", nargs="+", metavar="WORK_DIR", help="work directories of runs")
    parser.add_argument(
        "--out", metavar="FILE.html",
        help=f"default: report.html in the work directory; of several runs {COMPARISON} here",
    )  # fmt: skip
    parser.add_argument("--framework", choices=list(FRAMEWORKS), help="where the runs do not tell")
    args = parser.parse_args(argv)
    folders = [Path(folder).expanduser() for folder in args.folders]
    _check(folders)
    known = [(folder, *_run(folder, args.framework)) for folder in folders]
    hosts = {framework: host_of(framework) for _, framework, _ in known}
    from ..runs.page import making
    from ..runs.page.read import read_run
    from ..runs.page.render import refuse_other_files

    alone = len(folders) == 1
    default = folders[0] / making.PAGE if alone else Path(COMPARISON)
    out = Path(args.out).expanduser() if args.out else default
    refuse_other_files(out)
    for host in hosts.values():
        host.quiet_warnings()
    runs = [read_run(hosts[framework], folder, config) for folder, framework, config in known]
    page = making.save_page(runs[0], out) if alone else making.save_comparison(runs, out)
    for run in runs:
        for sentence in run.lacks:
            print(f"{run.folder}: {sentence}" if not alone else sentence)
    print(f"report:      {page}")


def _check(folders: list[Path]) -> None:
    for folder in folders:
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise UserError(f"{folder} {what}; give the work directory of a run, e.g. work_dirs/my")
    paths = [folder.resolve() for folder in folders]
    if twice := [
        folder for folder, path in zip(folders, paths, strict=True) if paths.count(path) > 1
    ]:
        raise UserError(f"{twice[-1]} is given twice; give each run once")


def _run(folder: Path, framework: str | None) -> tuple[str, Path | None]:
    """The framework of a run and its own config, the newest of several; None where it has none."""
    files = [file for pattern in CONFIGS for file in folder.glob(pattern) if file.is_file()]
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            found = framework_of(str(file))
        except UserError:
            continue
        return framework or found, file
    if framework:
        return framework, None
    raise UserError(
        f"{folder} holds no config of {' or '.join(row.title for row in FRAMEWORKS.values())}, by which a run is "
        f"told: give a run's work directory, or say whose it is: --framework {' or '.join(FRAMEWORKS)}"
    )
