"""``finetune --references``: one density map for each class, turned as each particle lies."""

from pathlib import Path

import numpy as np
import pytest
from test_averages import ANGLES, ANGPIX, BOX, CLEAR, OFFSETS, columns, correlation, true_poses

from cryoclass.cli import main
from cryoclass.images import FileSource
from cryoclass.particles import read_particles
from cryoclass.poses import poses_of
from cryoclass.settings import Simulation
from cryoclass.simulation.maps import read_references
from cryoclass.simulation.phantoms import phantom_densities
from cryoclass.truths import NamedVolumes, PosedVolumes
from cryoclass.volumes.mrc import write_volume

SPECIES = ("aldolase", "apoferritin")
NAMED = ("cryoclassMaskName", "cryoclassDensityName")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Particles with angles and offsets, their truth, and a map of each species, one of them in other pixels and a larger box."""
    folder = tmp_path_factory.mktemp("references")
    size = f"--particles --truth --species 2 --per-species 6 --tomograms 3 --box {BOX} --angpix {ANGPIX:g}"
    assert main(["simulate", "-o", str(folder / "S"), *size.split(), *CLEAR.split()]) == 0
    angles, offsets = true_poses(folder / "S", "particles.star")
    particles = read_particles(folder / "S" / "particles.star")
    posed = particles.with_columns(columns(ANGLES, angles) | columns(OFFSETS, offsets))
    posed.write(folder / "S" / "posed.star")
    nameless = posed.with_columns({name: ["None"] * len(posed) for name in NAMED})
    nameless.write(folder / "S" / "nameless.star")
    for name, angpix, box in (("aldolase", ANGPIX, BOX), ("apoferritin", 5.0, 64)):
        density = phantom_densities(Simulation(species=2, angpix=angpix, box=box))[name]
        write_volume(folder / "Refs" / f"{name}.mrc", density + 3.0, angpix)  # a background that is not 0
    return folder


@pytest.mark.parametrize("truth", ["mask", "density"])
def test_a_reference_lies_on_each_particle_as_its_truth_does(project, truth):
    particles = read_particles(project / "S" / "posed.star")
    boxes = FileSource(particles)
    references = read_references(project / "Refs", boxes.angpix, boxes.box)
    assert [*references] == [*SPECIES]
    classes = particles.labels("cryoclassLabel")
    posed = PosedVolumes(references, classes, poses_of(particles, boxes), truth, boxes)
    named = NamedVolumes(particles, truth, boxes)
    assert posed.known.all()
    for row in range(len(particles)):
        found, true = posed.read(row), named.read(row)
        if truth == "mask":
            # The border is where a density has faded to 3 %, and maps lose what is that faint with their background.
            assert (found * true).sum() / np.maximum(found, true).sum() > 0.75
        else:
            assert correlation(found, true) > 0.99
            assert found.std() == pytest.approx(1, abs=1e-4)


def test_a_class_without_a_reference_is_unknown(project):
    particles = read_particles(project / "S" / "posed.star")
    boxes = FileSource(particles)
    references = read_references(project / "Refs", boxes.angpix, boxes.box)
    classes = [None, "junk", *particles.labels("cryoclassLabel")[2:]]
    posed = PosedVolumes(references, classes, poses_of(particles, boxes), "density", boxes)
    assert posed.known.tolist() == [False, False] + [True] * 10
    assert np.isnan(posed.read(0)).all()
    assert np.isfinite(posed.read(2)).all()


NETWORK = [
    "--backbone",
    "res32",
    "--input-size",
    "16",
    "16",
    "16",
    "--recipe",
    "quick",
    "-n",
    "1",
    "-b",
    "4",
    "--tasks",
    "segment,recover",
]


def test_references_teach_where_rows_name_nothing(project, cryoclass, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    typed = ("finetune", "S/nameless.star", *NETWORK, "-o", tmp_path / "F")
    ran = cryoclass(*typed)
    assert (
        ran.status,
        "give a density map of each class with --references" in " ".join(ran.err.split()),
    ) == (2, True)
    ran = cryoclass(*typed, "--references", "Refs")
    assert ran.status == 0, ran.err
    assert "density: known of 12 of 12 particles" in ran.err


def test_without_angles_nobody_knows_how_to_turn_a_reference(project, cryoclass, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    ran = cryoclass("finetune", "S/particles.star", *NETWORK, "--references", "Refs", "-o", tmp_path / "F")
    assert (ran.status, "it has no angles (rlnAngleRot" in " ".join(ran.err.split())) == (2, True)


def test_references_that_nothing_learns_from_are_said(project, cryoclass, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    network = [
        "--backbone",
        "res32",
        "--input-size",
        "16",
        "16",
        "16",
        "--recipe",
        "quick",
        "-n",
        "1",
        "-b",
        "4",
    ]
    ran = cryoclass("finetune", "S/particles.star", *network, "--references", "Refs", "-o", tmp_path / "F")
    assert ran.status == 0, ran.err
    assert "--references does nothing without segment or recover" in ran.err
