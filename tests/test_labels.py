"""Labels: from a column or from one file per class, and what counts as none."""

from pathlib import Path

import pytest
from star_files import loop, relion31

from cryoclass.errors import ParticleError, StarError, UsageError
from cryoclass.labels import alike, read_labelled
from cryoclass.particles import read_particles

UNLABELLED = [
    "unlabelled",
    "Unlabeled",
    "UNKNOWN",
    "none",
    "nan",
    "NaN",
    "-nan",
    "null",
    "<NA>",
    "N/A",
    "?",
    '""',
]


@pytest.fixture
def table(tmp_path):
    """Return a function that writes a particle file with some columns and returns its path."""

    def write(name: str = "particles.star", **columns: list[str]) -> str:
        count = len(next(iter(columns.values())))
        images = [f"{name}/TS_0{n % 2}/{n}.mrc" for n in range(count)]
        micrographs = [f"TS_0{n % 2}" for n in range(count)]
        (tmp_path / name).write_text(
            loop({"rlnImageName": images, "rlnMicrographName": micrographs, **columns})
        )
        return str(tmp_path / name)

    return write


def labels_of(path: str, column: str) -> list[str | None]:
    return read_particles(Path(path)).labels(column)


def test_words_are_numbered_by_the_alphabet(table):
    found = read_labelled([table(cryoclassLabel=["ribosome", "junk", "unlabelled", "ribosome"])], None)
    assert found.classes == ("junk", "ribosome")
    assert found.labels.tolist() == [1, 0, -1, 1]
    assert found.counts == [1, 2]
    assert found.tomograms == ["TS_00", "TS_01", "TS_00", "TS_01"]


def test_numbers_come_by_value_before_words(table):
    found = read_labelled([table(myLabel=["10", "9", "x", "1.5", "2.000000"])], "myLabel")
    assert found.classes == ("1.5", "2", "9", "10", "x")


@pytest.mark.parametrize("cell", [*UNLABELLED, "-1", "-1.000000", "-999", "-999.0"])
def test_these_mean_no_label(cell, table):
    assert labels_of(table(cryoclassLabel=[cell, "a"]), "cryoclassLabel") == [None, "a"]


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        ("007", "007"),
        ("1e5", "1e5"),
        ("1.000000", "1"),
        ("0", "0"),
        ("0.5", "0.5"),
        ("-2", "-2"),
        ("it's", "it's"),
    ],
)
def test_other_text_stays_text_and_whole_numbers_lose_their_decimals(cell, label, table):
    assert labels_of(table(cryoclassLabel=[cell, "a"]), "cryoclassLabel")[0] == label


@pytest.mark.parametrize("cell", ["0", "0.000000", "-1", "nan", "-5"])
def test_relions_classes_start_at_one(cell, table):
    path = table(rlnClassNumber=[cell, "1", "2.000000"])
    assert labels_of(path, "rlnClassNumber") == [None, "1", "2"]
    assert labels_of(table(rlnClassNumber=["v1.0", "a.b"]), "rlnClassNumber") == ["v1.0", "a.b"]


def test_our_own_column_comes_first_and_any_may_be_asked_for(table):
    path = table(rlnClassNumber=["1", "2"], cryoclassLabel=["a", "b"], mine=["x", "x"])
    assert read_labelled([path], None).classes == ("a", "b")
    assert read_labelled([path], "rlnClassNumber").classes == ("1", "2")
    assert read_labelled([path], "_mine").classes == ("x",)
    with pytest.raises(StarError, match="no column cryoclassLable") as caught:
        read_labelled([path], "cryoclassLable")
    assert caught.value.hint == "Did you mean cryoclassLabel?"


def test_a_file_without_labels_says_what_to_do(table):
    with pytest.raises(
        ParticleError, match="has no labels: no column cryoclassLabel or rlnClassNumber"
    ) as caught:
        read_labelled([table(mine=["x"])], None)
    assert "--label-column" in caught.value.hint
    with pytest.raises(ParticleError, match="no particle has a label in column cryoclassLabel"):
        read_labelled([table(cryoclassLabel=["unlabelled", "-1"])], None)


