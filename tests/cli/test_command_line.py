"""`convnext-backbones`: its commands, and what a user sees when something is wrong."""

import importlib
import io
import re
import subprocess
import sys
import types
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

import convnext_backbones
from convnext_backbones import cli
from convnext_backbones.errors import OptionError, Stopped, UserError

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "torchvision", "numpy", "PIL", "matplotlib", "mmengine", "mmcv", "mmdet", "mmseg",
         "detectron2", "timm", "transformers", "triton"}  # fmt: skip


def ended(call, *arguments) -> tuple[int, str]:
    """Exit status and what was printed, of a call in this process."""
    text = io.StringIO()
    with redirect_stdout(text), redirect_stderr(text):
        try:
            status = call(*arguments)
        except SystemExit as end:
            status = end.code
    return status or 0, text.getvalue()


def python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture
def command(monkeypatch):
    """Puts a command `trial` into the table, whose main is the function given."""

    def put(function):
        module = types.ModuleType("convnext_backbones.cli.trial")
        module.main = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, "trial", cli.Command("trial", "of the tests"))

    return put


# --- the table ----------------------------------------------------------------------------------


def test_help_lists_every_command_with_its_line():
    status, printed = ended(cli.main, ["--help"])
    assert status == 0
    for name, command in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.line)}$", printed, re.MULTILINE)


def test_version_is_the_packages():
    assert ended(cli.main, ["--version"]) == (
        0,
        f"convnext-backbones {convnext_backbones.__version__}\n",
    )


def test_an_unknown_command_is_answered_with_the_nearest():
    status, printed = ended(cli.main, ["trian"])
    assert status == 2
    assert "there is no command 'trian'; did you mean 'train'?" in printed
    assert ended(cli.main, [])[0] == 2


def test_a_command_gets_its_arguments_and_its_status_is_returned(command):
    command(lambda argv: len(argv))
    assert ended(cli.main, ["trial", "--an", "option", "--help"]) == (3, "")
    command(lambda argv: None)
    assert ended(cli.main, ["trial"]) == (0, "")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_a_command_imports_neither_torch_nor_a_framework(name):
    code = (
        "import sys; from convnext_backbones.cli import main\n"
        "try: status = main([sys.argv[1], '--help'])\n"
        "except SystemExit as end: status = end.code\n"
        "print('\\nMODULES', *{module.split('.')[0] for module in sys.modules}); sys.exit(status)"
    )
    done = python(code, name)
    assert done.returncode == 0, done.stderr
    usage, modules = done.stdout.split("MODULES")
    assert f"usage: convnext-backbones {name}" in usage
    assert HEAVY & set(modules.split()) == set()


def test_the_package_starts_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "convnext_backbones", "--version"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == f"convnext-backbones {convnext_backbones.__version__}\n"


# --- the tools ----------------------------------------------------------------------------------

TOOLS = sorted(p.stem for p in (ROOT / "tools").glob("*.py") if p.stem != "setup_environment")


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_is_named_as_it_was_called(name):
    done = subprocess.run(
        [sys.executable, f"tools/{name}.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: tools/{name}.py")


# --- errors -------------------------------------------------------------------------------------


def raising(error):
    def main(argv):
        raise error

    return main


def test_a_mistake_ends_in_its_sentence(command):
    command(raising(UserError("this came, that is valid")))
    assert ended(cli.main, ["trial"]) == (2, "error: this came, that is valid\n")


def test_an_interruption_leaves_no_trace(command):
    command(raising(KeyboardInterrupt()))
    assert ended(cli.main, ["trial"]) == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("package", "wanted"),
    [("mmdet", '"convnext_backbones[openmmlab]"'), ("matplotlib", '"convnext_backbones[runs]"'),
     ("timm.models", '"convnext_backbones[lab]"'), ("tqdm", "tqdm")],
)  # fmt: skip
def test_a_missing_package_is_answered_with_what_to_install(command, package, wanted):
    command(raising(ModuleNotFoundError("No module named ...", name=package)))
    status, printed = ended(cli.main, ["trial"])
    assert status == 2
    name = package.split(".")[0]
    assert printed == (
        f"error: this needs the package {name}, which is not installed: pip install {wanted}\n"
    )


def test_an_adapters_own_sentence_is_kept_and_the_cause_of_a_broken_library_told(command):
    def main(argv):
        try:
            raise cause
        except ImportError as error:
            raise ImportError("the adapter needs MMEngine: pip install mmengine") from error

    command(main)
    cause = ModuleNotFoundError("No module named 'mmengine'")
    status, printed = ended(cli.main, ["trial"])
    assert (status, printed) == (2, "error: the adapter needs MMEngine: pip install mmengine\n")
    cause = ImportError("libGL.so.1: cannot open shared object file")
    assert "pip install mmengine (libGL.so.1: cannot open" in ended(cli.main, ["trial"])[1]


