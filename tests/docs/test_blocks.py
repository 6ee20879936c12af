"""Every block of README.md and docs/ is tried: Python and YAML by the test that RUN_BY names, commands
against their parsers, the Makefile and pyproject.toml. A block without a test is a failure.
"""

import argparse
import importlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
import torch
from packaging.requirements import Requirement
from pages import DOCS, ROOT, SHOWN, blocks_of, publish_atto, run, text_of
from PIL import Image
from randomness import random_images, randomised

from convnext_backbones import cli, create_classifier
from convnext_backbones.checkpoints import sources

PAGES = [str(path.relative_to(DOCS if DOCS in path.parents else ROOT)) for path in SHOWN]

# THE table: which test runs the Python and YAML of a page, all of its blocks.
HERE = "tests/docs/test_blocks.py"
RUN_BY = {
    "README.md": HERE,
    "detectron2.md": "tests/adapters/detectron2/test_detectron2_page.py",
    "export.md": "tests/export/test_export_page.py",
    "finetuning.md": "tests/adapters/openmmlab/test_finetuning.py",
    "huggingface.md": "tests/adapters/huggingface/test_huggingface_page.py",
    "index.md": HERE,
    "keras.md": "tests/adapters/test_keras_page.py",
    "lightning.md": "tests/peers/test_lightning.py",
    "looking.md": "tests/looking/test_visualize_command.py",
    "maps.md": HERE,
    "migration.md": HERE,
    "mmdetection.md": HERE,
    "pretraining.md": "tests/pretraining/test_pretraining_page.py",
    "python.md": HERE,
    "recipes.md": HERE,
    "scaling.md": HERE,
    "security.md": HERE,
    "speed.md": HERE,
    "timm.md": "tests/adapters/timm/test_timm_page.py",
    "torchvision.md": "tests/adapters/torchvision/test_torchvision_page.py",
    "weights.md": HERE,
}
SHELL = "bash"
PLAIN = "text"  # what a command prints, a file's lines


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_its_test(page):
    languages = {block.language for block in blocks_of(page)}
    unknown = [b for b in blocks_of(page) if b.language not in ("python", "yaml", SHELL, PLAIN)]
    assert unknown == [], "say what a block is: ```python, ```yaml, ```bash or ```text"
    for language, call in (("python", "run"), ("yaml", "yaml_of")):
        if language in languages:
            assert page in RUN_BY, f"name in RUN_BY the test that runs {page}"
            text = (ROOT / RUN_BY[page]).read_text()
            assert re.search(rf'\b{call}\(\s*"{page}"', text), f"{RUN_BY[page]}: {call} of {page}"


def test_the_table_names_pages_alone():
    assert set(RUN_BY) <= set(PAGES)


