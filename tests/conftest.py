"""One small simulated project, made once by the commands themselves, and a way to type commands."""

import os

# The networks and boxes of the tests are so small that more threads only cost time; set before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import contextlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cryoclass.cli import main

SIMULATE = "--species 3 --per-species 12 --tomograms 3 --size 32 96 96 --box 16 --angpix 20 --snr 2"
NETWORK = "--backbone r3d10 --input-size 8 16 16 --recipe quick --device cpu"
EPOCHS = 5


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project folder: ``Simulated``, ``Extract``, ``Finetune`` and ``model.onnx``."""

    root: Path

    @property
    def coordinates(self) -> Path:
        return self.root / "Simulated" / "coordinates.star"

    @property
    def tomograms(self) -> Path:
        return self.root / "Simulated" / "tomograms"

    @property
    def particles(self) -> Path:
        return self.root / "Extract" / "particles.star"

    @property
    def model(self) -> Path:
        return self.root / "Finetune"

    @property
    def onnx(self) -> Path:
        return self.root / "model.onnx"


@pytest.fixture
def cryoclass(capsys):
    """Run a command line in this process."""

    def run(*argv: object) -> Ran:
        capsys.readouterr()
        status = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return Ran(status=status, out=out, err=err)

    return run


@pytest.fixture(scope="session")
def extracted(tmp_path_factory) -> Project:
    """A project that has been simulated and extracted."""
    project = Project(root=tmp_path_factory.mktemp("project"))
    _type(project.root, f"simulate -o Simulated {SIMULATE}")
    _type(project.root, "extract Simulated/coordinates.star --tomograms Simulated/tomograms --box 16 -o Extract")
    return project


@pytest.fixture(scope="session")
def trained(extracted) -> Project:
    """The project with a model folder, from 36 labelled particles of three species."""
    _type(extracted.root, f"finetune Extract/particles.star {NETWORK} --epochs {EPOCHS} -o Finetune")
    return extracted


@pytest.fixture(scope="session")
def exported(trained) -> Project:
    """The project with its model as an ONNX file."""
    _type(trained.root, "export Finetune -o model.onnx")
    return trained


def _type(folder: Path, line: str) -> None:
    with contextlib.chdir(folder):
        assert main(line.split()) == 0, line


@pytest.fixture
def console_script(tmp_path):
    """Run the program as users do, in a process of its own; ``start`` leaves it running."""

    def start(*argv: object, **options) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "cryoclass", *map(str, argv)],
            **{"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
        )

    return start
