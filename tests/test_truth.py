"""What ``simulate --truth`` says of each particle, against the subtomograms that ``extract`` cuts."""

import contextlib
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import table
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cryoclass.particles import read_particles
from cryoclass.settings import Simulation
from cryoclass.simulation import tomogram
from cryoclass.simulation.phantoms import phantom_densities
from cryoclass.simulation.tomogram import prepare_shapes, turned
from cryoclass.volumes.mask import MASK_SHARE, particle_mask
from cryoclass.volumes.mrc import read_map

MASK, DENSITY = "cryoclassMaskName", "cryoclassDensityName"
ANGPIX = 20.0
# Without defocus and missing wedge, what is seen is the density itself, and hardly any noise; particles lie close together.
CLEAR = "--snr 1000 --defocus 0 0 --spherical-aberration 0 --tilt 90"
WHAT = f"--species 3 --per-species 6 --tomograms 2 --size 32 48 48 --angpix {ANGPIX:g}"
SHAPES = {"relion31": 16, "warp": 18, "relion30": 16}


def simulated(cryoclass, *more: object) -> Path:
    ran = cryoclass("simulate", "-o", "Sim", "--truth", *CLEAR.split(), *WHAT.split(), *more)
    assert ran.status == 0, ran.err
    return Path("Sim")


def extracted(cryoclass, box: int, outdir: Path = Path("Extract")) -> Path:
    tomograms = "Sim/tomograms"
    ran = cryoclass("extract", "Sim/coordinates.star", "--tomograms", tomograms, "--box", box, "-o", outdir)
    assert ran.status == 0, ran.err
    return outdir / "particles.star"


def volumes(star: Path, column: str) -> list[np.ndarray]:
    """Read the volumes that a column names, found as every reader finds them; hold their pixel size."""
    particles = read_particles(star)
    found = [read_map(particles.find(name)) for name in particles.cells(column)]
    assert {volume.angpix for volume in found} == {ANGPIX}
    return [volume.data for volume in found]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def moved(density: np.ndarray) -> list[np.ndarray]:
    """Return a density one voxel off, along every axis both ways."""
    return [np.roll(density, step, axis) for axis in range(3) for step in (-1, 1)]


def lies_best(density: np.ndarray, box: np.ndarray) -> bool:
    return correlation(density, box) > max(correlation(other, box) for other in moved(density)) + 0.01


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("dialect", "box"), SHAPES.items())
def test_a_density_lies_voxel_for_voxel_on_what_extract_cuts(cryoclass, dialect, box):
    simulated(cryoclass, "--dialect", dialect, "--box", box)
    star = extracted(cryoclass, box)
    densities, boxes = volumes(star, DENSITY), volumes(star, "rlnImageName")
    assert len(densities) == 18
    for density, subtomogram in zip(densities, boxes, strict=True):
        assert density.shape == subtomogram.shape == (box, box, box)
        assert lies_best(density, subtomogram)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "middle", [(23.5, 24.5, 15.5), (24.5, 23.5, 16.5), (24.4999999, 23.4999999, 15.4999999)]
)
def test_a_particle_right_between_two_voxels_has_the_box_that_extract_cuts(cryoclass, middle, monkeypatch):
    monkeypatch.setattr(tomogram, "positions_in", lambda *_: np.array([middle]))
    simulated(cryoclass, "--box", 16, "--species", 1, "--per-species", 1, "--tomograms", 1)
    star = extracted(cryoclass, 16)
    (density,), (box,) = volumes(star, DENSITY), volumes(star, "rlnImageName")
    assert correlation(density, box) > 0.99
    assert lies_best(density, box)


@pytest.mark.usefixtures("project")
def test_without_tomograms_a_density_lies_on_its_subtomogram(cryoclass):
    star = simulated(cryoclass, "--particles", "--box", 16) / "particles.star"
    for density, box in zip(volumes(star, DENSITY), volumes(star, "rlnImageName"), strict=True):
        assert correlation(density, box) > 0.99
        assert lies_best(density, box)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("mode", ["", "--particles"])
def test_density_and_mask_are_those_of_the_particle_that_the_truth_tells_of(cryoclass, mode):
    folder = simulated(cryoclass, "--box", 16, *mode.split())
    truth = table(folder / "truth.star")
    picked = table(folder / ("particles.star" if mode else "coordinates.star"))
    shapes = prepare_shapes(phantom_densities(Simulation(species=3, box=16, angpix=ANGPIX)), 16)
    masks, densities = volumes(folder / "truth.star", MASK), volumes(folder / "truth.star", DENSITY)
    for row, mask, density in zip(truth.index, masks, densities, strict=True):
        position, found = (rows.loc[row, [f"rlnCoordinate{a}" for a in "XYZ"]] for rows in (truth, picked))
        angles = truth.loc[row, [f"rlnAngle{a}" for a in ("Rot", "Tilt", "Psi")]].to_numpy(float)
        rotation = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().T
        offset = (position - np.floor(found + 0.5)).to_numpy(float)
        alone = turned(shapes[truth["cryoclassLabel"][row]], rotation, offset)
        assert density == pytest.approx(alone, abs=1e-4)
        assert set(np.unique(mask)) == {0, 1}
        assert density[mask == 1].sum() > 0.95 * density.sum()
        assert ndimage.label(mask)[1] == 1
        assert np.abs(density[mask == 0]).max() < 0.05 * density.max()