# ---- Python --------------------------------------------------------------------------------------
@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a picture, and a V2-Atto for every download."""
    Image.new("RGB", (320, 240), "sienna").save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    publish_atto(tmp_path, monkeypatch)
    return tmp_path


ATTO = {"convnextv2_tiny": "convnextv2_atto", '"tiny"': '"atto"'}


V1_ATTO = {
    "convnext_tiny.fb_in1k": "convnext_atto.d2_in1k",
    '"convnext_tiny"': '"convnext_atto"',
    '"tiny"': '"atto"',
}


def built(backbone: dict):
    """A backbone as MMEngine builds it from a config."""
    pytest.importorskip("mmengine")
    importlib.import_module("convnext_backbones.adapters.openmmlab")
    from mmengine.registry import MODELS

    model = MODELS.build(backbone)
    model.init_weights()
    return model


def test_the_readmes_snippets(place):
    detectron2 = pytest.importorskip("detectron2.config")
    names = run("README.md", ATTO)
    assert built(names["backbone"]).channels == (40, 80, 160, 320)
    assert detectron2.instantiate(names["bottom_up"]).channels == (40, 80, 160, 320)


def test_the_first_page(place):
    assert built(run("index.md", ATTO)["backbone"]).channels == (40, 80, 160, 320)


def test_mmdetections_page(place):
    config = run("mmdetection.md", ATTO)
    model = built(config["model"]["backbone"])
    from mmengine.optim import build_optim_wrapper

    wrapper = build_optim_wrapper(model, {**config["optim_wrapper"], "type": "OptimWrapper"})
    assert len({group["lr"] for group in wrapper.optimizer.param_groups}) > 2


def test_pythons_page(place):
    small = {"convnext_base": "convnext_atto", **ATTO}
    images, labels = random_images(2, 3, 64, 64), torch.tensor([1, 2])
    names = run("python.md", small, images=images, labels=labels)
    assert [x.shape[1] for x in names["maps"]] == [40, 80, 320]
    assert names["logits"].shape == (1, 10)


def test_the_page_of_maps(place):
    names = run("maps.md", ATTO, images=random_images(2, 3, 224, 224))
    assert names["maps"][0].shape[1] == 320


def test_the_page_of_weights(place, capsys):
    assert run("weights.md", ATTO)["report"].reinitialised
    assert "new: norm0, norm1, norm2, norm3" in capsys.readouterr().out


def test_the_page_of_security(place, capsys):
    (place / "evil.pth").write_bytes(b"cos\nsystem\n(S'touch seen'\ntR.")
    run("security.md")
    assert "system" in capsys.readouterr().out
    assert not (place / "seen").exists()


def test_the_page_of_speed(place):
    names = run("speed.md", {**ATTO, "compile=True": "compile=False"})
    assert names["fast"](random_images(1, 3, 64, 64)).shape == (1, 1000)


def test_the_page_of_recipes():
    from convnext_backbones import shipped_config

    base = run("recipes.md")["_base_"].rpartition("/convnext_backbones/configs/")[2]
    assert Path(shipped_config(base.removesuffix(".py"))).exists()


def test_what_the_page_of_migration_pastes(place, monkeypatch):
    transformers = pytest.importorskip("transformers")
    model = randomised(create_classifier("convnext_atto"))
    torch.save(model.state_dict(), "tiny.pth")
    theirs = {f"backbone.{name}": value for name, value in model.state_dict().items()}
    torch.save(theirs, "mmpretrain.pth")
    monkeypatch.setattr(sources, "download", lambda *args, **options: place / "tiny.pth")
    config = transformers.ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32])
    config.architectures = ["ConvNextForImageClassification"]
    config.save_pretrained(place)
    names = run("migration.md", V1_ATTO)
    pasted = dict(names["model"]["backbone"], type="ConvNeXt")
    del pasted["_delete_"]
    assert built(pasted).channels == (40, 80, 160, 320)


def test_the_page_of_scaling(place, monkeypatch):
    for name, value in (
        ("RANK", 0),
        ("WORLD_SIZE", 1),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", 0),
    ):
        monkeypatch.setenv(name, str(value))
    torch.distributed.init_process_group("gloo")
    try:
        names = run("scaling.md", {"convnextv2_huge": "convnextv2_atto"})
    finally:
        torch.distributed.destroy_process_group()
    assert names["strategy"]["state_dict_cfg"] == "full"
    assert all(type(p).__name__ == "DTensor" for p in names["model"].parameters())


# ---- commands ------------------------------------------------------------------------------------
class ParsedError(Exception):
    """A command's arguments are valid; it does not go on."""


TOOLS = {path.stem: path for path in (ROOT / "tools").glob("*.py")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = re.search(r"(?m)^\.PHONY: (.*)$", (ROOT / "Makefile").read_text())[1].split()


def lines_of(page: str) -> list[str]:
    """The commands of its shell blocks and those in its sentences, with one alternative each."""
    whole = []
    for block in blocks_of(page):
        if block.language == SHELL:
            whole += block.text.replace("\\\n", " ").splitlines()
    outside = re.sub(r"(?ms)^```.*?^```$", "", text_of(page))
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", outside)]
    commands = (r"convnext-backbones [a-z]", r"python (tools|tests)/", r"make [a-z]", r"pip install",
                r"pytest ", r"LANE=\w+ ", r"torchrun ")  # fmt: skip
    whole += [s for s in spans if re.match("|".join(commands), s) and "..." not in s]
    return [line for text in whole for line in alternatives(text)]


def alternatives(line: str) -> list[str]:
    """Of `--to timm|official [--peer timm]` the lines it stands for, what is in brackets included."""
    line = re.sub(r"\[(-[^\]]*)\]", r"\1", line)
    choice = re.search(r"(?<![\w|])[\w-]+(\|[\w-]+)+", line)
    if not choice:
        return [line]
    return [
        a for one in choice[0].split("|") for a in alternatives(line.replace(choice[0], one, 1))
    ]


COMMANDS = sorted({(page, line) for page in PAGES for line in lines_of(page)})


@pytest.fixture
def parsers(monkeypatch):
    """Commands end after their arguments."""
    for name in ("parse_args", "parse_intermixed_args"):
        original = getattr(argparse.ArgumentParser, name)

        def parse(self, *arguments, original=original):
            if self.prog == cli.PROGRAM:  # the first word alone
                return original(self, *arguments)
            original(self, *arguments)
            raise ParsedError

        monkeypatch.setattr(argparse.ArgumentParser, name, parse)


def called(module: str, arguments: list[str]) -> None:
    """Run a command, or a tool that is none."""
    if (ROOT / f"convnext_backbones/cli/{module}.py").exists():
        importlib.import_module(f"convnext_backbones.cli.{module}").main(arguments)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(TOOLS[module]), *arguments])
        patch.syspath_prepend(ROOT / "tools")
        runpy.run_path(str(TOOLS[module]), run_name="__main__")