@pytest.mark.parametrize(
    "fault",
    [ImportError("cannot import name", name="convnext_backbones.network"),
     BrokenPipeError("a socket of a run"), KeyError("mask"), RuntimeError("two\nlines")],
)  # fmt: skip
def test_a_fault_of_ours_is_not_taken_for_a_users_and_can_be_reported(command, fault):
    command(raising(fault))
    status, printed = ended(cli.main, ["trial"])
    assert status == 1
    assert f"{type(fault).__name__}: {fault}" in printed
    assert "Traceback" not in printed
    kept = Path(re.search(r"please report it with (\S+\.txt)", printed)[1])
    assert "Traceback" in kept.read_text()
    kept.unlink()
    status, printed = ended(cli.main, ["trial", "--debug"])
    assert status == 1
    assert "Traceback" in printed
    assert "please report it" in printed


def test_debug_shows_the_trace_of_a_mistake(command):
    command(raising(UserError("this came")))
    status, printed = ended(cli.main, ["trial", "--debug"])
    assert status == 2
    assert printed.startswith("Traceback")
    assert printed.endswith("error: this came\n")


def test_the_end_of_a_stopped_run_says_how_to_go_on(command):
    command(raising(Stopped("saved; go on with --resume", signal=15)))
    assert ended(cli.main, ["trial"]) == (143, "saved; go on with --resume\n")


class Refusing(Dataset):
    """Of the readers of pictures: its sentence has to come out of a worker process."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error


@pytest.mark.parametrize("kind", [UserError, OptionError])
def test_a_mistake_in_a_data_worker_arrives_as_its_sentence(command, kind):
    def main(argv):
        dataset = Refusing()
        dataset.error = kind("a.jpg: is empty\nDownload it again")
        next(iter(DataLoader(dataset, num_workers=1)))

    command(main)
    assert ended(cli.main, ["trial"]) == (2, "error: a.jpg: is empty\nDownload it again\n")


def test_a_mistake_below_another_error_is_told(command):
    def main(argv):
        try:
            raise UserError("the cause")
        except UserError as error:
            raise RuntimeError("a framework's wrapping") from error

    command(main)
    assert ended(cli.main, ["trial"]) == (2, "error: the cause\n")


def test_a_file_that_the_system_refuses_is_named(command, tmp_path):
    command(lambda argv: (tmp_path / "file" / "below").mkdir())
    (tmp_path / "file").touch()
    sentence = f"error: {tmp_path}/file/below: Not a directory\n"
    assert ended(cli.main, ["trial"]) == (2, sentence)


def test_output_that_nobody_reads_ends_the_command_quietly():
    code = (
        "import sys, types; from convnext_backbones import cli\n"
        "module = types.ModuleType('convnext_backbones.cli.trial')\n"
        "module.main = lambda argv: [print('x' * 100) for _ in range(100_000)] and None\n"
        "sys.modules[module.__name__] = module; sys.exit(cli.run('trial'))"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    running.stdout.readline()
    running.stdout.close()
    assert running.stderr.read() == b""
    running.stderr.close()
    assert running.wait() == 1


# --- the package --------------------------------------------------------------------------------


def test_importing_the_package_imports_no_torch_and_its_names_come_when_asked_for():
    code = (
        "import sys, convnext_backbones as package\n"
        "assert 'torch' not in sys.modules\n"
        "assert set(package.__all__) <= set(dir(package))\n"
        "from convnext_backbones import create_backbone, VARIANTS\n"
        "assert package.checkpoints.load_pretrained and package.network.convnext.Block\n"
        "from convnext_backbones import *\n"
        "assert ConvNeXt.__module__ == 'convnext_backbones.network.convnext'\n"
        "assert not hasattr(package, 'ConvNext')"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_every_exported_name_has_its_module():
    assert sorted(convnext_backbones._HOME) == sorted(convnext_backbones.__all__)
    for name, module in convnext_backbones._HOME.items():
        home = importlib.import_module(f"convnext_backbones.{module}")
        assert getattr(convnext_backbones, name) is getattr(home, name)


def test_the_names_that_a_type_checker_sees_are_those_exported():
    source = (ROOT / "convnext_backbones/__init__.py").read_text()
    block = source.partition("if TYPE_CHECKING:\n")[2].partition("\n\n")[0]
    seen = {
        name.strip(): module
        for module, names in re.findall(r"from \.(\S+) import (.+)", block)
        for name in names.split(",")
    }
    assert seen == convnext_backbones._HOME
