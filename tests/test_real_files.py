"""Opt-in: real files of many programs, in the folder that CRYOCLASS_REAL_FILES names, are read or refused in words."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest

from cryoclass.errors import CryoclassError, VolumeError
from cryoclass.particles import read_particles
from cryoclass.star.document import StarFile
from cryoclass.tomograms import read_tomograms
from cryoclass.volumes.mrc import open_volume

FOLDER = os.environ.get("CRYOCLASS_REAL_FILES")
VOLUMES = (".mrc", ".mrcs", ".map", ".rec", ".st", ".gz", ".bz2")

pytestmark = pytest.mark.skipif(not FOLDER, reason="CRYOCLASS_REAL_FILES names no folder of real files")


def found(*suffixes: str) -> list[Path]:
    return sorted(path for path in Path(FOLDER or "nowhere").rglob("*") if path.suffix in suffixes)


def name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", found(".star", ".tomostar"), ids=name)
def test_a_star_file_comes_back_byte_by_byte(path, tmp_path):
    star = StarFile.read(path)
    star.write(tmp_path / "x.star")
    assert (tmp_path / "x.star").read_bytes() == path.read_bytes()
    for block in star.blocks:
        assert all(len(column) == len(block) for column in star.columns(block, block.labels))


@pytest.mark.parametrize("path", found(".star", ".tomostar", ".tbl", ".em"), ids=name)
def test_particles_are_read_or_refused(path, tmp_path):
    try:
        particles = read_particles(path)
    except CryoclassError:
        return
    assert len(particles.tomograms) == len(particles)
    if particles.frame is not None:
        assert particles.coordinates.shape == (len(particles), 3)
    assert particles.angpix is None or (particles.angpix > 0).all()
    assert particles.origins is None or np.isfinite(particles.origins).all()
    marked = particles.with_columns({"cryoclassTest": [f"a {n}" for n in range(len(particles))]})
    marked.write(tmp_path / "x.star")
    rows = marked.file.rows
    again = StarFile.read(tmp_path / "x.star")
    block = again.blocks[rows.text.blocks.index(rows.block)]
    before = {label: particles.cells(label) for label in particles.file.rows.labels}
    after = dict(zip(block.labels, again.columns(block, block.labels), strict=True))
    assert after == {**before, "cryoclassTest": [f"a {n}" for n in range(len(particles))]}


@pytest.mark.parametrize("path", found(".star"), ids=name)
def test_tomograms_are_read_or_refused(path):
    with contextlib.suppress(CryoclassError):
        assert read_tomograms(path)


@pytest.mark.parametrize("path", found(*VOLUMES), ids=name)
def test_volumes_are_read_or_refused(path):
    try:
        volume = open_volume(path)
    except VolumeError:
        return
    assert volume.data.ndim in (3, 4)
    assert volume.data.size
    assert volume.angpix is None or volume.angpix > 0
