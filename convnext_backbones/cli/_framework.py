"""The command line of train, test and predict: their own options and those of the config's framework."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..adapters import FRAMEWORKS, Option, framework_of
from ..errors import UserError


def parsed(
    command: str,
    make: Callable[[], argparse.ArgumentParser],
    argv: Sequence[str] | None,
    framework: str | None = None,
) -> argparse.Namespace:
    """The arguments of a command, for the framework of its config, which args.framework names.

    --help shows every framework's options. Which of them are valid the config tells, unless
    --framework says it or the command is one framework's own (`framework`).

    Raises:
        UserError: the config is missing or does not tell, or an option is another framework's.
    """

    def parser_for(frameworks: Iterable[str]) -> argparse.ArgumentParser:
        parser = make()
        parser.add_argument(
            "--framework", choices=list(FRAMEWORKS), default=framework,
            help="whose config it is, where it does not tell",
        )  # fmt: skip
        for name in frameworks:
            group = parser.add_argument_group(f"with a config of {FRAMEWORKS[name].title}")
            for option in _options(name, command):
                group.add_argument(*option.flags, **option.settings)
        return parser

    args = parser_for([framework] if framework else FRAMEWORKS).parse_intermixed_args(argv)
    from ..runs.preparation import existing_config  # here: it imports torch

    name = args.framework or framework_of(args.config)
    args, others = parser_for([name]).parse_known_intermixed_args(argv)
    if others:
        own = [option.settings.get("metavar", "") if _is_positional(option) else option.flags[0]
               for option in _options(name, command)]  # fmt: skip
        raise UserError(
            f"{' '.join(others)}: not for {args.config}, a config of {FRAMEWORKS[name].title}, whose "
            f"own options are {', '.join(own) or 'none'}"
        )
    args.framework, args.config = name, str(existing_config(args.config))
    for key, value in vars(args).items():  # --work-dir=~/runs, which shells leave as it is
        if isinstance(value, (str, Path)) and str(value).startswith("~"):
            setattr(args, key, type(value)(Path(value).expanduser()))
    return args


def _options(framework: str, command: str) -> list[Option]:
    return [option for option in FRAMEWORKS[framework].options if command in option.commands]


def _is_positional(option: Option) -> bool:
    return not option.flags[0].startswith("-")
