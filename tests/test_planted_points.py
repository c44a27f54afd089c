"""A bright point is planted in a tomogram, described in each dialect, and must lie at the centre of the box.

The coordinates are worked out here by hand from what each program does, not with cryoclass's own formulas.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoclass.cli import main
from cryoclass.particles import read_particles
from cryoclass.volumes.mrc import read_map, write_volume

SHAPE = (25, 41, 36)  # z, y, x; odd sizes on purpose
POINT = (21, 13, 10)  # x, y, z
VOXEL = 10.0
UNBINNED = 2.5
BOX = 8
NAME = "TS_01"


@dataclass(frozen=True)
class Case:
    """A particle file, and what else has to be there."""

    text: str
    tomograms: str = ""
    volume: str = "TS_01.mrc"
    options: tuple[str, ...] = ()
    suffix: str = ".star"


def loop(block: str, **columns: object) -> str:
    labels = "".join(f"_{name} #{number}\n" for number, name in enumerate(columns, 1))
    return f"\ndata_{block}\n\nloop_\n{labels}" + " ".join(str(value) for value in columns.values()) + "\n\n"


def xyz(prefix: str, values: np.ndarray, suffix: str = "") -> dict[str, object]:
    return {f"{prefix}{axis}{suffix}": f"{value:.6f}" for axis, value in zip("XYZ", values, strict=True)}


point = np.array(POINT, dtype=float)
size = np.array(SHAPE[::-1], dtype=float)
shift = np.array([13.0, -7.0, 5.0])  # angstroms


def relion30() -> Case:
    origin = {f"rlnOrigin{a}": f"{v / VOXEL:.6f}" for a, v in zip("XYZ", shift, strict=True)}
    columns = xyz("rlnCoordinate", point + shift / VOXEL) | origin
    return Case(loop("", rlnMicrographName="TS_01.mrc", rlnPixelSize=VOXEL, **columns))


def relion30_nothing_but_coordinates() -> Case:
    return Case(loop("", **xyz("rlnCoordinate", point)))


def relion31() -> Case:
    optics = loop("optics", rlnOpticsGroup=1, rlnOpticsGroupName="a", rlnImagePixelSize=5.0)
    columns = xyz("rlnCoordinate", point + shift / VOXEL) | xyz("rlnOrigin", shift, "Angst")
    particles = loop("particles", rlnMicrographName="some/where/TS_01.mrc", rlnOpticsGroup=1, **columns)
    return Case("# version 30001\n" + optics + particles)


def relion4_rotated_subtomogram() -> Case:
    angles = (20.0, 55.0, -80.0)
    matrix = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().T
    optics = loop(
        "optics",
        rlnOpticsGroup=1,
        rlnTomoTiltSeriesPixelSize=UNBINNED,
        rlnTomoSubtomogramBinning=2,
        rlnImagePixelSize=5.0,
    )
    orientation = dict(
        zip(("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi"), angles, strict=True)
    )
    coordinate = point * VOXEL / UNBINNED + matrix @ shift / UNBINNED
    columns = xyz("rlnCoordinate", coordinate) | xyz("rlnOrigin", shift, "Angst") | orientation
    particles = loop("particles", rlnTomoName=NAME, rlnOpticsGroup=1, **columns)
    return Case(optics + particles, tomograms=tomogram_list(binning=None))


def tomogram_list(binning: float | None = VOXEL / UNBINNED, volume: str = "TS_01.mrc", **more: object) -> str:
    sizes = dict(zip(("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ"), size * VOXEL / UNBINNED, strict=True))
    columns = {"rlnTomoName": NAME, "rlnTomoTiltSeriesPixelSize": UNBINNED, **sizes, **more}
    if binning is not None:
        columns["rlnTomoTomogramBinning"] = f"{binning:.6f}"
    if volume:
        columns["rlnTomoReconstructedTomogram"] = volume
    return loop("global", **columns)


def centred(offset: float = 0.0) -> np.ndarray:
    return (point - size / 2) * VOXEL + offset


def relion5() -> Case:
    optics = loop("optics", rlnOpticsGroup=1, rlnTomoTiltSeriesPixelSize=UNBINNED, rlnImagePixelSize=5.0)
    columns = xyz("rlnCenteredCoordinate", centred() + shift, "Angst") | xyz("rlnOrigin", shift, "Angst")
    particles = loop(
        "particles", rlnTomoName=NAME, rlnTomoParticleName="TS_01/1", rlnOpticsGroup=1, **columns
    )
    return Case("# version 50001\n" + optics + particles, tomograms=tomogram_list())


def relion5_size_that_binning_rounded() -> Case:
    """The unbinned size is 4 x 36 + 2: half of it is not half of the binned volume."""
    unbinned = size * 4 + np.array([2.0, 1.0, 3.0])
    columns = xyz("rlnCenteredCoordinate", point * VOXEL - unbinned * UNBINNED / 2, "Angst")
    sizes = dict(zip(("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ"), unbinned, strict=True))
    tomograms = tomogram_list(**sizes)
    return Case(
        loop("particles", rlnTomoName=NAME, rlnTomoParticleName="TS_01/1", **columns), tomograms=tomograms
    )


def relion5_unknown_size() -> Case:
    columns = xyz("rlnCenteredCoordinate", centred(), "Angst")
    sizes = dict.fromkeys(("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ"), -999)
    tomograms = tomogram_list(**sizes)
    return Case(
        loop("particles", rlnTomoName=NAME, rlnTomoParticleName="TS_01/1", **columns), tomograms=tomograms
    )


def relion5_denoised_volume() -> Case:
    columns = xyz("rlnCenteredCoordinate", centred(), "Angst")
    halves = {"rlnTomoReconstructedTomogramHalf1": "no1.mrc", "rlnTomoReconstructedTomogramHalf2": "no2.mrc"}
    tomograms = tomogram_list(volume="", **halves, rlnTomoReconstructedTomogramDenoised="TS_01.mrc")
    return Case(
        loop("particles", rlnTomoName=NAME, rlnTomoParticleName="TS_01/1", **columns), tomograms=tomograms
    )


def relion5_picks_drift() -> Case:
    """RELION 5's picker centres with S/2 - 1 unbinned pixels; here that is 0.25 voxels, and 2 voxels when unbinned."""
    columns = xyz("rlnCenteredCoordinate", point * VOXEL - (size * VOXEL / 2 - VOXEL), "Angst")
    tomograms = tomogram_list(binning=1.0, rlnTomoTiltSeriesPixelSize=VOXEL, **_sizes(size))
    return Case(loop("particles", rlnTomoName=NAME, **columns), tomograms=tomograms)


