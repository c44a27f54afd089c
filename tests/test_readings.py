"""What coordinates count: stated by the file, told by the volumes, or said to be undecided; and read back as written."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mrc_files import mrc
from star_files import loop, optics, tomograms_star

from cryoclass.checks.frame import check_frame
from cryoclass.cutting import TomogramSource
from cryoclass.extraction import cut_all, write_extracted
from cryoclass.file_names import folder_names
from cryoclass.particles import read_particles
from cryoclass.settings import Extraction
from cryoclass.star.frames import Frame
from cryoclass.tomograms import find_tomograms
from cryoclass.volumes.mrc import open_volume

SHAPE = (24, 45, 50)  # z, y, x
VOXEL, UNBINNED = 10.0, 2.5
POINTS = np.array([(20, 25, 10), (40, 15, 12), (30, 35, 15)], dtype=float)  # x, y, z; they fill the tomogram
SIZE = np.array(SHAPE[::-1], dtype=float)
CORNER = np.array([(2, 3, 4), (4, 2, 5), (3, 4, 2)], dtype=float)

Columns = dict[str, list[str]]


def xyz(values: np.ndarray, prefix: str = "rlnCoordinate", suffix: str = "") -> Columns:
    return {f"{prefix}{a}{suffix}": [f"{v:.6f}" for v in values[:, i]] for i, a in enumerate("XYZ")}


def every(points: np.ndarray, **cells: object) -> Columns:
    return {label: [str(cell)] * len(points) for label, cell in cells.items()}


def plain(points: np.ndarray, name: str) -> str:
    return loop({**xyz(points), **every(points, rlnMicrographName=name)}, "")


def micrographs_of_another_size(points: np.ndarray, name: str) -> str:
    """RELION 3.0's table before extraction, of a tomogram that was binned anew since."""
    pixels = every(points, rlnMicrographName=name, rlnMagnification=10000, rlnDetectorPixelSize=5)
    return loop({**xyz(2 * points), **pixels}, "")


def pytom(points: np.ndarray, name: str) -> str:
    more = every(points, rlnMicrographName=name, rlnLCCmax=0.4, rlnDetectorPixelSize=4)
    return loop({**xyz(points * VOXEL / 4), **more}, "")


def refined(points: np.ndarray, name: str) -> str:
    shift = np.array([[13.0, -7.0, 5.0]])
    columns = {
        **xyz(points + shift / VOXEL),
        **xyz(np.repeat(shift, len(points), 0), "rlnOrigin", "Angst"),
        **every(points, rlnMicrographName=name, rlnOpticsGroup=1, rlnImageName="gone.mrc"),
    }
    return optics(rlnImagePixelSize=["5.0"]) + loop(columns)


def unbinned(points: np.ndarray, name: str) -> str:
    columns = {**xyz(points * VOXEL / UNBINNED), **every(points, rlnTomoName=name, rlnOpticsGroup=1)}
    return optics(rlnTomoTiltSeriesPixelSize=["2.5"]) + loop(columns)


def two_unbinned_sizes(points: np.ndarray, name: str) -> str:
    sizes = np.where(np.arange(len(points)) % 2, 5.0, UNBINNED)
    groups = {"rlnOpticsGroup": [str(1 + row % 2) for row in range(len(points))]}
    columns = {**xyz(points * VOXEL / sizes[:, None]), **every(points, rlnTomoName=name), **groups}
    both = {
        "rlnOpticsGroup": ["1", "2"],
        "rlnTomoTiltSeriesPixelSize": ["2.5", "5.0"],
        "rlnOpticsGroupName": ["a", "b"],
    }
    return loop(both, "optics") + loop(columns)


def annotation(points: np.ndarray, name: str) -> str:
    return loop({**every(points, rlnTomoName=name), **xyz(points)})


def unbinned_without_optics(points: np.ndarray, name: str) -> str:
    return loop({**every(points, rlnTomoName=name), **xyz(points * VOXEL / UNBINNED)})


