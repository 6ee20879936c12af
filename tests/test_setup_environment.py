"""The set-up names what is missing before it downloads anything."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("setup_env", ROOT / "tools/setup_environment.py")
setup_env = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(setup_env)


@pytest.fixture
def environment(tmp_path, monkeypatch):
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    return setup_env.Environment("classic")


def test_a_missing_compiler_is_named(environment, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(setup_env.SetupError, match=r"no C\+\+ compiler \(no-such-compiler\)"):
        setup_env.check_machine(environment)


def test_a_full_disk_is_named(environment, monkeypatch):
    usage = shutil.disk_usage(ROOT)._replace(free=2**30)
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(setup_env.SetupError, match=r"1\.0 GiB are free .* about 9 GiB are needed"):
        setup_env.check_machine(environment)


def test_missing_python_headers_are_named(environment, monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(setup_env.SetupError, match="Python's headers are missing"):
        setup_env.check_machine(environment)


@pytest.mark.parametrize(
    ("named", "words"),
    [(None, "set DETECTRON2="), ("/nowhere", "no setup.py"), ("file:///nowhere.git", "reached")],
)
def test_an_absent_detectron2_is_one_line(monkeypatch, tmp_path, named, words):
    monkeypatch.setattr(setup_env, "CACHE", tmp_path)
    monkeypatch.delenv("DETECTRON2", raising=False)
    if named:
        monkeypatch.setenv("DETECTRON2", named)
    source, reason = setup_env.find_detectron2()
    assert source is None
    assert words in reason


def test_a_failing_step_shows_the_end_of_its_log(environment):
    environment.folder.mkdir()
    with pytest.raises(setup_env.SetupError, match="the reason it failed"):
        environment.run(sys.executable, "-c", "raise SystemExit('the reason it failed')")


def test_every_lane_has_its_pins_and_ends_with_imports():
    for lane in setup_env.VENVS:
        assert (setup_env.REQUIREMENTS / f"{lane}.txt").exists()
        assert lane in setup_env.TRIED


def test_the_keras_lane_needs_no_compiler(environment, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    environment.lane = "keras"
    setup_env.check_machine(environment)


def test_every_pin_is_exact():
    for file in setup_env.REQUIREMENTS.glob("*.txt"):
        for line in file.read_text().splitlines():
            assert line.startswith("#") or "==" in line, f"{file.name}: {line}"


def test_operators_are_compiled_with_optimisation(environment, monkeypatch, tmp_path):
    """setuptools takes CFLAGS in the place of Python's flags, -O3 among them."""
    told = []

    def wheel(*arguments, **variables):
        told.append(variables["CFLAGS"].split())
        Path(arguments[arguments.index("-w") + 1], "a.whl").touch()

    monkeypatch.setattr(environment, "pip", wheel)
    monkeypatch.setattr(setup_env, "CACHE", tmp_path)
    folder = setup_env.wheel_folder(environment, "a-1")
    assert setup_env.build_wheel(environment, "source", folder).parent == folder
    assert {"-O2", "-DNDEBUG"} <= set(told[0])
    assert folder.name.endswith("-O2")  # a wheel kept from before is not taken


def test_merged_mmcv_units_hold_every_operator_once(tmp_path):
    folder = tmp_path / "mmcv/ops/csrc/pytorch"
    (folder / "cpu").mkdir(parents=True)
    for name in ("nms.cpp", "roi_align.cpp", "cpu/nms.cpp", "cpu/psamask.cpp", "cpu/roi_align.cpp",
                 "cpu/voxelization.cpp"):  # fmt: skip
        (folder / name).write_text("")
    setup_env.merge_mmcv_sources(tmp_path)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*.cpp")}
    assert left == {"all_operators.cpp", "cpu/all_operators.cpp", "cpu/roi_align.cpp"}
    unit = (folder / "cpu/all_operators.cpp").read_text().splitlines()
    assert [line.split('"')[1] for line in unit[1:]] == [
        "nms.cpp.inc", "voxelization.cpp.inc", "psamask.cpp.inc",
    ]  # fmt: skip
    assert all((folder / "cpu" / line.split('"')[1]).exists() for line in unit[1:])


def test_torch_names_the_standard_that_mmcv_compiles_with(tmp_path):
    """mmcv 2.1.0 names C++14 and 17; torch 2.14 needs 20."""
    text = "flags = {'nvcc': [cuda, '-std=c++14'] if cuda else ['-std=c++14'], 'cxx': ['-Wall', '-std=c++17']}"
    (tmp_path / "setup.py").write_text(text)
    setup_env.let_torch_name_the_standard(tmp_path)
    names = {"cuda": "-g"}
    exec((tmp_path / "setup.py").read_text(), names)
    assert names["flags"] == {"nvcc": ["-g"], "cxx": ["-Wall"]}


def test_a_finished_environment_is_left_alone(environment, monkeypatch, capsys):
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, setup_env.ROOT)
    detectron2, _ = setup_env.find_detectron2()
    environment.folder.mkdir()
    environment.stamp.write_text(setup_env.wanted_stamp("classic", detectron2))
    monkeypatch.setattr(setup_env, "make_environment", None)  # must not be called
    monkeypatch.setattr(sys, "argv", ["setup_environment.py"])
    assert setup_env.main() == 0
    assert "up to date" in capsys.readouterr().out
