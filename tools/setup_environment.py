"""Make the environment that `make demo` and `make test` run in. Needs only Python's standard library.

    python3 tools/setup_environment.py [--lane classic|onedl|keras]

Pins stand in requirements/. The classic lane goes to .venv, the onedl lane (the maintained forks,
which own the same import names) to .venv-onedl, the keras lane (Keras with TensorFlow, JAX and torch,
without OpenMMLab and Detectron2) to .venv-keras. A finished environment is stamped with a hash of its
pins, so a second call returns at once.

mmcv and detectron2 hold C++ operators and come as source. Built wheels are kept in
~/.cache/convnext-backbones/wheels (CONVNEXT_BACKBONES_CACHE changes the folder).
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import venv
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("CONVNEXT_BACKBONES_CACHE", "~/.cache/convnext-backbones")).expanduser()
REQUIREMENTS = ROOT / "requirements"
NEEDED_GIB = 9
VENVS = {"classic": ".venv", "onedl": ".venv-onedl", "keras": ".venv-keras"}
WITHOUT_OPENMMLAB = ("keras",)
PINS = {  # the files of requirements/ after build.txt
    "classic": ("common", "classic", "keras", "docs", "export"),
    "onedl": ("common", "onedl"),
    "keras": ("common", "keras", "keras_backends"),
}
TRIED = {  # the imports that end a set-up
    "classic": "mmcv.ops, mmdet.models, mmseg.models, timm, transformers",
    "onedl": "mmcv.ops, mmdet.models, mmseg.models, timm, transformers",
    "keras": "tensorflow, jax, keras",
}

# mmcv's 70 operator files spend nearly all of their compile time on the same torch headers, so they
# are compiled as two units (about 1 minute instead of 8 on 2 cores). These few define names that
# clash with a neighbour's and stay files of their own; the last in a unit may leave macros behind.
MMCV_OWN_UNIT = ("roi_align.cpp", "roi_align_rotated.cpp", "rotated_feature_align.cpp")
MMCV_LAST_IN_UNIT = ("psamask.cpp",)

# Of every operator. They stand in the place of Python's own, which setuptools takes where there is no
# CFLAGS: without -O2 mmcv's RoIAlign takes twice to three times as long, its NMS four times.
OPTIMISED = "-O2"
COMPILER_FLAGS = f"{OPTIMISED} -DNDEBUG -g0"


class SetupError(Exception):
    """Something that the user has to mend; the message says what."""


class Environment:
    """One virtual environment: its interpreter, its log and its running step."""

    def __init__(self, lane):
        self.lane = lane
        self.folder = ROOT / VENVS[lane]
        self.python = self.folder / "bin" / "python"
        self.stamp = self.folder / "setup-stamp.txt"
        self.log = self.folder / "setup.log"

    def run(self, *command, cwd=None, **environment):
        """Run a command, its output to the log; SetupError with the log's end when it fails."""
        env = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", **environment)
        env["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{env['PATH']}"
        with open(self.log, "a") as log:
            log.write(f"\n$ {' '.join(map(str, command))}\n")
            log.flush()
            code = subprocess.run(
                [str(part) for part in command], cwd=cwd, env=env, stdout=log, stderr=log
            ).returncode
        if code != 0:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise SetupError(f"this step failed; its last lines, all of it in {self.log}:\n{tail}")

    def pip(self, *arguments, **environment):
        self.run(self.python, "-m", "pip", *arguments, **environment)

    def ask(self, code):
        """What `code` prints in this environment."""
        return subprocess.check_output([str(self.python), "-c", code], text=True).strip()


def step(text, expected):
    """Announce a step and return the function that reports its time."""
    print(f"  {text} (about {expected}) ...", end="", flush=True)
    start = time.monotonic()
    return lambda note="": print(f" done in {time.monotonic() - start:.0f} s{note}", flush=True)


def check_machine(environment):
    """Name what is missing before anything is downloaded."""
    if sys.version_info < (3, 11):
        raise SetupError(
            f"this is Python {sys.version.split()[0]}; the pins need 3.11 or newer. "
            "Run with another interpreter: make setup PYTHON=python3.12"
        )
    compiled = environment.lane not in WITHOUT_OPENMMLAB
    compiler = os.environ.get("CXX", "g++")
    if compiled and shutil.which(compiler) is None:
        raise SetupError(
            f"no C++ compiler ({compiler}) was found; mmcv's operators need one. "
            "Install it (Debian, Ubuntu: apt-get install g++) or name yours with CXX=..."
        )
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if compiled and not headers.exists():
        raise SetupError(
            f"Python's headers are missing ({headers}); mmcv's operators need them. "
            "Install them (Debian, Ubuntu: apt-get install python3-dev)"
        )
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < NEEDED_GIB and not environment.folder.exists():
        raise SetupError(
            f"{free:.1f} GiB are free at {ROOT}; about {NEEDED_GIB} GiB are needed "
            "(torch with CUDA takes 5). Make room or clone to another disk"
        )


def find_detectron2():
    """The detectron2 source to install, DETECTRON2 or the clone in the cache, and why there is none."""
    named = os.environ.get("DETECTRON2")
    if not named:
        clone = CACHE / "detectron2"
        if (clone / "setup.py").exists():
            return str(clone), None
        return None, "set DETECTRON2=<path or git URL> to install it"
    if "://" in named or named.startswith("git@"):
        answer = subprocess.run(
            ["git", "ls-remote", "--exit-code", named.removeprefix("git+"), "HEAD"],
            capture_output=True, text=True, env=dict(os.environ, GIT_TERMINAL_PROMPT="0"),
        )  # fmt: skip
        if answer.returncode != 0:
            return None, f"DETECTRON2={named} cannot be reached"
        return named, None
    if not (Path(named).expanduser() / "setup.py").exists():
        return None, f"DETECTRON2={named} is no source folder: it has no setup.py"
    return str(Path(named).expanduser()), None


def wanted_stamp(lane, detectron2):
    """A text that changes when the environment has to be made again."""
    digest = hashlib.sha256()
    pins = ("build", *PINS[lane], *(["detectron2"] if detectron2 else []))
    for file in [
        *(REQUIREMENTS / f"{name}.txt" for name in pins),
        Path(__file__),
        ROOT / "setup.py",
    ]:
        digest.update(file.read_bytes())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    digest.update(repr((project["build-system"], project["project"])).encode())
    return f"{lane} python{sys.version.split()[0]} detectron2={detectron2} {digest.hexdigest()}\n"


def pinned(file, package):
    """The version that requirements/`file` pins for `package`."""
    match = re.search(rf"^{package}==(\S+)$", (REQUIREMENTS / file).read_text(), re.MULTILINE)
    if match is None:
        raise SetupError(f"requirements/{file} has no line {package}==VERSION")
    return match.group(1)


def let_torch_name_the_standard(source):
    """Take C++14 and 17 out of an unpacked mmcv's setup.py: torch's build adds the standard that it needs, 20 from 2.14 on."""
    setup = source / "setup.py"
    setup.write_text(re.sub(r"'-std=c\+\+1\d'", "", setup.read_text()))


def merge_mmcv_sources(source):
    """Rewrite an unpacked mmcv so that its operators compile as a few units."""
    operators = source / "mmcv" / "ops" / "csrc" / "pytorch"
    for folder in (operators, operators / "cpu"):
        files = sorted(folder.glob("*.cpp"), key=lambda f: (f.name in MMCV_LAST_IN_UNIT, f.name))
        lines = ["#include <torch/extension.h>\n"]
        for file in files:
            if folder.name == "cpu" and file.name in MMCV_OWN_UNIT:
                continue
            included = file.rename(file.with_suffix(".cpp.inc"))
            lines.append(f'#include "{included.name}"\n')
        (folder / "all_operators.cpp").write_text("".join(lines))


def wheel_folder(environment, name):
    """Where built wheels of `name` for this Python and torch are kept."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return CACHE / "wheels" / f"{name}-{tag}-torch{pinned('build.txt', 'torch')}{OPTIMISED}"


def build_wheel(environment, source, folder, **variables):
    """Build the wheel of the source folder into `folder` (whole or not at all); return it."""
    with tempfile.TemporaryDirectory() as work:
        environment.pip(
            "wheel", "--no-deps", "--no-build-isolation", "-w", work, source,
            CFLAGS=COMPILER_FLAGS, MAX_JOBS=str(os.cpu_count() or 2), **variables,
        )  # fmt: skip
        wheel = next(Path(work).glob("*.whl"))
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / (wheel.name + ".part")
        shutil.copy(wheel, part)
        return part.rename(folder / wheel.name)


def install_mmcv(environment):
    """mmcv with its operators, from a kept wheel or built from its source distribution."""
    package = "mmcv" if environment.lane == "classic" else "onedl-mmcv"
    version = pinned(f"{environment.lane}.txt", package)
    folder = wheel_folder(environment, f"{package}-{version}")
    kept = next(folder.glob("*.whl"), None)
    if kept:
        done = step(f"{package} {version}, kept wheel", "3 s")
    else:
        done = step(f"{package} {version}, compiling its operators", "1 to 2 minutes")
        with tempfile.TemporaryDirectory() as work:
            environment.pip(
                "download", "--no-deps", "--no-build-isolation", "--no-binary", ":all:",
                "-d", work, f"{package}=={version}",
            )  # fmt: skip
            archive = next(Path(work).glob("*.tar.gz"))
            with tarfile.open(archive) as tar:
                tar.extractall(work, filter="data")
            source = archive.with_name(archive.name.removesuffix(".tar.gz"))
            let_torch_name_the_standard(source)
            plain = source.with_name("plain")
            shutil.copytree(source, plain)
            merge_mmcv_sources(source)
            try:
                kept = build_wheel(environment, source, folder, MMCV_WITH_OPS="1")
            except SetupError:
                print(" not as merged units; once more file by file (8 to 11 minutes) ...", end="")
                kept = build_wheel(environment, plain, folder, MMCV_WITH_OPS="1")
    environment.pip("install", "--no-deps", "--force-reinstall", kept)
    done()


def install_detectron2(environment, source):
    """detectron2 from its source, compiled or from a kept wheel."""
    done = step(
        f"detectron2 from {source}, compiling its operators", "1 to 3 minutes, 5 s when kept"
    )
    environment.pip("install", "--no-deps", "--no-build-isolation",
                    "-r", REQUIREMENTS / "detectron2.txt")  # fmt: skip
    try:
        commit = subprocess.check_output(
            ["git", "-C", source, "rev-parse", "--short=12", "HEAD"],
            text=True, stderr=subprocess.DEVNULL,
        ).strip()  # fmt: skip
    except (subprocess.CalledProcessError, FileNotFoundError):
        commit = None  # a URL, or a folder without history: build afresh
    kept = None
    if commit:
        folder = wheel_folder(environment, f"detectron2-{commit}")
        kept = next(folder.glob("*.whl"), None)
    with tempfile.TemporaryDirectory() as work:
        if kept is None and os.path.isdir(source):
            copy = Path(work) / "detectron2"  # its build writes into the folder
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".git", "build"))
            kept = build_wheel(environment, copy, folder if commit else Path(work) / "wheel")
        elif kept is None:
            url = source if source.startswith("git+") else f"git+{source}"
            kept = build_wheel(environment, url, Path(work) / "wheel")
        environment.pip("install", "--no-deps", "--force-reinstall", kept)
    done()


def make_environment(environment, detectron2):
    """All steps, from an empty folder to a tried import."""
    if environment.folder.exists() and environment.stamp.exists():
        environment.stamp.unlink()
    if not environment.python.exists():
        done = step(f"virtual environment {environment.folder.name}", "5 s")
        venv.create(environment.folder, with_pip=True)
        done()
    done = step("torch and torchvision (5 GB)", "1 to 2 minutes")
    environment.pip("install", "-r", REQUIREMENTS / "build.txt")
    done()
    if environment.lane not in WITHOUT_OPENMMLAB:
        install_mmcv(environment)
    done = step("the other packages", "40 s")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as rest:
        for file in PINS[environment.lane]:
            text = (REQUIREMENTS / f"{file}.txt").read_text()
            rest.write(re.sub(r"^(onedl-)?mmcv==.*$", "", text, flags=re.MULTILINE))
        rest.flush()
        environment.pip("install", "--no-deps", "--no-build-isolation", "-r", rest.name)
    environment.pip("install", "--no-deps", "--no-build-isolation", "-e", ROOT)
    done()
    if detectron2:
        install_detectron2(environment, detectron2)
    done = step("trying the imports", "15 s")
    environment.run(
        environment.python, "-c", f"import convnext_backbones, {TRIED[environment.lane]}"
    )
    done()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lane", choices=sorted(VENVS), default="classic")
    environment = Environment(parser.parse_args().lane)
    start = time.monotonic()
    try:
        wanted = environment.lane not in WITHOUT_OPENMMLAB
        detectron2, absent = find_detectron2() if wanted else (None, None)
        if absent:
            print(
                f"setup: detectron2 is absent ({absent}); that switches off the Detectron2 adapter, "
                "its configs and its tests, nothing else"
            )
        stamp = wanted_stamp(environment.lane, detectron2)
        if environment.stamp.exists() and environment.stamp.read_text() == stamp:
            print(f"setup: {environment.folder.name} ({environment.lane} lane) is up to date")
            return 0
        check_machine(environment)
        environment.folder.mkdir(exist_ok=True)
        print(
            f"setup: the {environment.lane} lane into {environment.folder.name}, "
            f"log in {environment.log}; about 4 minutes on 2 cores{', 5 with detectron2' * wanted}"
        )
        make_environment(environment, detectron2)
        environment.stamp.write_text(stamp)
    except SetupError as error:
        print(f"\nsetup: {error}", file=sys.stderr)
        return 1
    print(f"setup: ready in {(time.monotonic() - start) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
