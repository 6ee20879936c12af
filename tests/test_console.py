"""A command's console, without a framework: levels, warnings, what libraries print, progress."""

import contextlib
import importlib
import logging
import sys
import textwrap
import types
import warnings

import pytest

from convnext_backbones import cli, console
from convnext_backbones.console import Level, Lines, counted, progress, say

LINES = Lines(shown=("step ",), noise=("nothing new",))


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A package that prints, warns and logs, and is known for it."""
    monkeypatch.setattr(console._STATE, "libraries", {"talkative"})
    file = tmp_path / "talkative.py"
    file.write_text(
        textwrap.dedent("""
        import warnings
        def tell(text): print(text)
        def warn(text): warnings.warn(text)
        def log(logger, text): logger.info(text)
        """)
    )
    module = types.ModuleType("talkative")
    module.__file__ = str(file)
    exec(compile(file.read_text(), str(file), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "talkative", module)
    return module


class Kept(logging.Handler):
    """A log file."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelname, record.getMessage()))

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)


def framework_logger() -> logging.Logger:
    logger = logging.Logger("framework")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("framework: %(message)s"))
    logger.addHandler(handler)
    console.shorten(handler, LINES)
    return logger


@pytest.mark.parametrize("level", Level)
def test_each_level_shows_what_it_says_and_the_file_keeps_all(level, library, capsys):
    kept = Kept()
    with console.session():
        console.choose(level)
        say("a step")
        say("the result", always=True)
        library.tell("by the way")
        console.keep_in(kept)  # what was said before comes into the file, too
        logger = framework_logger()
        logger.addHandler(kept)
        library.log(logger, "step 1 of 9")
        library.log(logger, "hooks and hooks")
        logger.warning("nothing new")
        logger.warning("a warning that matters")
    printed = capsys.readouterr().out
    assert ("a step" in printed) == (level > Level.QUIET)
    assert "the result" in printed
    assert ("step 1 of 9" in printed) == (level > Level.QUIET)
    for talk in ("by the way", "hooks and hooks", "nothing new"):
        assert (talk in printed) == (level == Level.VERBOSE)
    assert ("framework: hooks" in printed) == (level == Level.VERBOSE)  # in its own format
    assert "a warning that matters" in printed
    for line in (
        "a step",
        "the result",
        "by the way",
        "step 1 of 9",
        "hooks and hooks",
        "nothing new",
    ):
        assert line in kept.text


def test_what_a_users_own_module_logs_and_prints_is_shown(library, capsys):
    with console.session():
        framework_logger().info("my hook: epoch 3")
        print("my own print")
    printed = capsys.readouterr().out
    assert "my hook: epoch 3" in printed
    assert "my own print" in printed


def test_a_librarys_warning_is_kept_and_ours_and_a_users_are_shown(library, capsys):
    kept = Kept()
    with warnings.catch_warnings(), console.session():
        warnings.simplefilter("always")
        console.keep_in(kept)
        library.warn("this call is deprecated")
        warnings.warn("your labels look odd", stacklevel=1)
    shown = capsys.readouterr().err
    assert "deprecated" not in shown
    assert "your labels look odd" in shown
    assert [name for name, line in kept.lines if "deprecated" in line] == ["INFO"]
    assert [name for name, line in kept.lines if "look odd" in line] == ["WARNING"]


def test_our_loggers_warn_on_stderr_and_tell_the_file(capsys):
    kept = Kept()
    with console.session():
        console.keep_in(kept)
        logging.getLogger("convnext_backbones").warning("a file was left")
        logging.getLogger("convnext_backbones").info("weights: whole")
    assert capsys.readouterr().err == "a file was left\n"
    assert kept.text == "a file was left\nweights: whole"


def test_a_library_that_logs_by_itself_is_kept(capsys):
    kept = Kept()
    console.hide(loggers=["somebodys.logger"])
    with console.session():
        console.keep_in(kept)
        logging.getLogger("somebodys.logger").warning("no nvcc here")
    assert "nvcc" not in capsys.readouterr().err
    assert "no nvcc here" in kept.text


def test_a_session_leaves_everything_as_it_was(capsys):
    before = (sys.stdout, warnings.showwarning, logging.getLogger("convnext_backbones").level)
    with contextlib.suppress(ZeroDivisionError), console.session():
        console.choose(Level.QUIET)
        raise ZeroDivisionError
    after = (sys.stdout, warnings.showwarning, logging.getLogger("convnext_backbones").level)
    assert after == before
    say("afterwards")
    assert capsys.readouterr().out == "afterwards\n"


def test_other_processes_of_a_run_say_no_steps(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with console.session():
        say("a step")
        assert progress(range(3), late=0).disable
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_takes_quiet_or_verbose(name, capsys):
    main = importlib.import_module(f"convnext_backbones.cli.{cli.COMMANDS[name].module}").main
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "[--quiet | --verbose]" in " ".join(capsys.readouterr().out.split())


def test_the_command_line_chooses_the_level():
    with console.session():
        cli.make_parser("x", "").parse_args(["--quiet"])
        assert console._STATE.level is Level.QUIET
        cli.make_parser("x", "").parse_args([])
        assert console._STATE.level is Level.NORMAL
    with pytest.raises(SystemExit):
        cli.make_parser("x", "").parse_args(["--quiet", "--verbose"])


def test_progress_is_lines_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(console, "SILENT", 0)
    with console.session():
        list(progress(range(4), "reading", late=0, mininterval=0))
    shown = capsys.readouterr().err
    assert "\r" not in shown
    assert "reading: 100%, 4 of 4" in shown.splitlines()[-1]


def test_progress_of_what_is_short_is_not_shown(capsys):
    with console.session():
        list(progress(range(4), "reading"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("count", "what", "words"),
    [(0, "picture", "0 pictures"), (1, "process", "1 process"), (2, "process", "2 processes"),
     (2, "box", "2 boxes"), (2, "category", "2 categories"), (2, "key", "2 keys"), (1, "box", "1 box")],
)  # fmt: skip
def test_counts_are_read_aloud(count, what, words):
    assert counted(count, what) == words
