"""Twelve deliberate one-line faults in the model, and the tests that catch them.

    python tests/mutations.py        # two minutes; exit status 1 if a fault is not caught

Each fault is put into a copy of the package in a temporary folder, which then stands before the
installed one on PYTHONPATH, and the quick tests of the model run on it until the first fails.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PACKAGE = "convnext_backbones"
TESTS = (
    "tests/network/test_convnext.py",
    "tests/network/test_classifier.py",
    "tests/kernels/test_kernels.py",
    "tests/peers/test_timm.py",
)


class Mutation(NamedTuple):
    """A line of a file of the package, what it becomes, and what is wrong then."""

    name: str
    file: str
    line: str
    becomes: str


MUTATIONS = (
    Mutation("eps of all norms is 1e-5", "network/convnext.py", "EPS = 1e-6", "EPS = 1e-5"),
    Mutation(
        "GRN's parameters are swapped",
        "network/convnext.py",
        "scale = 1 + self.gamma * relative",
        "scale = 1 + self.beta * relative",
    ),
    Mutation(
        "GRN pools over the width alone",
        "network/convnext.py",
        "sum(dim=(1, 2), keepdim=True)",
        "sum(dim=2, keepdim=True)",
    ),
    Mutation(
        "GRN computes its norms in half precision",
        "network/convnext.py",
        "energy = x.to(wide_dtype(x)).square()",
        "energy = x.square()",
    ),
    Mutation(
        "drop path does not divide by the keep probability",
        "network/convnext.py",
        "return mask / keep if keep > 0.0 else mask",
        "return mask",
    ),
    Mutation(
        "drop path grows over the built stages alone",
        "network/convnext.py",
        "rates = drop_path_rates(drop_path_rate, depths)",
        "rates = drop_path_rates(drop_path_rate, depths[:num_built])",
    ),
    Mutation(
        "the block's norm comes before the depthwise convolution",
        "network/convnext.py",
        "        x = self.dwconv(x)\n        x = x.permute(0, 2, 3, 1)  # NCHW -> NHWC\n"
        "        x = self.norm(x)\n",
        "        x = self.norm(x.permute(0, 2, 3, 1))\n"
        "        x = self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)\n",
    ),
    Mutation(
        "GELU is the tanh approximation",
        "network/activations.py",
        '"gelu": nn.GELU,',
        '"gelu": functools.partial(nn.GELU, approximate="tanh"),',
    ),
    Mutation(
        "frozen stages leave their output norms free",
        "network/convnext.py",
        "frozen += [getattr(self, _norm_name(p), None) for p in range(k + 1)]",
        "frozen += []",
    ),
    Mutation(
        "the classifier norms before it pools",
        "network/classifier.py",
        "pooled = self.norm(maps[-1].mean(dim=(2, 3)))",
        "pooled = self.norm(maps[-1].permute(0, 2, 3, 1)).mean(dim=(1, 2))",
    ),
    Mutation(
        "GRN's gradient forgets the mean of the norms",
        "kernels/grn.py",
        "of_norm = (through - (through * relative).mean(-1, keepdim=True)) / mean",
        "of_norm = through / mean",
    ),
    Mutation(
        "the depthwise convolution's input gradient does not flip the taps",
        "kernels/depthwise.py",
        "flipped = weight.flip(2, 3)",
        "flipped = weight",
    ),
)


def mutated_package(mutation: Mutation, folder: Path) -> None:
    """Copy the package into the folder and change the one line, which must be there once."""
    shutil.copytree(ROOT / PACKAGE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / PACKAGE / mutation.file
    source = path.read_text()
    if source.count(mutation.line) != 1:
        raise ValueError(
            f"{mutation.name!r}: {mutation.file} must hold {mutation.line!r} once, "
            f"found {source.count(mutation.line)} times; bring tests/mutations.py up to date"
        )
    path.write_text(source.replace(mutation.line, mutation.becomes))


def catching_test(mutation: Mutation | None) -> str | None:
    """The first test that fails with this fault (None: without any); None if all pass."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if mutation is None:
            shutil.copytree(ROOT / PACKAGE, folder / PACKAGE)
        else:
            mutated_package(mutation, folder)
        # The folder is the working directory too, which `python -m` puts before PYTHONPATH.
        environment = {**os.environ, "PYTHONPATH": name, "PYTHONDONTWRITEBYTECODE": "1"}
        where = [sys.executable, "-c", "import convnext_backbones as p; print(p.__file__)"]
        place = subprocess.check_output(where, cwd=folder, env=environment, text=True)
        if not Path(place).is_relative_to(folder):
            raise RuntimeError(f"the package imported is not the copy in {folder}, but {place}")
        command = [
            *(sys.executable, "-m", "pytest", *(str(ROOT / test) for test in TESTS)),
            *("-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", "-x", "--tb=line"),
        ]
        result = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True
        )
        failed = re.search(r"^(?:FAILED|ERROR) \S*?(tests/\S+)", result.stdout, re.MULTILINE)
        if result.returncode not in (0, 1) or (result.returncode == 1) != bool(failed):
            raise RuntimeError(result.stdout + result.stderr)
        return failed.group(1) if failed else None


def main() -> int:
    missed = 0
    for mutation in MUTATIONS:
        test = catching_test(mutation)
        missed += test is None
        print(f"{mutation.name}\n    {'NOT CAUGHT' if test is None else test}", flush=True)
    print(f"{len(MUTATIONS) - missed} of {len(MUTATIONS)} faults caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