def parse(module: str, arguments: list[str]) -> None:
    """Assert that a command takes these arguments."""
    with pytest.raises((ParsedError, SystemExit)) as end:
        called(module, arguments)
    assert not getattr(end.value, "code", 0), arguments  # 0 of --help


def check(words: list[str]) -> None:
    """Assert that a command is one that works here, as far as its arguments go."""
    while words and re.fullmatch(r"[A-Za-z_]\w*=.*", words[0]):
        words = words[1:]  # its environment
    if not words:
        return
    name, *rest = words
    if name == cli.PROGRAM:
        if len(rest) == 1:  # a command's name in a sentence
            assert rest[0] in cli.COMMANDS
            return
        parse(cli.COMMANDS[rest[0]].module, rest[1:])
    elif name == "python" and rest[0].startswith("tools/"):
        tool = Path(rest[0]).stem
        assert tool in TOOLS
        if len(rest) == 1:
            return
        parse(tool, rest[1:])
    elif name == "python" and rest[0] != "-m":
        assert (ROOT / rest[0]).is_file()
    elif name == "python":
        assert importlib.util.find_spec(rest[1])
    elif name == "torchrun":
        from torch.distributed.run import get_args_parser

        args = argparse.ArgumentParser.parse_known_args(get_args_parser(), rest)[0]
        check(["python", args.training_script, *args.training_script_args])
    elif name == "srun":
        check(rest[next(i for i, word in enumerate(rest) if word in ("python", "torchrun")) :])
    elif name == "make":
        wanted = [word for word in rest if "=" not in word]
        assert set(wanted) <= set(TARGETS)
    elif name == "pip":
        assert rest[0] == "install"
        for asked in (word for word in rest[1:] if not word.startswith("-")):
            requirement = Requirement(re.sub(r"^\.", PROJECT["name"], asked))
            if requirement.name == PROJECT["name"]:
                assert requirement.extras <= PROJECT["optional-dependencies"].keys()
    elif name == "pytest":
        for word in rest:
            path = word.partition("::")[0]
            assert word.startswith("-") or word == "slow" or (ROOT / path).exists()
    elif name == "git":
        assert rest[0] == "clone"
        assert len(rest) == 3
    elif name == "source":
        assert rest == [".venv/bin/activate"]
    else:
        assert name in ("cd", "apt-get"), f"no test knows the command {name}"


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_is_one_that_works_as_it_is_written(page, line, parsers, capsys):
    if page != "README.md" and "<" not in line:
        done = subprocess.run(["bash", "-n"], input=line, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
    if re.match(r"\w+=\$\(", line):  # what a shell computes
        return
    for part in re.split(r" && ", line):
        check(shlex.split(part, comments=True))


def test_the_page_of_training_names_every_command():
    rows = dict(re.findall(r"(?m)^\| `([a-z-]+)` \| (.*) \|$", text_of("training.md")))
    assert rows == {name: command.line for name, command in cli.COMMANDS.items()}


def test_a_wrong_line_is_noticed(parsers, capsys):
    for line in (
        "convnext-backbones train CONFIG --resum-it", "python tools/nothing.py", "make tests",
        "pip install '.[lab2]'", "pytest tests/nothing", "conda install it",
    ):  # fmt: skip
        with pytest.raises((SystemExit, AssertionError)):
            check(shlex.split(line))
    assert alternatives("convert A B --to x|y [--z]") == [
        "convert A B --to x --z",
        "convert A B --to y --z",
    ]
