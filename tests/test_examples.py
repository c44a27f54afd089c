"""The examples do what their README says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cryoclass.particles import Particles, read_particles
from cryoclass.volumes.mrc import read_map

EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = [
    pytest.mark.skipif(
        shutil.which("relion_refine") is None, reason="RELION is not installed (apt-get install relion)"
    ),
    pytest.mark.skipif(
        not Path(sys.executable).with_name("cryoclass").exists(),
        reason="the program cryoclass is not installed",
    ),
]


@pytest.fixture
def example(tmp_path):
    """Run an example in a folder of its own and return that folder."""

    def run(name: str) -> Path:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        folder = tmp_path / "My project"
        ran = subprocess.run(
            [EXAMPLES / name / "run.sh", folder],
            env={**os.environ, "PATH": path},
            text=True,
            capture_output=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return folder

    return run


def test_relion(example):
    folder = example("relion")
    chosen = read_particles(folder / "class1.star")
    ours = read_particles(folder / "External" / "job001" / "class001_aldolase.star")
    refined = read_particles(folder / "Class3D" / "run_it003_data.star")
    assert chosen.images == ours.images
    assert found(ours, folder / "Import" / "truth.star") > 0.8
    assert sorted(refined.images) == sorted(ours.images)
    assert set(refined.cells("cryoclassClassName")) == {"aldolase"}
    assert (folder / "External" / "job001" / "RELION_JOB_EXIT_SUCCESS").exists()
    assert read_map(folder / "Class3D" / "run_it003_class001.mrc").data.std() > 0


def test_warp(example):
    folder = example("warp")
    ours = read_particles(folder / "Predict" / "class001_aldolase.star")
    extracted = read_particles(folder / "Extract" / "particles.star")
    refined = read_particles(folder / "Class3D" / "run_it003_data.star")
    assert "Warp" in ours.dialect
    assert len(extracted) == len(ours)
    assert found(ours, folder / "Warp" / "truth.star") > 0.8
    assert sorted(refined.images) == sorted(extracted.images)
    assert read_map(folder / "Class3D" / "run_it003_class001.mrc").data.std() > 0


def found(chosen: Particles, truth: Path) -> float:
    """Return how much the chosen particles and the true aldolases have in common: intersection over union."""
    labelled = read_particles(truth)
    species = labelled.cells("cryoclassLabel")
    true = {key for key, name in zip(places(labelled), species, strict=True) if name == "aldolase"}
    return len(true & set(places(chosen))) / len(true | set(places(chosen)))


def places(particles: Particles) -> list[tuple[object, ...]]:
    """Return what tells a particle from all others: its tomogram and where it lies there."""
    names = [Path(name).name for name in particles.tomograms]  # paths are written anew
    return [(name, *xyz) for name, xyz in zip(names, particles.coordinates.tolist(), strict=True)]