def centred(points: np.ndarray, name: str) -> str:
    columns = {
        **xyz((points - SIZE / 2) * VOXEL, "rlnCenteredCoordinate", "Angst"),
        **every(points, rlnTomoName=name),
    }
    return loop({**columns, **every(points, rlnTomoParticleName="a/1")})


def fractions(points: np.ndarray, name: str) -> str:
    more = every(points, rlnMicrographName=name, rlnAutopickFigureOfMerit=5)
    return loop({**xyz(points / (SIZE - 1)), **more}, "")


def angstroms(points: np.ndarray, name: str) -> str:
    return loop({**xyz(points * VOXEL), **every(points, rlnMicrographName=name)}, "")


def picked_on_another_binning(points: np.ndarray, name: str) -> str:
    """Dynamo's picks as dynamo2warp writes them: pixels of the tomogram whose full name stands in the table."""
    name = name.replace("10.00Apx", "7.90Apx")
    return loop({**xyz(points * VOXEL / 7.9), **every(points, rlnMicrographName=name)}, "")


def species_of_m(points: np.ndarray, name: str) -> str:
    return loop({**xyz(points * VOXEL, "wrpCoordinate", "1"), **every(points, wrpSourceName=name)}, "")


def exported_by_warp(points: np.ndarray, name: str) -> str:
    more = every(points, rlnMicrographName=name, rlnImageName="s/a_4.00A.mrc", rlnPixelSize=4)
    return loop({**xyz(points * VOXEL / 4), **more}, "")


