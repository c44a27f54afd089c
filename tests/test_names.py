"""Tomogram names and the volumes they mean; what a list of tomograms says about them."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from mrc_files import mrc, ramp
from star_files import (
    listing,
    loop,
    optimisation_set,
    relion5,
    relion5_picks,
    relion31,
    tomograms_star,
    warp_3d,
)

from cryoclass.errors import ParticleError, StarError, UsageError, VolumeError
from cryoclass.particles import read_particles
from cryoclass.star.document import StarFile
from cryoclass.star.names import match, nearest, resolve, stem, volume_files
from cryoclass.star.optimisation import read_set
from cryoclass.tomograms import Tomogram, find_tomograms, read_tomograms
from cryoclass.volumes.mrc import write_volume

REC = "rlnTomoReconstructedTomogram"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Stand in an empty project folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def volume(path: Path, angpix: float = 10.0, shape: tuple[int, ...] = (3, 4, 5), add: float = 0) -> Path:
    write_volume(path, ramp(shape) + add, angpix)
    return path


def paths(*names: str) -> list[Path]:
    return [Path("tomograms") / name for name in names]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TS_01", "TS_01"),
        ("TS_01.tomostar", "TS_01"),
        ("TS_01.mrc.tomostar", "TS_01"),
        ("/abs/path/TS_01.mrc.tomostar", "TS_01"),
        ("/abs/reconstruction/01006_10.73Apx.mrc", "01006"),
        ("tomo_ts01.mrc_15.00Apx.mrc", "tomo_ts01"),
        ("F:\\data\\warp\\TS_01_10.00Apx.mrc", "TS_01"),
        ("rec_TS_01_half1.mrc", "rec_TS_01"),
        ("TS_01.mrc.gz", "TS_01"),
        ("TS_01.REC", "TS_01"),
        ("grid_8A.mrc", "grid_8A"),  # a name, no pixel size
        ("cell_8.mrc", "cell_8"),
        ("TS_01_7.90Apx.mrc", "TS_01"),
        ("TS_01_Vol.mrc", "TS_01"),
        ("TS_01_EVN_Vol.mrc", "TS_01"),
        ("TS_01_full_rec.mrc", "TS_01"),
        ("TS_01_rec_10.00Apx.mrc", "TS_01"),
        ("record.mrc", "record"),
        ("1_data.mrc", "1"),
        ("my.tomo.v2", "my.tomo.v2"),
        ("1006", "1006"),
        (".mrc", ".mrc"),
        ("", ""),
    ],
)
def test_a_stem_is_what_all_programs_agree_on(name, expected):
    assert stem(name) == expected


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("TS_01", "TS_01.mrc"),
        ("TS_01.mrc", "TS_01.mrc"),
        ("TS_01", "rec_TS_01.mrc"),
        ("TS_01", "tomo_TS_01.mrc"),
        ("rec_TS_01", "TS_01.mrc"),
        ("TS_01.tomostar", "TS_01_10.00Apx.mrc"),
        ("/abs/path/TS_01.mrc.tomostar", "TS_01.mrc_15.00Apx.mrc"),
        ("F:\\data\\TS_01.mrc", "TS_01.rec"),
        ("TS_01", "TS_01.mrc.gz"),
        ("6", "0006.mrc"),
        ("0006", "6.mrc"),
        ("1006", "01006_10.73Apx.mrc"),
        ("6", "TS_006.mrc"),
        ("015.tomostar", "015_10.00Apx.mrc"),
    ],
)
def test_a_name_finds_its_file_among_others(name, file):
    others = paths("TS_02.mrc", "TS_010.mrc", "TS_011_10.00Apx.mrc", "rec_TS_012.mrc", "16.mrc")
    assert match([name], [*others, *paths(file)]) == {name: paths(file)[0]}


@pytest.mark.parametrize(
    ("name", "file"), [("TS_01", "TS_010.mrc"), ("TS_01", "TS_1.mrc"), ("TS_01", "XTS_01.mrc"), ("", "0.mrc")]
)
def test_a_name_that_is_only_alike_finds_nothing(name, file):
    assert match([name], paths(file)) == {}


def test_the_nearest_spelling_wins_over_a_looser_one():
    files = paths("TS_01.mrc", "rec_TS_01.mrc")
    assert match(["TS_01"], files) == {"TS_01": files[0]}
    assert match(["rec_TS_01"], files) == {"rec_TS_01": files[1]}
    large = paths("TS_01.MRC", "TS_01_10.00Apx.mrc")
    assert match(["TS_01"], large) == {"TS_01": large[0]}
    cells = paths("cell_1a.mrc", "cell_2a.mrc")  # "_2a" is no pixel size here
    assert match(["cell_1a", "cell_2a"], cells) == {"cell_1a": cells[0], "cell_2a": cells[1]}


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("TS_01", ("TS_01_10.00Apx.mrc", "TS_01_5.00Apx.mrc")),
        ("TS_01", ("TS_01.mrc", "TS_01.rec")),
        ("6", ("006.mrc", "06.mrc")),
    ],
)
def test_a_name_that_fits_two_files_is_an_error_that_names_them(name, files):
    with pytest.raises(ParticleError, match=f"tomogram {name} fits 2 files") as caught:
        match([name], paths(*files))
    assert all(file in str(caught.value) for file in files)


def test_the_nearest_file_is_suggested():
    assert nearest("TS_O1", paths("TS_01.mrc", "grid7.mrc")) == "TS_01.mrc"
    assert nearest("TS_01", []) == ""


# ------------------------------------------------------------------------------------------ folders and paths


def test_the_volumes_of_a_folder(tmp_path):
    with pytest.raises(UsageError, match="holds no tomogram"):
        volume_files(tmp_path)
    names = ["a.rec", "b.mrc", "b_half1.mrc", "c.MAP", "d.mrc.gz"]
    for name in (*names, ".hidden.mrc", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in volume_files(tmp_path)] == names


def test_paths_are_tried_from_here_then_the_star_file_then_its_parents(project):
    star = project / "Extract" / "job001" / "particles.star"
    places = [project / "other", star.parent, star.parent.parent, project]
    for place in places:
        (place / "sub").mkdir(parents=True)
    (project / "sub" / "x.mrc").write_text("")
    (star.parent / "sub" / "x.mrc").write_text("")
    assert resolve("sub/x.mrc", star) == Path("sub/x.mrc")  # the project folder, where we stand
    (star.parent / "sub" / "x.mrc").unlink()
    with contextlib.chdir(star.parent):
        assert resolve("sub/x.mrc", Path(star.name)) == project / "sub" / "x.mrc"
    (project / "sub" / "x.mrc").unlink()
    (star.parent.parent / "sub" / "x.mrc").write_text("")
    assert resolve("sub/x.mrc", star) == star.parent.parent / "sub" / "x.mrc"
    (star.parent / "sub" / "x.mrc").write_text("")
    assert resolve("sub/x.mrc", star) == star.parent / "sub" / "x.mrc"
    assert resolve("sub\\x.mrc", star) == star.parent / "sub" / "x.mrc"
    assert resolve(str(star.parent / "sub" / "x.mrc"), star) == star.parent / "sub" / "x.mrc"
    assert resolve("sub/y.mrc", star) is None


@pytest.mark.parametrize(
    "name", ["", ".", "sub", "/", "x" * 5000, "a/" * 3000, "nul\0l", "F:/data/x.mrc", "~"]
)
def test_what_names_no_file_is_not_found(name, project):
    (project / "sub").mkdir()
    assert resolve(name, project / "particles.star") is None


# ------------------------------------------------------------------------------------------ find_tomograms


def test_a_folder_gives_each_name_its_volume(project):
    one, two = volume(project / "t/TS_01_10.00Apx.mrc"), volume(project / "t/TS_02_10.00Apx.mrc")
    found = find_tomograms(["TS_02.tomostar", "TS_01.tomostar"], project / "t", project / "x.star")
    assert {name: tomogram.paths for name, tomogram in found.items()} == {
        "TS_01.tomostar": (one,),
        "TS_02.tomostar": (two,),
    }


def test_one_volume_or_one_file_in_a_folder_serves_a_file_without_names(project):
    only = volume(project / "t/anything.mrc")
    for where in (only, only.parent):
        assert find_tomograms([""], where, project / "x.star")[""].paths == (only,)
    assert find_tomograms(["TS_01"], only, project / "x.star")["TS_01"].paths == (only,)
    with pytest.raises(ParticleError, match="1 of 1 tomograms have no volume"):
        find_tomograms(["TS_01"], only.parent, project / "x.star")
    with pytest.raises(ParticleError, match="2 of 2 tomograms have no volume"):
        find_tomograms(["TS_01", "TS_02"], only, project / "x.star")  # it can be only one of them


def test_names_may_be_paths_themselves(project):
    volume(project / "tomograms/TS_01.mrc")
    found = find_tomograms(["tomograms/TS_01.mrc"], None, project / "x.star")
    assert found["tomograms/TS_01.mrc"].paths == (Path("tomograms/TS_01.mrc"),)
    names = ["tomograms/TS_01.mrc", "tomograms", ""]
    assert list(find_tomograms(names, None, project / "x.star", skip_missing=True)) == names[:1]


def test_missing_tomograms_are_counted_and_the_nearest_file_is_told(project):
    volume(project / "t/TS_01.mrc")
    names = ["TS_01", "TS_02", "TS_03"]
    with pytest.raises(
        ParticleError, match=r"2 of 3 tomograms have no volume in .*, the first is TS_02"
    ) as caught:
        find_tomograms(names, project / "t", project / "x.star")
    assert "The nearest file is TS_01.mrc" in str(caught.value)
    assert "--skip-missing" in caught.value.hint
    assert list(find_tomograms(names, project / "t", project / "x.star", skip_missing=True)) == ["TS_01"]


def test_no_volume_at_all_is_an_error_even_with_skip_missing(project):
    volume(project / "t/grid7.mrc")
    for where in (project / "t", None):
        with pytest.raises(ParticleError, match="2 of 2 tomograms have no volume"):
            find_tomograms(["TS_01", "TS_02"], where, project / "x.star", skip_missing=True)
    with pytest.raises(UsageError, match="no such file or folder"):
        find_tomograms(["TS_01"], project / "nowhere", project / "x.star")


def test_two_halves_in_a_folder_are_one_tomogram(project):
    volume(project / "t/rec_TS_01_half1.mrc")
    volume(project / "t/rec_TS_01_half2.mrc", add=100)
    found = find_tomograms(["TS_01"], project / "t", project / "x.star")["TS_01"]
    assert np.array_equal(found.open().data, 2 * ramp() + 100)
    (project / "t/rec_TS_01_half2.mrc").unlink()
    assert len(find_tomograms(["TS_01"], project / "t", project / "x.star")["TS_01"].paths) == 1
    (project / "t/rec_TS_01_half1.mrc").rename(project / "t/rec_TS_01_half2.mrc")
    assert len(find_tomograms(["TS_01"], project / "t", project / "x.star")["TS_01"].paths) == 1


# ------------------------------------------------------------------------------------------ tomograms.star


def listed(project: Path, **changes: list[str]) -> Tomogram:
    (project / "tomograms.star").write_text(tomograms_star(**changes))
    return read_tomograms(project / "tomograms.star")["TS_01"]


def test_relion5_says_volume_pixel_size_binning_and_unbinned_size(project):
    path = volume(project / "Tomograms/job006/tomograms/rec_TS_01.mrc", angpix=10.0)
    tomogram = listed(project)
    assert tomogram.paths == (path.relative_to(project),)
    assert (tomogram.tilt_series_angpix, tomogram.binning) == (1.35, 7.407407)
    geometry = tomogram.geometry()
    assert geometry.shape == (5, 4, 3)  # x, y, z
    assert geometry.unbinned_size == (4000, 4001, 2000)
    assert geometry.size_angstroms == pytest.approx([5400, 5401.35, 2700])
    found = find_tomograms(["TS_01"], project / "tomograms.star", project / "x.star")
    assert found == {"TS_01": tomogram}


@pytest.mark.parametrize("size", ["-999", "-999.000000", "0"])
def test_an_unknown_size_is_taken_from_the_volume(size, project):
    volume(project / "Tomograms/job006/tomograms/rec_TS_01.mrc", angpix=10.0)
    tomogram = listed(project, rlnTomoSizeY=[size])
    assert tomogram.unbinned_size is None
    assert tomogram.geometry().size_angstroms.tolist() == [50, 40, 30]
    without = {f"rlnTomoSize{axis}": [] for axis in "XYZ"}
    assert listed(project, **without).unbinned_size is None


def test_halves_are_summed_and_half_of_a_tomogram_is_none(project):
    halves = {REC: [], f"{REC}Half1": ["h1.mrc"], f"{REC}Half2": ["h2.mrc"]}
    volume(project / "h1.mrc")
    assert listed(project, **halves).paths == ()
    volume(project / "h2.mrc", add=100)
    summed = listed(project, **halves).open()
    assert (summed.path.name, summed.data.dtype) == ("h1.mrc", np.float32)
    assert np.array_equal(summed.data, 2 * ramp() + 100)
    volume(project / "h2.mrc", shape=(3, 4, 6))
    with pytest.raises(VolumeError, match="differ in size"):
        listed(project, **halves).open()


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({REC: ["rec.mrc"], f"{REC}Denoised": ["denoised.mrc"]}, ["rec.mrc"]),
        ({REC: [], f"{REC}Denoised": ["denoised.mrc"], f"{REC}Half1": ["h1.mrc"], f"{REC}Half2": ["h2.mrc"]}, ["denoised.mrc"]),
        ({REC: [], f"{REC}Denoised": ["N/A"], f"{REC}Half1": ["h1.mrc"], f"{REC}Half2": ["h2.mrc"]}, ["h1.mrc", "h2.mrc"]),
        ({REC: ['""'], "rlnTomoDenoisedTomogram": ["denoised.mrc"]}, ["denoised.mrc"]),
        ({REC: ["None"]}, []),
        ({REC: []}, []),
    ],
)  # fmt: skip
def test_which_of_several_volumes_is_used(columns, expected, project):
    for name in ("rec.mrc", "denoised.mrc", "h1.mrc", "h2.mrc"):
        volume(project / name)
    assert [path.name for path in listed(project, **columns).paths] == expected


def test_a_listed_tomogram_without_a_volume_is_missing(project):
    (project / "tomograms.star").write_text(tomograms_star())
    with pytest.raises(ParticleError, match="1 of 1 tomograms have no volume in") as caught:
        find_tomograms(["TS_01"], project / "tomograms.star", project / "x.star")
    assert "--tomograms" in caught.value.hint
    assert "--skip-missing" not in caught.value.hint


@pytest.mark.parametrize("name", ["./tomograms/TS_01.mrc", "tomograms/TS_01.mrc"])
def test_a_list_of_micrographs_is_a_list_of_tomograms(name, project):
    path = volume(project / "tomograms/TS_01.mrc")
    (project / "mics.star").write_text(loop({"rlnMicrographName": [name]}, "micrographs"))
    for asked in (name, "TS_01.tomostar"):
        found = find_tomograms([asked], project / "mics.star", project / "x.star")
        assert found[asked].paths[0].resolve() == path


def test_a_star_file_that_lists_no_tomograms_is_refused(project):
    for text in (loop({"rlnCoordinateX": ["1"]}), relion5_picks()):
        (project / "x.star").write_text(text)
        with pytest.raises(StarError, match="is a table of particles, no list of tomograms"):
            read_tomograms(project / "x.star")


# ------------------------------------------------------------------------------------------ pixel sizes


def test_header_and_list_may_differ_by_one_percent(project):
    path = project / "Tomograms/job006/tomograms/rec_TS_01.mrc"
    volume(path, angpix=10.05)  # 1.35 A binned 7.407407 times is 10 A
    assert listed(project).angpix() == pytest.approx(10.05)
    volume(path, angpix=13.5)
    with pytest.raises(
        ParticleError, match=r"the header says 13.5 A per voxel, but tomograms.star implies 10 A"
    ):
        listed(project).angpix()
    assert listed(project).angpix(13.5) == 13.5  # the way out that the message names
    assert listed(project).angpix(12.0) == 12.0
    assert listed(project, rlnTomoTomogramBinning=[]).angpix() == pytest.approx(13.5)


def test_a_header_that_says_nothing_leaves_it_to_the_list(project):
    path = project / "Tomograms/job006/tomograms/rec_TS_01.mrc"
    path.parent.mkdir(parents=True)
    path.write_bytes(mrc(ramp(), cella=(5, 4, 3)))
    assert listed(project).angpix() == pytest.approx(10.0, rel=1e-6)
    with pytest.raises(ParticleError, match="does not say its pixel size") as caught:
        listed(project, rlnTomoTomogramBinning=[]).angpix()
    assert caught.value.hint == "Give --tomogram-angpix."
    assert listed(project, rlnTomoTomogramBinning=[]).geometry(8.0).angpix == 8.0


def test_a_stack_of_volumes_is_no_tomogram(project):
    (project / "x.mrc").write_bytes(mrc(ramp((6, 4, 5)), ispg=401, mz=3))
    with pytest.raises(VolumeError, match="is a stack of volumes"):
        Tomogram(name="x", paths=(project / "x.mrc",)).open()


def test_a_stack_of_images_is_no_tomogram(project):
    with pytest.raises(VolumeError, match="is a stack of images, no tomogram"):
        Tomogram(name="x", paths=(volume(project / "x.mrcs"),)).open()


def test_a_tomogram_that_was_written_anew_is_opened_anew(project):
    tomogram = Tomogram(name="x", paths=(volume(project / "x.mrc"),))
    assert tomogram.open() is tomogram.open()
    (project / "x.mrc").unlink()
    volume(project / "x.mrc", add=100)
    assert np.array_equal(tomogram.open().data, ramp() + 100)


@pytest.mark.parametrize(
    ("text", "file", "bright"),
    [
        (warp_3d(), "TS_01.mrc", True),
        (relion31(), "TS_01.mrc", False),
        (relion31(), "TS_01_10.00Apx.mrc", True),
        (relion31(), "TS_01_Apx.mrc", False),
        (relion5(), "rec_TS_01.mrc", False),
    ],
)
def test_warp_makes_particles_bright_and_the_others_dark(text, file, bright, project):
    (project / "x.star").write_text(text)
    table = read_particles(project / "x.star")
    assert Tomogram(name="TS_01", paths=(Path(file),)).is_bright(by_table=table.bright) is bright


# ------------------------------------------------------------------------------------------ optimisation sets


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize("folder", ["", "Extract/job020"])
def test_an_optimisation_set_leads_to_particles_and_tomograms(looped, folder, project):
    volume(project / "Tomograms/job006/tomograms/rec_TS_01.mrc")
    there = project / folder
    there.mkdir(parents=True, exist_ok=True)
    (there / "particles.star").write_text(relion5(stacks=False))
    (there / "tomograms.star").write_text(tomograms_star())
    prefix = f"{folder}/" if folder else ""  # paths start in the project folder, not beside the set
    text = optimisation_set(f"{prefix}particles.star", f"{prefix}tomograms.star", looped)
    (there / "optimisation_set.star").write_text(text)
    particles = read_particles(there / "optimisation_set.star")
    assert len(particles) == 2
    assert particles.path.samefile(there / "particles.star")
    assert particles.optimisation_set.path == there / "optimisation_set.star"
    assert list(read_tomograms(there / "optimisation_set.star")) == ["TS_01"]
    found = find_tomograms(particles.tomograms, there / "optimisation_set.star", particles.path)
    assert found["TS_01"].binning == 7.407407


@pytest.mark.parametrize("looped", [False, True])
def test_a_set_for_new_particles_names_them_and_what_lay_beside_the_old_one(looped, project):
    there = project / "Warp"
    there.mkdir()
    (there / "run.star").write_text(relion31())
    (there / "tomograms.star").write_text(tomograms_star())
    (there / "motion.star").touch()
    entries = {
        "rlnTomoParticlesFile": "run.star",
        "rlnTomoTomogramsFile": "tomograms.star",
        "rlnTomoTrajectoriesFile": "motion.star",
        "rlnTomoManifoldsFile": "gone.star",
    }
    text = loop({label: [name] for label, name in entries.items()}) if looped else listing(entries)
    (there / "run_optimisation_set.star").write_text(text)
    found = read_particles(there / "run.star").optimisation_set
    for particles, name in [("particles", "optimisation_set"), ("class001", "class001_optimisation_set")]:
        written = found.write_for(Path("Predict") / f"{particles}.star")
        assert written == Path("Predict") / f"{name}.star"
        star = StarFile.read(written)
        values = [
            star.column(star.blocks[0], label)[0] if looped else star.blocks[0].items[label]
            for label in entries
        ]
        expected = [f"Predict/{particles}.star", "Warp/tomograms.star", "Warp/motion.star", "gone.star"]
        assert values == expected


def test_only_a_set_that_names_the_particles_is_theirs(project):
    for name in ("mine.star", "other.star"):
        (project / name).write_text(relion31())
    (project / "optimisation_set.star").write_text(optimisation_set("other.star", "tomograms.star"))
    assert read_particles(project / "mine.star").optimisation_set is None
    assert read_particles(project / "other.star").optimisation_set is not None


def test_what_names_no_particles_is_no_set(project):
    for text in (
        tomograms_star(),
        loop({"rlnTomoParticlesFile": []}),
        listing({"rlnTomoTomogramsFile": "t.star"}),
    ):
        (project / "x.star").write_text(text)
        assert read_set(project / "x.star") is None
    assert read_set(project / "gone.star") is None


def test_an_optimisation_set_that_leads_nowhere_or_to_itself_is_refused(project):
    path = project / "set.star"
    path.write_text(optimisation_set("gone.star", "gone.star"))
    with pytest.raises(StarError, match=r"names gone.star, which does not exist"):
        read_particles(path)
    with pytest.raises(StarError, match=r"names gone.star, which does not exist"):
        read_tomograms(path)
    path.write_text(optimisation_set("set.star", "set.star"))
    with pytest.raises(StarError, match="it is an optimisation set"):
        read_particles(path)
    with pytest.raises(StarError, match="lists no tomograms"):
        read_tomograms(path)
    path.write_text(optimisation_set('""', '""'))
    with pytest.raises(StarError, match="it is an optimisation set"):
        read_particles(path)