def test_one_file_per_class(table):
    ribosomes, junk = table("a.star", x=["1", "2", "3"]), table("b.star", x=["1"])
    found = read_labelled([f"ribosome={ribosomes}", f"junk={junk}"], None)
    assert found.classes == ("junk", "ribosome")
    assert found.labels.tolist() == [1, 1, 1, 0]
    assert [len(part) for part in found.tables] == [3, 1]
    assert found.tomograms == ["TS_00", "TS_01", "TS_00", "TS_00"]


def test_two_files_may_hold_one_class(table):
    found = read_labelled(
        [f"a={table('1.star', x=['1'])}", f"b={table('2.star', x=['1'])}", f"a={table('3.star', x=['1'])}"],
        None,
    )
    assert found.labels.tolist() == [0, 1, 0]


def test_predictions_are_no_labels_unless_the_user_insists(table):
    predicted = table(rlnClassNumber=["1", "2"], cryoclassClassName=["a", "b"])
    with pytest.raises(ParticleError, match="is what cryoclass predicted"):
        read_labelled([predicted], None)
    assert read_labelled([predicted], "rlnClassNumber").classes == ("1", "2")


def test_mixing_pairs_and_files_is_an_error(table):
    one, two = table("1.star", x=["1"]), table("2.star", x=["1"])
    with pytest.raises(UsageError, match=r"has no class name, but others have") as caught:
        read_labelled([f"a={one}", two], None)
    assert caught.value.hint == f"Write it as name={two}."
    with pytest.raises(UsageError, match="2 STAR files given"):
        read_labelled([one, two], None)


def test_an_equals_sign_in_a_folder_makes_no_class(tmp_path):
    (tmp_path / "run=1").mkdir()
    path = tmp_path / "run=1" / "particles.star"
    path.write_text(relion31(cryoclassLabel=["a", "b"]))
    assert read_labelled([str(path)], None).classes == ("a", "b")


# -------------------------------------------------------------------------- names of files, and of classes


@pytest.mark.parametrize("name", ["run=3/particles.star", "a=b.star", "job=1=2/x=y.star"])
def test_a_file_with_an_equals_sign_in_its_name_is_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(relion31(cryoclassLabel=["x", "y"]))
    assert read_labelled([name], None).classes == ("x", "y")


def test_two_readings_of_an_argument_are_not_guessed_between(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run=b.star", "b.star", "c.star"):
        table(name, cryoclassLabel=["x", "y"])
    with pytest.raises(UsageError, match=r"^run=b\.star is a file, and so is b\.star") as caught:
        read_labelled(["run=b.star"], None)
    assert caught.value.hint == "Write ./run=b.star for the file, or run=./b.star for the class."
    assert read_labelled(["./run=b.star"], None).classes == ("x", "y")
    assert read_labelled(["run=./b.star", "junk=c.star"], None).classes == ("junk", "run")


@pytest.mark.parametrize(
    ("classes", "groups"),
    [
        (["Ribosome", "junk", "ribosome"], [("Ribosome", "ribosome")]),
        (["ATP", "Atp", "atp", "JUNK", "junk"], [("ATP", "Atp", "atp"), ("JUNK", "junk")]),
        (["STRASSE", "straße"], [("STRASSE", "straße")]),
        (["caf\u00e9", "cafe\u0301"], [("caf\u00e9", "cafe\u0301")]),
        (["80S a", "80s_a"], [("80S a", "80s_a")]),
        (["1", "2", "10", "ribosome", "ribosome2"], []),
    ],
)
def test_classes_that_differ_only_in_how_they_are_written_are_found(classes, groups):
    assert alike(classes) == groups


@pytest.mark.parametrize(
    ("pair", "warned"), [(("Ribosome", "ribosome"), True), (("Ribosome", "junk"), False)]
)
def test_finetune_and_doctor_point_out_classes_written_alike(cryoclass, table, pair, warned):
    path = table(cryoclassLabel=list(pair) * 3)
    said = (
        "classes 'Ribosome' and 'ribosome' differ only in how they are written; they are taught as 2 classes"
    )
    assert (said in cryoclass("finetune", path, "-o", "F").err) is warned  # stops there: there are no images
    assert (said in cryoclass("doctor", path, "--for", "finetune").out) is warned