@pytest.mark.usefixtures("project")
def test_neighbours_that_a_box_shows_are_in_neither(cryoclass):
    simulated(cryoclass, "--box", 16)
    star = extracted(cryoclass, 16)
    neighbours = 0
    for mask, density, box in zip(*(volumes(star, c) for c in (MASK, DENSITY, "rlnImageName")), strict=True):
        far = ~ndimage.binary_dilation(mask > 0, iterations=2)
        shown = far & (box > 0.5 * box.max())
        neighbours += shown.any()
        assert np.abs(density[far]).max() < MASK_SHARE * density.max()
    assert neighbours >= 5  # else this test would hold nothing


@pytest.mark.parametrize("inside", [True, False])
def test_the_columns_lead_to_the_files_from_wherever_extract_writes(
    cryoclass, inside, project, tmp_path_factory
):
    simulated(cryoclass, "--box", 16)
    outdir = Path("deep/Extract") if inside else tmp_path_factory.mktemp("elsewhere") / "Extract"
    star = extracted(cryoclass, 16, outdir).absolute()
    with contextlib.chdir("/"):  # from where no path leads on by chance
        particles = read_particles(star)
        for column, folder in ((MASK, "Masks"), (DENSITY, "Densities")):
            for row, name in enumerate(particles.cells(column)):
                image = particles.image(row).path
                expected = project / "Sim" / folder / image.parent.name / image.name
                assert particles.find(name) == expected
    if inside:
        assert particles.cells(MASK)[0] == "Sim/Masks/TS_01/TS_01_000001.mrc"


@pytest.mark.parametrize(("mode", "star"), [("", "coordinates.star"), ("--particles", "particles.star")])
def test_both_tables_name_them_as_simulate_names_its_subtomograms(cryoclass, mode, star, project):
    folder = simulated(cryoclass, "--box", 16, *mode.split())
    for name in (star, "truth.star"):
        rows = table(folder / name)
        for column, kind in ((MASK, "Masks"), (DENSITY, "Densities")):
            assert rows[column][0] == f"{kind}/TS_01/TS_01_000001.mrc"
            assert sorted(map(str, (folder / kind).rglob("*.mrc"))) == sorted(
                str(folder / cell) for cell in rows[column]
            )
            assert all((project / folder / cell).is_file() for cell in rows[column])


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("mode", ["", "--particles"])
def test_truth_adds_to_what_is_simulated_and_changes_nothing(cryoclass, mode):
    folder = simulated(cryoclass, "--box", 16, *mode.split())
    with_truth, plain = tree(folder), Path("Plain")
    simulated(cryoclass, "--overwrite", "--box", 16, *mode.split())
    assert tree(folder) == with_truth
    argv = ("simulate", "-o", plain, "--box", 16, *mode.split(), *CLEAR.split(), *WHAT.split())
    assert cryoclass(*argv).status == 0
    assert {path.name for path in folder.iterdir()} - {path.name for path in plain.iterdir()} == {
        "Masks",
        "Densities",
    }
    for name, content in tree(plain).items():
        if name.endswith(".star"):
            assert table(plain / name).equals(table(folder / name).drop(columns=[MASK, DENSITY]))
        else:
            assert content == with_truth[name]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("mode", ["", "--particles"])
def test_the_disk_must_hold_them_too(cryoclass, mode, monkeypatch):
    written = sum(
        path.stat().st_size for path in simulated(cryoclass, "--box", 16, *mode.split()).rglob("*.mrc")
    )
    usage = shutil.disk_usage(".")._replace(free=written - 50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    argv = ("simulate", "-o", "Other", "--box", 16, *WHAT.split(), *mode.split())
    assert "to be written" in cryoclass(*argv, "--truth").err
    assert not Path("Other").exists()
    assert cryoclass(*argv).status == 0


def test_the_mask_of_many_densities_is_that_of_each():
    grid = np.indices((12, 12, 12)) - 6
    ball = np.exp(-0.5 * (grid**2).sum(axis=0) / 2.0**2).astype(np.float32)
    many = np.stack([ball, 7 * np.roll(ball, 1, 0)])[None]
    masks = particle_mask(many)
    assert (masks.shape, masks.dtype) == ((1, 2, 12, 12, 12), np.float32)
    assert (masks[0, 0] == particle_mask(ball)).all()
    assert (masks[0, 1] == np.roll(masks[0, 0], 1, 0)).all()
    assert ball[masks[0, 0] == 1].min() > MASK_SHARE * ball.max() >= ball[masks[0, 0] == 0].max()
    assert not particle_mask(np.zeros((4, 4, 4), np.float32)).any()
