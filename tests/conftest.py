"""One small simulated project, made once by the commands themselves, and two ways to type commands."""

import os

# The networks and boxes of the tests are so small that more threads only cost time; set before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import contextlib
import functools
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import EPOCHS, NETWORK, SIMULATE, Project, Ran

from cryoclass.cli import main


def unwatched(function):
    """Let coverage look away while a function of another package runs: it would take twice the time."""

    @functools.wraps(function)
    def run(*args, **options):
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*args, **options)
        finally:
            sys.settrace(tracer)

    return run


@pytest.fixture(scope="session", autouse=True)
def _coverage_looks_at_us_only():
    """Exports and drawings are nearly all torch's and matplotlib's own Python, and a good part of all that the tests run."""
    if sys.gettrace() is None:
        yield
        return
    import torch
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", unwatched(torch.onnx.export))
        patch.setattr(Figure, "savefig", unwatched(Figure.savefig))
        yield


@pytest.fixture
def cryoclass(capsys):
    """Run a command line in this process."""

    def run(*argv: object) -> Ran:
        capsys.readouterr()
        status = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return Ran(status=status, out=out, err=err)

    return run


@pytest.fixture
def console_script(tmp_path):
    """Start the program as users do, in a process of its own and in the test's folder."""

    def start(*argv: object, **options) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "cryoclass", *map(str, argv)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, **{"cwd": tmp_path, **pipes, **options})

    return start


@pytest.fixture(scope="session")
def extracted(tmp_path_factory) -> Project:
    """A project that has been simulated and extracted."""
    project = Project(root=tmp_path_factory.mktemp("project"))
    _type(project.root, "simulate", "-o", "Simulated", *SIMULATE.split())
    cut = "extract Simulated/coordinates.star --tomograms Simulated/tomograms --box 16 -o Extract"
    _type(project.root, *cut.split())
    return project


@pytest.fixture(scope="session")
def trained(extracted) -> Project:
    """The project with a model folder, from 36 labelled particles of three species."""
    argv = ("finetune", "Extract/particles.star", *NETWORK, "--epochs", str(EPOCHS), "-o", "Finetune")
    _type(extracted.root, *argv)
    return extracted


@pytest.fixture(scope="session")
def exported(trained) -> Project:
    """The project with its model as an ONNX file."""
    _type(trained.root, "export", "Finetune", "-o", "model.onnx")
    return trained


def _type(folder: Path, *argv: str) -> None:
    with contextlib.chdir(folder):
        assert main(argv) == 0, argv


@pytest.fixture
def here(tmp_path, monkeypatch, extracted) -> Path:
    """An empty folder to work in, from which the project's images are found."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Extract").symlink_to(extracted.root / "Extract")
    return tmp_path
