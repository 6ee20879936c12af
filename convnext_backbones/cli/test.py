"""Evaluate a trained checkpoint on its config's test data.

A run's own config, which also knows whether it was a --sample run, lies in its work directory.
"""

from collections.abc import Sequence

from ..adapters import host_of
from . import make_parser
from ._framework import parsed


def parser():
    parser = make_parser("test", __doc__)
    parser.add_argument("config")
    parser.add_argument(
        "checkpoint", help="a run's file, or its work directory for its best or newest one"
    )
    parser.add_argument("--work-dir", help="for the log; default: test, beside the checkpoint")
    parser.add_argument("--sample", action="store_true", help="as train --sample changed it")
    parser.add_argument("--shrink", action="store_true", help="as train --shrink changed it")
    parser.set_defaults(resume=False)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate by the command line."""
    args = parsed("test", parser, argv)
    host = host_of(args.framework)
    from ..runs import commands

    commands.test(host, args)
