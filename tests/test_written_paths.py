"""Tables that were written elsewhere name their files so that everybody finds them."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import table
from mrc_files import mrc
from star_files import XYZ, listing, loop, optimisation_set, relion31, tomograms_star, twice

from cryoclass.images import FileSource
from cryoclass.labels import read_labelled
from cryoclass.particles import read_particles
from cryoclass.results import write_held_out
from cryoclass.star.names import spelled, split_index


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project folder, in which we stand, with a table in ``Data`` that names its images from there."""
    folder = tmp_path / "project"
    monkeypatch.chdir(tmp_path)
    for image in ("1.mrc", "2.mrc", "stack.mrcs"):
        put(folder / "Data" / "Boxes" / image)
    monkeypatch.chdir(folder)
    return folder


def put(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def images(*names: str) -> str:
    return loop({"rlnImageName": list(names), "rlnPixelSize": ["10"] * len(names)})


def written(star: Path, target: Path, label: str = "rlnImageName") -> list[str]:
    """Write a table to another place, hold that all its images are found from there, and return a column."""
    before, found = read_particles(star), []
    before.write(target)
    places = [before.image(row).path for row in range(len(before))] if before.has_images else []
    for here, path in [(Path.cwd(), target), (Path("/"), target.absolute()), (Path("/"), target.resolve())]:
        with contextlib.chdir(here):
            found.append(read_particles(path))
    for after in found:
        with contextlib.chdir("/") if after.path.is_absolute() else contextlib.nullcontext():
            reached = [after.image(row).path for row in range(len(after))] if places else []
        for old, new in zip(places, reached, strict=True):
            assert (old is None) == (new is None)
            assert old is None or new.resolve() == old.resolve()
    return found[0].cells(label)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Boxes/1.mrc", "Data/Boxes/1.mrc"),
        ("./Boxes/1.mrc", "Data/Boxes/1.mrc"),
        ("../Data/Boxes/1.mrc", "Data/Boxes/1.mrc"),
        ("Boxes\\1.mrc", "Data/Boxes/1.mrc"),
        ("1@Boxes/stack.mrcs", "1@Data/Boxes/stack.mrcs"),
        ("000002@Boxes/stack.mrcs", "000002@Data/Boxes/stack.mrcs"),
    ],
)
def test_images_beside_their_table_are_named_from_the_project(name, expected, project):
    star = put(project / "Data" / "x.star", images(name, "Boxes/2.mrc"))
    assert written(star, Path("Predict/x.star")) == [expected, "Data/Boxes/2.mrc"]
    assert written(star, Path("Data/y.star")) == [
        expected,
        "Data/Boxes/2.mrc",
    ]  # RELION looks from the project


@pytest.mark.parametrize(
    "name",
    [
        "Data/Boxes/1.mrc",
        "./Data/Boxes/1.mrc",
        "Data/../Data/Boxes/1.mrc",
        "03@Data/Boxes/stack.mrcs",
        "gone/1.mrc",
    ],
)
def test_what_is_found_from_the_new_place_stays_byte_for_byte(name, project):
    text = images(name, "Data/Boxes/2.mrc").replace("10\n", "10   # a note\n")
    star = put(project / "Data" / "x.star", text)
    written(star, Path("Predict/x.star"))
    assert Path("Predict/x.star").read_text() == text


def test_a_missing_image_stays_and_its_neighbours_are_found(project):
    star = put(project / "Data" / "x.star", images("Boxes/9.mrc", "Boxes/2.mrc"))
    assert written(star, Path("Predict/x.star")) == ["Boxes/9.mrc", "Data/Boxes/2.mrc"]


def test_a_nearer_file_of_the_same_name_is_not_taken_for_the_image(project):
    star = put(project / "x.star", images("Data/Boxes/1.mrc", "Data/Boxes/2.mrc"))
    put(
        project / "Predict" / "Data" / "Boxes" / "1.mrc"
    )  # whoever stands elsewhere would meet this one first
    assert written(star, Path("Predict/x.star"))[0] == str(project / "Data" / "Boxes" / "1.mrc")


def test_outside_the_project_paths_are_absolute(project, tmp_path):
    star = put(project / "Data" / "x.star", images("Boxes/1.mrc", "2@Data/Boxes/stack.mrcs"))
    expected = [str(project / "Data/Boxes/1.mrc"), f"2@{project}/Data/Boxes/stack.mrcs"]
    for target in (tmp_path / "elsewhere" / "x.star", Path("../elsewhere/x.star")):
        assert written(star, target) == expected


