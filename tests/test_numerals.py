"""What is a number in a table or an option, and what Python alone would take for one."""

import numpy as np
import pytest
from cli_helpers import NETWORK

from cryoclass.errors import CryoclassError
from cryoclass.labels import from_column
from cryoclass.numerals import in_digits, number
from cryoclass.particles import read_particles
from cryoclass.star.dynamo import read_dynamo
from cryoclass.star.names import split_index
from cryoclass.star.tomogram_list import read_tomogram_list

STRANGE = [
    "1_0",
    "٣",
    "३",
    "¹",
    "0x10",
    "nan",
    "inf",
    "-Infinity",
    "1d5",
    "1,5",
    "--1",
    "1e",
    "",
    " 1",
    "1e+-3",
]
NUMBERS = ["1", "-1.5e-3", "+7.", ".5", "1E5", "007"]


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_numbers(text):
    assert number(text) == float(text)


@pytest.mark.parametrize("text", STRANGE)
def test_what_other_programs_do_not_read_is_no_number(text):
    with pytest.raises(ValueError, match=r"number|float"):
        number(text)


def test_many_are_told_at_once():
    assert in_digits(NUMBERS)
    assert not in_digits([*NUMBERS, "1_0"])
    assert not in_digits(["\udcff"])  # bytes that are no text


CELLS = [text for text in STRANGE if text.strip() == text != ""]


def star(path, **columns):
    """Write one good row of a particle table, with some cells as a test wants them."""
    cells = {
        "rlnMicrographName": "TS_01.mrc",
        "rlnCoordinateX": "5",
        "rlnCoordinateY": "6",
        "rlnCoordinateZ": "7",
    }
    cells |= columns
    labels = "".join(f"_{label} #{count}\n" for count, label in enumerate(cells, 1))
    path.write_text(f"\ndata_\n\nloop_\n{labels}{' '.join(cells.values())}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("label", ["rlnCoordinateY", "rlnPixelSize", "rlnOriginXAngst"])
def test_no_table_holds_such_a_number(tmp_path, label, cell):
    origins = {f"rlnOrigin{axis}Angst": "0" for axis in "XYZ"} if "Origin" in label else {}
    path = star(tmp_path / "x.star", **{**origins, label: cell})

    def read():
        table = read_particles(path)
        return (table.coordinates, table.angpix, table.origins)

    with pytest.raises(CryoclassError) as caught:
        read()
    line = 9 + len(origins) + (label == "rlnPixelSize")
    assert f"x.star, line {line}, column {label}: {cell!r} is not a finite number." in str(caught.value)


@pytest.mark.parametrize("cell", ["1_0", "٣", "nan"])
def test_no_optics_table_and_no_list_of_tomograms_does(tmp_path, cell):
    star(tmp_path / "x.star", rlnOpticsGroup="1")
    optics = f"\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n1 {cell}\n"
    text = (tmp_path / "x.star").read_text(encoding="utf-8").replace("data_\n", "data_particles\n")
    (tmp_path / "x.star").write_text(optics + text, encoding="utf-8")
    with pytest.raises(CryoclassError, match=f"line 7, column rlnImagePixelSize: '{cell}' is not a finite"):
        _ = read_particles(tmp_path / "x.star").angpix
    listed = f"\ndata_global\n\nloop_\n_rlnTomoName #1\n_rlnTomoTiltSeriesPixelSize #2\nTS_01 {cell}\n"
    (tmp_path / "t.star").write_text(listed, encoding="utf-8")
    with pytest.raises(CryoclassError, match=f"column rlnTomoTiltSeriesPixelSize: '{cell}' is not a finite"):
        read_tomogram_list(tmp_path / "t.star")


def test_no_dynamo_table_does(tmp_path):
    row = ["1"] * 35
    (tmp_path / "x.tbl").write_text(" ".join(row))
    read_dynamo(tmp_path / "x.tbl")
    (tmp_path / "x.tbl").write_text(" ".join([*row[:23], "1_0", *row[24:]]))
    with pytest.raises(CryoclassError, match="'1_0' is no number"):
        read_dynamo(tmp_path / "x.tbl")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("12@a.mrcs", ("12@", "a.mrcs")),
        ("1_0@a.mrcs", ("", "1_0@a.mrcs")),
        ("٣@a.mrcs", ("", "٣@a.mrcs")),
        ("9" * 5000 + "@a.mrcs", ("", "9" * 5000 + "@a.mrcs")),  # Python refuses to read so long a number
    ],
)
def test_numbers_in_a_stack_are_digits(name, split):
    assert split_index(name) == split


def test_labels_that_look_like_numbers_stay_apart(tmp_path):
    """Python would take ``1_0.0`` for 10, and the digit three of another script for 3."""
    rows = "".join(f"b{count}.mrc {cell}\n" for count, cell in enumerate(["10", "1_0.0", "3", "٣.0", "3.0"]))
    text = f"\ndata_\n\nloop_\n_rlnImageName #1\n_cryoclassLabel #2\n{rows}"
    (tmp_path / "x.star").write_text(text, encoding="utf-8")
    labelled = from_column(read_particles(tmp_path / "x.star"), None)
    assert labelled.classes == ("3", "10", "1_0.0", "٣.0")
    assert np.bincount(labelled.labels).tolist() == [2, 1, 1, 1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--box 1_6", "'--box': '1_6' is no whole number"),
        ("--box ١٦", "'--box': '١٦' is no whole number"),
        ("--box 1e1", "'--box': '1e1' is no whole number"),
        ("--box " + "9" * 30, "is no whole number"),
        ("--box 16 --angpix 1_0", "'--angpix': '1_0' is no number"),
        ("--box 16 --angpix nan", "'--angpix': 'nan' is no number"),
        ("--box 16 --angpix 1e999", "'--angpix': '1e999' is too large"),
    ],
)
def test_options_take_no_such_number(cryoclass, tmp_path, words, said):
    ran = cryoclass("extract", "x.star", "--tomograms", tmp_path, "-o", tmp_path / "O", *words.split())
    assert ran.status == 2
    assert said in ran.err


def test_lists_of_numbers_take_none_either(cryoclass):
    wrong = [word if word != "8" else "1_6" for word in NETWORK]
    ran = cryoclass("finetune", "x.star", *wrong)
    assert (ran.status, "'--input-size': '1_6' is no whole number" in ran.err) == (2, True)