def _sizes(unbinned: np.ndarray) -> dict[str, object]:
    return dict(zip(("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ"), unbinned, strict=True))


def relion5_picks_annotations() -> Case:
    return Case(
        loop("particles", rlnTomoName=NAME, **xyz("rlnCoordinate", point)),
        tomograms=tomogram_list(),
        options=("--coords-angpix", str(VOXEL)),
    )


def warp_3d() -> Case:
    columns = xyz("rlnCoordinate", point * VOXEL / 5.36)
    pixel = {"rlnMagnification": 10000.0, "rlnDetectorPixelSize": 5.36, "rlnPixelSize": 5.36}
    text = loop(
        "", rlnMicrographName="TS_01.tomostar", rlnImageName="s/TS_01_0000000_5.36A.mrc", **columns, **pixel
    )
    return Case(text, volume="TS_01_10.00Apx.mrc")


def warp_refined_by_relion() -> Case:
    optics = loop("optics", rlnOpticsGroup=1, rlnImagePixelSize=5.0)
    columns = xyz("rlnCoordinate", (point * VOXEL + shift) / 5.0) | xyz("rlnOrigin", shift, "Angst")
    text = loop(
        "particles",
        rlnMicrographName="/abs/TS_01.mrc.tomostar",
        rlnOpticsGroup=1,
        rlnPixelSize=5.0,
        **columns,
    )
    return Case(optics + text, volume="TS_01_10.00Apx.mrc")


def warptools_2d_with_raw_optics() -> Case:
    general = "\ndata_general\n\n_rlnTomoSubTomosAre2DStacks 1\n"
    optics = loop(
        "optics",
        rlnOpticsGroup=1,
        rlnTomoTiltSeriesPixelSize=UNBINNED,
        rlnImageDimensionality=2,
        rlnTomoSubtomogramBinning=4.8,
        rlnImagePixelSize=12.0,
    )
    columns = xyz("rlnCoordinate", point * VOXEL / 12.0) | xyz("rlnOrigin", 0 * shift, "Angst")
    text = loop(
        "particles",
        rlnTomoName="TS_01.tomostar",
        rlnOpticsGroup=1,
        rlnImageName="p/TS_01_12.00A_000001.mrcs",
        **columns,
    )
    return Case(general + optics + text, volume="TS_01_10.00Apx.mrc")


def warp_template_matching() -> Case:
    columns = xyz("rlnCoordinate", point / (size - 1))
    return Case(
        loop("", rlnMicrographName="TS_01.tomostar", rlnAutopickFigureOfMerit=9.0, **columns),
        volume="TS_01_10.00Apx.mrc",
    )


def m_particle_export() -> Case:
    text = loop("", rlnMicrographName="TS_01.tomostar", **xyz("rlnCoordinate", point * VOXEL))
    return Case(text, volume="TS_01_10.00Apx.mrc")


def m_species() -> Case:
    columns = xyz("wrpCoordinate", point * VOXEL, "1") | xyz("wrpCoordinate", point * VOXEL + 3, "2")
    return Case(loop("particles", **columns, wrpSourceName="TS_01.tomostar"), volume="TS_01_10.00Apx.mrc")


def dynamo() -> Case:
    row = ["0"] * 35
    row[0], row[19] = "7", "1"
    row[3:6] = [f"{value / VOXEL}" for value in shift]
    row[23:26] = [f"{value}" for value in point - shift / VOXEL]
    return Case(" ".join(row) + "\n", volume="TS_001.mrc", suffix=".tbl")