def test_a_folder_that_is_a_link_counts_as_the_place_it_leads_to(project, tmp_path):
    star = put(project / "Data" / "x.star", images("Data/Boxes/1.mrc", "Boxes/2.mrc"))
    (tmp_path / "scratch").mkdir()
    Path("Out").symlink_to(tmp_path / "scratch")
    expected = [str(project / "Data/Boxes/1.mrc"), str(project / "Data/Boxes/2.mrc")]
    assert written(star, Path("Out/x.star")) == expected
    Path("Inner").symlink_to(project / "Data")  # and one that stays in the project needs no absolute path
    assert written(star, Path("Inner/y.star")) == ["Data/Boxes/1.mrc", "Data/Boxes/2.mrc"]


@pytest.mark.usefixtures("project")
def test_a_table_that_is_reached_by_a_link_finds_what_lies_beside_it(tmp_path):
    real = put(tmp_path / "disk" / "x.star", images("Boxes/1.mrc", "Boxes/2.mrc"))
    for name in ("1.mrc", "2.mrc"):
        put(tmp_path / "disk" / "Boxes" / name)
    Path("link.star").symlink_to(real)
    assert written(Path("link.star"), Path("Predict/x.star"))[1] == str(tmp_path / "disk" / "Boxes" / "2.mrc")


@pytest.mark.parametrize("folder", ["me@lab", "a@b/7@c", "12@x"])
def test_an_at_sign_in_a_folder_is_no_number_in_a_stack(folder, tmp_path, monkeypatch):
    here = tmp_path / folder
    put(here / "Data" / "Boxes" / "1.mrc")
    put(here / "Data" / "me@lab" / "2.mrc")
    star = put(here / "Data" / "x.star", images("Boxes/1.mrc", "me@lab/2.mrc"))
    monkeypatch.chdir(here)
    assert written(star, Path("Predict/x.star")) == ["Data/Boxes/1.mrc", "Data/me@lab/2.mrc"]
    assert written(star, tmp_path / "out" / "x.star")[0] == str(here / "Data" / "Boxes" / "1.mrc")
    (here / "Data" / "x.star").write_text(images("0003@Boxes/1.mrc", f"4@{here}/Data/me@lab/2.mrc"))
    assert [read_particles(star).image(row).number for row in (0, 1)] == [3, 4]
    assert all(read_particles(star).image(row).path for row in (0, 1))


def test_only_digits_at_the_very_start_are_a_number():
    assert split_index("000012@a/b@c.mrc") == ("000012@", "a/b@c.mrc")
    for name in ("a1@b.mrc", "/data/12@x/1.mrc", "@b.mrc", "b.mrc", " 1@b.mrc", "-1@b.mrc"):
        assert split_index(name) == ("", name)


def test_tomograms_and_other_files_go_along_but_names_stay(project):
    for name in ("T/a.mrc", "T/a.tomostar", "ctf.mrc"):
        put(project / "Data" / name)
    columns = {**XYZ, "rlnImageName": ["Boxes/1.mrc", "Boxes/2.mrc"], "rlnCtfImage": twice("ctf.mrc")}
    for name, expected in [("T/a.mrc", "Data/T/a.mrc"), ("T/a.tomostar", "T/a.tomostar"), ("a", "a")]:
        for label in ("rlnMicrographName", "rlnTomoName"):
            star = put(project / "Data" / "x.star", loop({**columns, label: twice(name)}))
            assert written(star, Path("Predict/x.star"), label) == twice(expected)
            assert written(star, Path("Predict/x.star"), "rlnCtfImage") == twice("Data/ctf.mrc")


def test_beside_a_set_the_name_of_a_tomogram_is_a_key_to_its_list(project):
    put(project / "Data" / "a.mrc")
    columns = {**XYZ, "rlnImageName": ["Boxes/1.mrc", "Boxes/2.mrc"], "rlnTomoName": twice("a.mrc")}
    star = put(project / "Data" / "x.star", loop(columns))
    put(project / "Data" / "optimisation_set.star", optimisation_set("x.star", "tomograms.star"))
    assert written(star, Path("Predict/x.star"), "rlnTomoName") == twice("a.mrc")


