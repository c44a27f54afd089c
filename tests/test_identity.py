"""Who is who: one particle is known again however its image, its tomogram or its position is written."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import NETWORK, table
from star_files import CENTRED, loop, optics, twice

from cryoclass.checks.findings import Finding
from cryoclass.checks.identity import check_identity, same_particles
from cryoclass.particles import Particles, read_particles
from cryoclass.star.frames import Frame
from cryoclass.star.names import names_meant


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Return a function that writes a STAR file somewhere below the current folder and reads it."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, columns: dict[str, list[str]], head: str = "") -> Particles:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + loop(columns))
        return read_particles(path)

    return write


def images(folder: str, *numbers: int) -> dict[str, list[str]]:
    return {"rlnImageName": [f"{folder}{number}.mrc" for number in numbers]}


def touch(*paths: str) -> None:
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def picks(*rows: tuple[str, object], **more: str) -> dict[str, list[str]]:
    """Return columns of picks that differ in tomogram and x alone."""
    return {
        "rlnMicrographName": [name for name, _ in rows],
        "rlnCoordinateX": [str(x) for _, x in rows],
        **{f"rlnCoordinate{axis}": ["20"] * len(rows) for axis in "YZ"},
        **{label: [cell] * len(rows) for label, cell in more.items()},
    }


def groups(*tables: Particles) -> list[int]:
    """Return for each row the first row that shows the same particle."""
    same = same_particles(tables).tolist()
    return [same.index(number) for number in same]


# --------------------------------------------------------------------------------------------- images


def test_an_image_is_the_same_however_it_is_spelt(written, tmp_path):
    touch("Boxes/1.mrc", "Boxes/2.mrc")
    (tmp_path / "Link").symlink_to("Boxes")
    spellings = ["Boxes/", "./Boxes/", "Other/../Boxes/", f"{tmp_path}/Boxes/", "Boxes\\", "Link/"]
    touch("Other/x")
    tables = [written(f"Job/{n}.star", images(folder, 1, 2)) for n, folder in enumerate(spellings)]
    tables.append(written("Boxes/x.star", images("", 1, 2)))
    assert groups(*tables) == [0, 1] * len(tables)


def test_an_image_that_is_a_link_is_what_it_leads_to(written):
    touch("Boxes/1.mrc", "Boxes/2.mrc")
    Path("Boxes/3.mrc").symlink_to("2.mrc")
    assert groups(written("x.star", images("Boxes/", 1, 2, 3))) == [0, 1, 1]


def test_equal_names_in_two_folders_are_two_images(written):
    touch("A/1.mrc", "B/1.mrc")
    assert groups(*(written(f"{folder}/x.star", images("", 1)) for folder in "AB")) == [0, 1]


def test_images_of_a_stack_are_told_apart_by_their_numbers(written):
    touch("stack.mrc", "7@x/stack.mrc", "me@x/stack.mrc")
    names = [
        "000001@stack.mrc",
        "2@stack.mrc",
        "1@./stack.mrc",
        "stack.mrc",
        "me@x/stack.mrc",
        "1@me@x/stack.mrc",
    ]
    assert groups(written("x.star", {"rlnImageName": names})) == [0, 1, 0, 3, 4, 5]


def test_two_images_that_are_there_are_two_particles_wherever_they_lie(written):
    touch("1.mrc", "2.mrc")
    placeholder = picks(("T", 0), ("T", 0), ("T", 7))
    assert groups(written("x.star", {**placeholder, **images("", 1, 2, 3)})) == [0, 1, 2]
    assert groups(written("y.star", {**placeholder, **images("", 1, 2, 1)})) == [0, 1, 0]


@pytest.mark.parametrize("there", [True, False])
def test_where_an_image_is_missing_the_position_decides(there, written):
    if there:
        touch("A/1.mrc", "B/1.mrc")
    one, other = (written(f"{folder}/x.star", {**picks(("T", 5)), **images("", 1)}) for folder in "AB")
    bare = written("bare.star", picks(("T", 5), ("T", 9)))
    assert groups(one, other) == ([0, 1] if there else [0, 0])
    assert groups(one, bare) == [0, 0, 2]


def test_without_image_and_position_a_name_is_all_there_is(written):
    assert groups(written("a.star", images("gone/", 1, 2, 1)), written("B/a.star", images("gone/", 1))) == [
        0,
        1,
        0,
        3,
    ]


# ----------------------------------------------------------------------------- tomograms and positions


def test_tomogram_and_position_tell_particles_apart(written):
    rows = [("TS_01", "1.5"), ("TS_01", "1.500000"), ("TS_01", "1.6"), ("TS_02", "1.5")]
    assert groups(written("x.star", picks(*rows))) == [0, 0, 2, 3]


@pytest.mark.parametrize("digits", range(9))
def test_two_sides_of_a_rounding_border_are_one_position(digits, written):
    border = 100 + 0.5 * 10**-digits
    rows = [("T", f"{border - 1e-9:.12f}"), ("T", f"{border + 1e-9:.12f}")]
    assert groups(written("x.star", picks(*rows))) == [0, 0]


@pytest.mark.parametrize(
    ("pixel", "step", "one"),
    [("10", 0.09, True), ("10", 0.11, False), ("2", 0.4, True), ("2", 0.6, False), ("0.5", 1.9, True)],
)
def test_the_tolerance_is_an_angstrom_where_the_pixel_is_known(pixel, step, one, written):
    table = written("x.star", in_tilt_series(50, 50 + step), optics(rlnTomoTiltSeriesPixelSize=[pixel]))
    assert groups(table) == ([0, 0] if one else [0, 1])


@pytest.mark.parametrize(("x", "again", "one"), [("50", "50.04", True), ("50", "50.2", False)])
def test_pixels_of_unknown_size_are_compared_as_they_are(x, again, one, written):
    found = groups(written("a.star", picks(("T.mrc", x))), written("b.star", picks(("rec_T", again))))
    assert found == ([0, 0] if one else [0, 1])


def test_fractions_of_a_tomogram_have_a_tolerance_of_their_own(written):
    table = written("x.star", fractions("0.25", "0.25001", "0.252"))
    assert table.frame is Frame.FRACTION
    assert groups(table) == [0, 0, 2]


def fractions(*xs: str) -> dict[str, list[str]]:
    count = len(xs)
    return {
        "rlnCoordinateX": list(xs),
        "rlnCoordinateY": ["0.5"] * count,
        "rlnCoordinateZ": ["0.75"] * count,
        "rlnMicrographName": ["TS_01.tomostar"] * count,
        "rlnAutopickFigureOfMerit": ["7.1"] * count,
    }


def in_tilt_series(*xs: float) -> dict[str, list[str]]:
    columns = picks(*[("T", x) for x in xs], rlnTomoName="T", rlnOpticsGroup="1")
    del columns["rlnMicrographName"]
    return columns


def test_angstroms_are_within_an_angstrom(written):
    near = {**CENTRED, "rlnCenteredCoordinateXAngst": ["-485.9", "-485.1"]}
    near |= {label: twice(near[label][0]) for label in list(near)[1:]}
    far = {**near, "rlnCenteredCoordinateXAngst": ["-485.9", "-483.9"]}
    assert groups(written("x.star", {"rlnTomoName": twice("T"), **near})) == [0, 0]
    assert groups(written("y.star", {"rlnTomoName": twice("T"), **far})) == [0, 1]


def test_pixels_of_two_sizes_meet_in_angstroms(written):
    one = written("a.star", in_tilt_series(50, 60), optics(rlnTomoTiltSeriesPixelSize=["2.5"]))
    finer = in_tilt_series(100, 120)
    finer |= {f"rlnCoordinate{axis}": ["40", "40"] for axis in "YZ"}
    other = written("b.star", finer, optics(rlnTomoTiltSeriesPixelSize=["1.25"]))
    assert groups(one, other) == [0, 1, 0, 1]


def test_refined_origins_move_a_position(written):
    size = optics(rlnTomoTiltSeriesPixelSize=["2.5"])
    moved = {**in_tilt_series(50, 60), **{f"rlnOrigin{axis}Angst": ["0", "0"] for axis in "XYZ"}}
    moved["rlnOriginXAngst"] = ["-25", "0"]
    assert groups(written("x.star", moved, size)) == [0, 0]
    assert groups(written("y.star", in_tilt_series(50, 60), size)) == [0, 1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("TS_01", "TS_01.mrc"),
        ("TS_01.tomostar", "/old/TS_01.mrc.tomostar"),
        ("./tomograms/TS_01.mrc", "tomograms/TS_01.mrc"),
        ("tomograms/TS_01.mrc", "rec_TS_01.mrc"),
        ("/old/disk/TS_01_10.00Apx.mrc", "TS_01.tomostar"),
        ("F:\\data\\TS_01.rec", "TS_01"),
    ],
)
def test_a_tomogram_is_the_same_however_it_is_spelt(one, other, written):
    assert groups(written("a.star", picks((one, 5))), written("b.star", picks((other, 5)))) == [0, 0]
    assert groups(
        written("c.star", picks((one, 5))), written("d.star", picks((other.replace("01", "02"), 5)))
    ) == [0, 1]


def test_equal_names_of_two_volumes_are_two_tomograms(written):
    touch("A/TS_01.mrc", "B/TS_01.mrc")
    one, other = (written(f"{n}.star", picks((f"{n}/TS_01.mrc", 5))) for n in "AB")
    assert groups(one, other) == [0, 1]
    beside = written("A/x.star", picks(("TS_01.mrc", 5)))
    assert groups(one, beside) == [0, 0]


def test_names_of_one_table_are_shortened_only_while_they_differ():
    assert names_meant([["a/TS_01.mrc", "b/TS_01.mrc"], ["TS_01"]])["a/TS_01.mrc"] == "a/TS_01.mrc"
    assert len(set(names_meant([["rec_TS_01.mrc", "TS_01.mrc"]]).values())) == 2
    assert set(names_meant([["rec_TS_01.mrc"], ["TS_01.mrc"]]).values()) == {"TS_01"}


def test_rows_at_one_point_are_quickly_told(written):
    count = 20_000  # their pairs would take gigabytes
    assert set(groups(written("x.star", picks(*[("T", 0)] * count)))) == {0}


# ------------------------------------------------------------------------------------------ the check


def checked(tables: list[Particles], labels: list[int] | None = None) -> Finding:
    known = None if labels is None else np.array(labels)
    (finding,) = check_identity(tables, same_particles(tables), known, ["ribosome", "junk"])
    return finding


def test_a_particle_of_two_classes_is_an_error(written):
    one, other = (
        written("a.star", picks(("TS_01", 10.5), ("TS_01", 30))),
        written("b.star", picks(("TS_01", "30.0"))),
    )
    found = checked([one, other], [0, 0, 1])
    assert found.level == "error"
    assert "1 row give" in found.words or "1 row gives" in found.words
    assert "TS_01 x=30 y=20 z=20: ribosome (a.star, line 10) and junk (b.star, line 9)" in found.words
    assert checked([one, other], [0, 1, 1]).level == "warning"
    assert checked([one, other], [0, -1, 1]).level == "ok"


def test_doubles_are_counted_and_the_first_is_named(written):
    found = checked([written("x.star", picks(*[("T", 1), ("T", 7), ("T", 1), ("T", 1)]))])
    assert found.level == "warning"
    assert "2 of 4 rows" in found.words
    assert "x.star, line 9 and x.star, line 11" in found.words
    assert checked([written("y.star", picks(("T", 1), ("T", 7)))]).level == "ok"


# ----------------------------------------------------------------------------------- the command line


@pytest.fixture
def two_classes(here, extracted) -> Path:
    """Folder ``here`` with ``a.star`` and ``b.star`` of the same particles, spelt differently."""
    text = extracted.particles.read_text()
    (here / "a.star").write_text(text)
    (here / "b.star").write_text(text.replace("Extract/Sub", "./Extract/../Extract/Sub"))
    return here


def test_finetune_refuses_one_particle_of_two_classes(cryoclass, two_classes):  # noqa: ARG001
    ran = cryoclass("finetune", "a=a.star", "b=b.star", *NETWORK, "-o", "F")
    assert ran.status == 1
    assert "36 rows give a particle another class" in ran.err
    assert not Path("F").exists()


def test_finetune_refuses_one_pick_of_two_classes(cryoclass, here, extracted):  # noqa: ARG001
    shutil.copy(extracted.coordinates, "b.star")
    Path("tomograms").symlink_to(extracted.tomograms)
    Path("b.star").write_text(Path("b.star").read_text().replace("tomograms/", "elsewhere/"))
    cut = ("--tomograms", "tomograms", "--box", 16)
    ran = cryoclass("finetune", f"a={extracted.coordinates}", "b=b.star", *cut, *NETWORK, "-o", "F")
    assert ran.status == 1
    assert "36 rows give a particle another class" in ran.err


def with_doubles(star: Path, target: Path) -> None:
    lines = star.read_text().rstrip().split("\n")
    rows = [line for line in lines if "Subtomograms/" in line]
    again = [row.replace("Extract/Sub", "./Extract/Sub") for row in rows]
    target.write_text("\n".join([*lines, *again, ""]))


def test_doubles_are_never_on_both_sides_of_a_split(cryoclass, here, extracted):  # noqa: ARG001
    with_doubles(extracted.particles, Path("twice.star"))
    ran = cryoclass(
        "finetune",
        "twice.star",
        "--freeze",
        *NETWORK[:-4],
        "--device",
        "cpu",
        "-o",
        "F",
        "--split",
        "particle",
    )
    assert ran.status == 0, ran.err
    assert "36 of 72 rows show a particle that an earlier row shows" in ran.err
    scored = table(Path("F/predictions.star"))
    parts = scored.groupby(scored["rlnImageName"].map(os.path.normpath))["cryoclassSplit"]
    assert set(parts.nunique()) == {1}
    assert set(parts.size()) == {2}


def test_the_doctor_counts_doubles(cryoclass, here, extracted):  # noqa: ARG001
    with_doubles(extracted.particles, Path("twice.star"))
    said = cryoclass("doctor", "twice.star").out
    assert "36 of 72 rows show a particle that an earlier row shows" in said