def em_motive_list() -> Case:
    header = np.zeros(128, "<i4")
    header[0] = int.from_bytes(bytes([6, 0, 0, 5]), "little")  # a PC, float32
    header[1:4] = 20, 1, 1
    row = np.zeros(20, "<f4")
    row[3], row[4], row[19] = 7, 1, 2
    row[7:10], row[10:13] = point - shift / VOXEL, shift / VOXEL
    text = (header.tobytes() + row.tobytes()).decode("latin-1")
    return Case(text, volume="TS_001.mrc", suffix=".em")


CASES: list[Callable[[], Case]] = [
    relion30,
    relion30_nothing_but_coordinates,
    relion31,
    relion4_rotated_subtomogram,
    relion5,
    relion5_size_that_binning_rounded,
    relion5_unknown_size,
    relion5_denoised_volume,
    relion5_picks_drift,
    relion5_picks_annotations,
    warp_3d,
    warp_refined_by_relion,
    warptools_2d_with_raw_optics,
    warp_template_matching,
    m_particle_export,
    m_species,
    dynamo,
    em_motive_list,
]


def plant(folder: Path, case: Case) -> Path:
    volume = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    bright = case.volume.endswith("Apx.mrc")  # only Warp inverts before it reconstructs
    volume[POINT[::-1]] = 1000.0 if bright else -1000.0
    write_volume(folder / case.volume, volume, VOXEL)
    star = folder / f"coordinates{case.suffix}"
    star.write_bytes(case.text.encode("latin-1"))
    if case.tomograms:
        (folder / "tomograms.star").write_text(case.tomograms)
    return star


def extract(folder: Path, star: Path, out: str, *options: str) -> np.ndarray:
    tomograms = folder / "tomograms.star"
    where = (
        tomograms
        if tomograms.exists()
        else folder
        if not (folder / "TS_01.mrc").exists()
        else folder / "TS_01.mrc"
    )
    status = main(["extract", str(star), "--tomograms", str(where), "--box", str(BOX), "-o", out, *options])
    assert status == 0
    return read_map(next((folder / out / "Subtomograms").rglob("*.mrc"))).data


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_the_point_lies_at_the_centre_of_the_box(
    make: Callable[[], Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    case = make()
    star = plant(tmp_path, case)
    box = extract(tmp_path, star, "Extract", *case.options)
    assert np.unravel_index(box.argmax(), box.shape) == (BOX // 2,) * 3
    # What was written must lead to the same place again, and hold less than half a voxel of remainder.
    again = extract(tmp_path, tmp_path / "Extract" / "particles.star", "Again")
    assert np.array_equal(again, box)
    written = read_particles(tmp_path / "Extract" / "particles.star")
    offsets = [label for label in written.file.rows.labels if label.startswith("cryoclassOffset")]
    labels = offsets or list(written.file.dialect.origins)
    assert labels
    assert np.abs(written.numbers(labels)).max() <= VOXEL / 2


def test_a_remainder_survives_in_rotated_subtomograms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELION 4 keeps origins in the axes of the rotated box; what rounding leaves over must be turned back into them."""
    monkeypatch.chdir(tmp_path)
    away = np.array([0.3, -0.4, 0.2])  # voxels
    case = relion4_rotated_subtomogram()
    star = plant(tmp_path, case)
    table = read_particles(star)
    moved = table.coordinates[0] + away * VOXEL / UNBINNED
    columns = {f"rlnCoordinate{axis}": [f"{value:.6f}"] for axis, value in zip("XYZ", moved, strict=True)}
    table.with_columns(columns).write(star)
    extract(tmp_path, star, "Extract")
    written = read_particles(tmp_path / "Extract" / "particles.star")
    assert written.origins is not None
    voxels = (written.coordinates * UNBINNED - written.origins) / VOXEL
    np.testing.assert_allclose(voxels[0], point + away, atol=1e-4)


def test_no_shifts_leaves_the_origins_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    star = plant(tmp_path, relion31())
    box = extract(tmp_path, star, "Extract", "--no-shifts")
    moved = np.array([BOX // 2] * 3) - np.floor(shift / VOXEL + 0.5)[::-1]
    assert tuple(np.unravel_index(box.argmax(), box.shape)) == tuple(moved)


def test_half_volumes_are_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    halves = rng.normal(size=(2, *SHAPE)).astype(np.float32)
    for number, half in enumerate(halves, 1):
        write_volume(tmp_path / f"rec_TS_01_half{number}.mrc", half, VOXEL)
    star = tmp_path / "coordinates.star"
    star.write_text(loop("", rlnMicrographName="TS_01.mrc", **xyz("rlnCoordinate", point)))
    box = extract(tmp_path, star, "Extract", "--no-norm", "--invert", "no")
    z, y, x = POINT[::-1]
    half = BOX // 2
    expected = halves.sum(axis=0)[z - half : z + half, y - half : y + half, x - half : x + half]
    assert np.array_equal(box, expected)
