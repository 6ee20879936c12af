"""Write docs/model_zoo.md from the table of recipes; tools/make_configs.py does it too.

python tools/model_zoo.py            # write
python tools/model_zoo.py --check    # status 1 when the page differs from the table
"""

from collections.abc import Sequence

from . import make_parser
from .make_configs import update, written_files

PAGE = "docs/model_zoo.md"


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("model-zoo", __doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(argv)
    return update({PAGE: written_files()[PAGE]}, args.check)