ANY_NAME = ("TS_01", "TS_01.tomostar", "F:\\w\\TS_01_10.00Apx.mrc", "t/TS_01.mrc")
WARPS = ("TS_01.tomostar", "/w/TS_01_10.00Apx.mrc")
WRITERS: list[tuple[Callable[[np.ndarray, str], str], tuple[str, ...]]] = [
    (plain, ANY_NAME),
    (micrographs_of_another_size, ANY_NAME),
    (pytom, ANY_NAME),
    (refined, ("TS_01", "t/TS_01.mrc")),
    (unbinned, ANY_NAME),
    (two_unbinned_sizes, ANY_NAME),
    (annotation, ("TS_01",)),
    (unbinned_without_optics, ("TS_01",)),
    (centred, ANY_NAME),
    (fractions, ANY_NAME),
    (angstroms, WARPS),
    (picked_on_another_binning, ("/w/TS_01_10.00Apx.mrc", "TS_01_10.00Apx")),
    (species_of_m, WARPS),
    (exported_by_warp, WARPS),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with one tomogram under each of its usual names, and a list of tomograms for one."""
    folder = tmp_path_factory.mktemp("place")
    voxels = np.random.default_rng(0).normal(size=SHAPE).astype("f4")
    cell = tuple(side * VOXEL for side in SHAPE[::-1])
    for sub, file in (("t", "TS_01.mrc"), ("w", "TS_01_10.00Apx.mrc")):
        (folder / sub).mkdir()
        (folder / sub / file).write_bytes(mrc(voxels, cella=cell))
    return folder


def listed(folder: Path, name: str) -> Path:
    """Write a list of tomograms that calls the tomogram by that name."""
    path = folder / "tomograms.star"
    sizes = {f"rlnTomoSize{a}": [str(side * VOXEL / UNBINNED)] for a, side in zip("XYZ", SIZE, strict=True)}
    volume = {"rlnTomoReconstructedTomogram": [str(folder / "t" / "TS_01.mrc")]}
    known = {"rlnTomoTiltSeriesPixelSize": ["2.5"], "rlnTomoTomogramBinning": ["4"]}
    path.write_text(tomograms_star(rlnTomoName=[f'"{name}"'], **sizes, **volume, **known))
    return path


def source_of(star: Path, where: Path, **settings: object) -> TomogramSource:
    table = read_particles(star)
    found = find_tomograms(table.tomograms, where, star)
    return TomogramSource(table, found, Extraction(**{"box": 8, **settings}))


def extract(source: TomogramSource, folder: Path) -> Path:
    extracted = cut_all(source, folder)
    write_extracted(source, extracted, folder / "particles.star")
    return folder / "particles.star"


def places_of(source: TomogramSource) -> np.ndarray:
    places = np.zeros((len(source), 3))
    for placement in source.placements:
        places[placement.rows] = placement.positions
    return places


@pytest.mark.parametrize("angpix", [None, 20.0, 7.3], ids=str)
@pytest.mark.parametrize("by", ["folder", "list"])
@pytest.mark.parametrize(("write", "name"), [(w, name) for w, names in WRITERS for name in names])
def test_what_extract_writes_is_read_as_the_same_places(write, name, by, angpix, place, tmp_path):
    """Whatever the dialect, the tomogram's name, the pixel size of the boxes and where the volumes are said."""
    if by == "folder" and write in (unbinned_without_optics,):
        pytest.skip("the unbinned size stands in the list alone")
    points = POINTS + np.array([0.3, -0.2, 0.1])
    (tmp_path / "p.star").write_text(write(points, name))
    where = listed(place, name) if by == "list" else place / ("w" if "Apx" in name else "t")
    source = source_of(tmp_path / "p.star", where, angpix=angpix)
    # Fractions are of the size less one pixel, an unbinned one where a list says what that is.
    np.testing.assert_allclose(places_of(source), points, atol=1e-3 if write is not fractions else 1)
    written = extract(source, tmp_path / "Extract")
    again = source_of(written, where, angpix=angpix)
    assert again.reading.how != "undecided"
    np.testing.assert_allclose(places_of(again), places_of(source), atol=1e-3)
    centre = open_volume(
        tmp_path / "Extract" / read_particles(written).image(0).path.relative_to(tmp_path / "Extract")
    )
    assert centre.angpix == pytest.approx(angpix or VOXEL)


# --------------------------------------------------------------------------------------------- who decides


def reading(
    write: Callable[[np.ndarray, str], str], name: str, points: np.ndarray, place: Path, tmp_path: Path
):
    (tmp_path / "p.star").write_text(write(points, name))
    source = source_of(tmp_path / "p.star", listed(place, name))
    return source, list(check_frame(source))


@pytest.mark.parametrize(
    ("write", "name", "frame", "level"),
    [
        (annotation, "TS_01", Frame.TOMOGRAM_PIXELS, "warning"),  # RELION 4 counts unbinned pixels
        (unbinned_without_optics, "TS_01", Frame.TILT_SERIES_PIXELS, "ok"),
        (angstroms, "TS_01.tomostar", Frame.ANGSTROMS, "ok"),
        (plain, "TS_01.tomostar", Frame.TOMOGRAM_PIXELS, "warning"),  # no M export: names were edited
        (picked_on_another_binning, "/w/TS_01_10.00Apx.mrc", Frame.NAMED_PIXELS, "ok"),
        (angstroms, "/w/TS_01_10.00Apx.mrc", Frame.ANGSTROMS, "warning"),
        (micrographs_of_another_size, "TS_01", Frame.IMAGE_PIXELS, "ok"),
    ],
)
def test_the_volumes_tell_which_of_two_readings_is_right(write, name, frame, level, place, tmp_path):
    source, findings = reading(write, name, POINTS, place, tmp_path)
    assert (source.reading.how, source.reading.frame) == ("told", frame)
    assert [finding.level for finding in findings] == [level]
    assert f"taken as {frame.value}" in findings[0].words


def test_what_was_stated_is_not_asked_of_the_volumes(place, tmp_path):
    for write, name in (
        (pytom, "TS_01.tomostar"),
        (unbinned, "TS_01_10.00Apx"),
        (centred, "TS_01"),
        (plain, "TS_01"),
    ):
        source, findings = reading(write, name, POINTS, place, tmp_path)
        assert (source.reading.how, findings) == ("stated", [])


@pytest.mark.parametrize(
    ("write", "name", "options"),
    [
        (annotation, "TS_01", ["--coords-angpix 2.5", "--coords-angpix 10"]),
        (plain, "TS_01.tomostar", ["--coords-angpix 1 ", "--coords-angpix 10"]),
        (
            picked_on_another_binning,
            "TS_01_10.00Apx",
            ["--coords-angpix 7.9", "--coords-angpix 1 ", "--coords-angpix 10"],
        ),
        (micrographs_of_another_size, "TS_01", ["--coords-angpix 5", "--coords-angpix 10"]),
    ],
)
def test_particles_in_a_corner_decide_nothing(write, name, options, place, tmp_path):
    source, findings = reading(write, name, CORNER, place, tmp_path)
    assert source.reading.how == "undecided"
    assert [finding.level for finding in findings] == ["error"]
    assert "where the particles lie does not tell" in findings[0].words
    assert all(option in findings[0].way_out for option in options)


def test_the_only_reading_that_lies_inside_needs_not_fill(place, tmp_path):
    """As unbinned pixels they lie in the first half; as pixels of the tomogram outside."""
    source, _ = reading(unbinned_without_optics, "TS_01", 0.5 * POINTS, place, tmp_path)
    assert (source.reading.how, source.reading.frame) == ("told", Frame.TILT_SERIES_PIXELS)


def test_angstroms_in_a_corner_may_be_pixels_of_another_tomogram(place, tmp_path):
    """As pixels of this one they lie outside, but they may count a finer one's."""
    points = POINTS * np.array([4, 4, 2])
    assert reading(plain, "TS_01.tomostar", points, place, tmp_path)[0].reading.how == "undecided"
    points[0] = [260, 100, 50]  # angstroms: beyond the middle in x
    assert reading(plain, "TS_01.tomostar", points, place, tmp_path)[0].reading.frame is Frame.ANGSTROMS


@pytest.mark.parametrize("axis", [0, 1])
def test_a_strip_along_one_side_decides_nothing(axis, place, tmp_path):
    points = POINTS.copy()
    points[:, axis] *= 0.2
    assert reading(annotation, "TS_01", points, place, tmp_path)[0].reading.how == "undecided"


def test_a_reading_whose_size_is_unknown_is_not_ruled_out(place, tmp_path):
    """Without a list nobody knows the unbinned pixel: few particles near the corner may count either."""
    (tmp_path / "p.star").write_text(annotation(CORNER, "TS_01"))
    source = source_of(tmp_path / "p.star", place / "t")
    assert (source.reading.how, source.reading.others) == ("undecided", (Frame.TILT_SERIES_PIXELS,))
    (tmp_path / "p.star").write_text(annotation(POINTS, "TS_01"))
    assert source_of(tmp_path / "p.star", place / "t").reading.frame is Frame.TOMOGRAM_PIXELS


def test_tomograms_that_are_not_binned_leave_nothing_to_decide(place, tmp_path):
    text = tomograms_star(
        rlnTomoTiltSeriesPixelSize=["10"],
        rlnTomoTomogramBinning=[],
        rlnTomoReconstructedTomogram=[str(place / "t" / "TS_01.mrc")],
    )
    (tmp_path / "tomograms.star").write_text(text)
    (tmp_path / "p.star").write_text(annotation(CORNER, "TS_01"))
    source = source_of(tmp_path / "p.star", tmp_path / "tomograms.star")
    assert (source.reading.how, source.reading.frame) == ("stated", Frame.TILT_SERIES_PIXELS)


def test_pytoms_own_pixel_size_leaves_nothing_to_decide(place, tmp_path):
    source, findings = reading(pytom, "TS_01", CORNER, place, tmp_path)
    assert (source.reading.how, source.reading.frame, findings) == ("stated", Frame.IMAGE_PIXELS, [])


def test_what_the_user_says_goes_before_all(place, tmp_path):
    (tmp_path / "p.star").write_text(annotation(CORNER, "TS_01"))
    source = source_of(tmp_path / "p.star", listed(place, "TS_01"), coords_angpix=20.0)
    assert (source.reading.how, list(check_frame(source))) == ("said", [])
    np.testing.assert_allclose(places_of(source), 2 * CORNER)


# ------------------------------------------------------------------------------------------ in a corner


def declared(points: np.ndarray, name: str) -> str:
    """A table that says it counts unbinned pixels, and counts others."""
    columns = {**xyz(points), **every(points, rlnTomoName=name, rlnOpticsGroup=1)}
    return optics(rlnTomoTiltSeriesPixelSize=["2.5"]) + loop(columns)


def refined_in_image_pixels(points: np.ndarray, name: str) -> str:
    columns = {
        **xyz(points / 2),
        **every(points, rlnMicrographName=name, rlnOpticsGroup=1, rlnImageName="a.mrc"),
    }
    return optics(rlnImagePixelSize=["20.0"]) + loop(columns)


@pytest.mark.parametrize(
    ("write", "name", "way_out", "part"),
    [
        (declared, "TS_01", "--coords-angpix 10", "1/4"),
        (refined_in_image_pixels, "TS_01", "--coords-angpix 20", "1/2"),
    ],
)
def test_a_stated_reading_that_leaves_all_in_a_corner_is_warned_of(
    write, name, way_out, part, place, tmp_path
):
    source, findings = reading(write, name, POINTS, place, tmp_path)
    assert source.reading.how == "stated"
    assert [finding.level for finding in findings] == ["warning"]
    assert f"all 3 particles lie in the first {part} of every axis" in findings[0].words
    assert way_out in findings[0].way_out


def test_two_particles_may_lie_in_a_corner(place, tmp_path):
    assert reading(declared, "TS_01", POINTS[:2], place, tmp_path)[1] == []


def test_a_corner_is_one_of_all_axes(place, tmp_path):
    """Particles in a thin layer, or in one half, are nothing odd."""
    for axis, share in itertools.product(range(3), (0.3,)):
        points = POINTS * VOXEL / UNBINNED
        points[:, axis] *= share
        assert reading(declared, "TS_01", points, place, tmp_path)[1] == []


# ------------------------------------------------------------------------------------- names of the files


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["TS_01", "TS_02.mrc"], ["TS_01", "TS_02"]),
        (["a/TS_01.mrc", "b/TS_01.mrc"], ["a_TS_01.mrc", "b_TS_01.mrc"]),
        (["a/TS_01.mrc", "b/TS_01.mrc", "a_TS_01.mrc"], ["a_TS_01.mrc", "b_TS_01.mrc", "a_TS_01.mrc_2"]),
        (["TS 01.mrc", "TS_01.mrc", "TS_01.mrc_2"], ["TS_01.mrc", "TS_01.mrc_2", "TS_01.mrc_2_2"]),
        (["Cell", "cell"], ["Cell", "cell_2"]),  # one folder on a Mac
        (["Ü", "ü"], ["Ü", "ü_2"]),
        (["..", ".x", "/"], ["_.", "_x", "tomogram"]),
        (["ä" * 200, "ä" * 201], ["ä" * 100, "ä" * 100 + "_2"]),
    ],
)
def test_no_two_tomograms_write_into_one_folder(names, folders):
    assert folder_names(names) == folders


@pytest.mark.parametrize("names", [("TS 01.mrc", "TS_01.mrc"), ("a/TS_01.mrc", "b/TS_01.mrc", "a_TS_01.mrc")])
def test_tomograms_of_nearly_one_name_keep_their_boxes_apart(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(names):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(
            mrc(np.arange(32**3).reshape((32,) * 3).astype("f4") + number, cella=(320,) * 3)
        )
    quoted = [f'"{name}"' for name in names]
    Path("p.star").write_text(loop({"rlnMicrographName": quoted, **xyz(np.full((len(names), 3), 12.0))}))
    table = read_particles(Path("p.star"))
    found = find_tomograms(table.tomograms, None, table.path)
    written = extract(TomogramSource(table, found, Extraction(box=8, norm=False, invert="no")), Path("E"))
    read = [open_volume(read_particles(written).image(row).path).data[4, 4, 4] for row in range(len(names))]
    assert read == [12 * (32**2 + 32 + 1) + number for number in range(len(names))]