def test_a_set_outside_the_project_names_everything_in_full(project, tmp_path):
    put(project / "Data" / "x.star", relion31())
    put(project / "Data" / "tomograms.star", tomograms_star())
    entries = {"rlnTomoParticlesFile": "Data/x.star", "rlnTomoTomogramsFile": "Data/tomograms.star"}
    put(project / "Data" / "optimisation_set.star", listing(entries))
    found = read_particles(project / "Data" / "x.star").optimisation_set
    (tmp_path / "scratch").mkdir()
    Path("Out").symlink_to(tmp_path / "scratch")
    for folder, expected in [("Out", project / "Out"), (tmp_path / "far", tmp_path / "far")]:
        said = found.write_for(Path(folder) / "x.star").read_text()
        assert f" {expected / 'x.star'}\n" in said
        assert f" {project / 'Data' / 'tomograms.star'}\n" in said


@pytest.mark.usefixtures("project")
def test_dots_in_a_path_are_gone_through_links(tmp_path):
    (tmp_path / "far" / "deep").mkdir(parents=True)
    Path("Link").symlink_to(tmp_path / "far" / "deep")
    put(tmp_path / "far" / "x.mrc")
    assert spelled(Path("Link/../x.mrc"), Path("y.star")) == str(tmp_path / "far" / "x.mrc")
    assert spelled(Path("Data/../Data/Boxes/1.mrc"), Path("y.star")) == "Data/Boxes/1.mrc"


def test_held_out_particles_name_the_file_of_their_class(project, tmp_path):
    for number, name in enumerate("ab"):
        put(project / "Data" / f"{name}.star", images(f"{number}@Boxes/stack.mrcs", f"Boxes/{number}.mrc"))
    labelled = read_labelled(["a=Data/a.star", "b=Data/b.star"], None)
    for target, expected in [
        (Path("F/p.star"), "Data/a.star"),
        (tmp_path / "p.star", f"{project}/Data/a.star"),
    ]:
        write_held_out(target, labelled, np.array([0, 3]), {})
        assert table(target)["cryoclassFile"][0] == expected
    one = put(
        project / "Data" / "one.star",
        images("Boxes/1.mrc", "Boxes/2.mrc").replace("PixelSize", "ClassNumber"),
    )
    write_held_out(Path("F/p.star"), read_labelled([str(one)], None), np.array([1]), {})
    assert list(table(Path("F/p.star"))["rlnImageName"]) == ["Data/Boxes/2.mrc"]


def test_images_of_one_stack_in_another_order_are_other_boxes(project):
    stack = np.arange(2 * 8 * 8 * 8).reshape(16, 8, 8).astype("f4")
    (project / "s.mrc").write_bytes(mrc(stack, ispg=401, mz=8))
    found = set()
    for order in (["1@s.mrc", "2@s.mrc"], ["2@s.mrc", "1@s.mrc"], ["01@./s.mrc", "2@s.mrc"]):
        found.add(FileSource(read_particles(put(project / "x.star", images(*order)))).fingerprint())
    assert len(found) == 2


def test_embed_reads_what_predict_wrote_elsewhere(cryoclass, trained, here):
    (here / "S").mkdir()
    (here / "S" / "Subtomograms").symlink_to(trained.root / "Extract" / "Subtomograms")
    text = trained.particles.read_text().replace("Extract/Subtomograms", "Subtomograms")
    (here / "S" / "particles.star").write_text(text)
    (here / "Extract").unlink()
    argv = (
        "predict",
        "S/particles.star",
        "--model",
        trained.model,
        "-o",
        "P",
        "--split-classes",
        "--device",
        "cpu",
    )
    assert cryoclass(*argv).status == 0
    for star in Path("P").glob("*.star"):
        names = list(table(star).get("rlnImageName", []))
        assert all(Path(name).is_file() for name in names)
    ran = cryoclass(
        "embed", "P/particles.star", "--model", trained.model, "--map", "pca", "-o", "E", "--device", "cpu"
    )
    assert ran.status == 0, ran.err


def test_a_project_below_an_at_sign_goes_all_the_way(cryoclass, trained, tmp_path, monkeypatch):
    here = tmp_path / "me@lab" / "proj"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    cut = ("extract", trained.coordinates, "--tomograms", trained.tomograms, "--box", 16, "-o", "../out/Ex")
    assert cryoclass(*cut).status == 0
    argv = ("predict", "../out/Ex/particles.star", "--model", trained.model, "-o", "P", "--device", "cpu")
    ran = cryoclass(*argv)
    assert ran.status == 0, ran.err
    assert "unreadable" not in Path("P/particles.star").read_text()
