"""Which file in a folder is the tomogram, which name is a guess, and what contradicts: said, or refused."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from mrc_files import mrc, ramp
from star_files import loop, optics, tomograms_star

from cryoclass.checks.pixels import check_files, check_volumes
from cryoclass.checks.tomograms import check_choice
from cryoclass.cutting import TomogramSource
from cryoclass.errors import ParticleError, StarError, VolumeError
from cryoclass.images import FileSource
from cryoclass.particles import read_particles
from cryoclass.settings import Extraction
from cryoclass.tomograms import Tomogram, find_tomograms
from cryoclass.volumes.mrc import write_volume

VOLUME, SERIES = (12, 20, 24), (7, 80, 96)  # z, y, x; the series' pixels are a quarter of the volume's


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "T").mkdir()
    return tmp_path / "T"


def put(name: str, shape: tuple[int, ...] = VOLUME, angpix: float = 10.0, **fields: object) -> Path:
    z, y, x = shape
    path = Path("T") / name
    path.write_bytes(mrc(ramp(shape), **{"cella": (x * angpix, y * angpix, z * angpix), **fields}))
    return path


def series(name: str, **fields: object) -> Path:
    return put(name, SERIES, 2.5, **{"ispg": 0, **fields})


def found(name: str, **options: object) -> Tomogram:
    return find_tomograms([name], Path("T"), Path("p.star"), **options)[name]


def levels(name: str, **options: object) -> list[str]:
    return [finding.level for finding in check_choice({name: found(name, **options)})]


# -------------------------------------------------------------------------- tilt series beside tomograms


@pytest.mark.parametrize("tail", ["_Vol.mrc", "_rec.mrc", "_full_rec.mrc", ".rec", "_rec_10.00Apx.mrc"])
@pytest.mark.parametrize("name", ["TS_01", "TS_01.mrc", "/data/TS_01.mrc.tomostar"])
def test_a_tilt_series_beside_its_tomogram_is_left_alone(name, tail):
    """AreTomo's headers say a stack of images, one section; IMOD's only that the sections lie closer than in a volume."""
    for fields in ({"mz": 1, "cella": (0, 0, 0)}, {"mz": SERIES[0]}):
        series("TS_01.mrc", **fields)
        tomogram = put(f"TS_01{tail}")
        assert found(name).paths == (tomogram,)
        assert found(name).series == Path("T/TS_01.mrc")
        assert levels(name) == ["ok"]
        tomogram.unlink()


def test_a_command_says_what_it_left_alone_and_what_the_volumes_told(cryoclass):
    for number in (1, 2):
        series(f"TS_0{number}.mrc", mz=1)
        put(f"TS_0{number}_Vol.mrc")
    names = {"rlnMicrographName": ["TS_01.tomostar", "TS_02.tomostar"]}
    Path("p.star").write_text(
        loop(
            {
                **names,
                **{
                    f"rlnCoordinate{axis}": [cell, cell]
                    for axis, cell in zip("XYZ", ("15", "13", "5"), strict=True)
                },
            }
        )
    )
    ran = cryoclass("extract", "p.star", "--tomograms", "T", "--box", 4, "-o", "E")
    assert ran.status == 0, ran.err
    left_alone = (
        "tomograms: TS_01.mrc is the tilt series of TS_01_Vol.mrc and is left alone (and 1 more like it)"
    )
    assert left_alone in ran.err
    assert "coordinates: pixels of the tomogram, from its first voxel, as the volumes tell" in ran.err
    assert "warning: the coordinates are taken as pixels of the tomogram" in ran.err


def test_stacks_of_older_and_aligned_names_are_left_alone():
    tomogram = put("TS_01.rec")
    for name in ("TS_01.st", "TS_01_ali.mrc", "TS_01_preali.mrc"):
        series(name, ispg=1, cella=(0, 0, 0))  # nothing but the name tells
    assert found("TS_01").paths == (tomogram,)


def test_halves_go_where_the_whole_is_there_and_are_summed_elsewhere():
    whole = put("TS_01_Vol.mrc")
    halves = [put(f"{stem}_{half}_Vol.mrc") for stem in ("TS_01", "TS_02") for half in ("EVN", "ODD")]
    assert found("TS_01").paths == (whole,)
    assert found("TS_02").paths == tuple(halves[2:])
    assert np.array_equal(found("TS_02").open().data, 2 * ramp(VOLUME))


def test_a_tomogram_without_a_tail_beside_another_is_no_tilt_series():
    """A copy that was denoised, or binned less, is as thick."""
    denoised = put("TS_01.mrc", (24, 40, 48), 5.0)
    put("TS_01_rec.mrc")
    assert found("TS_01").paths == (denoised,)
    assert found("TS_01_rec").paths == (Path("T/TS_01_rec.mrc"),)


def test_a_piece_of_a_tomogram_is_no_tilt_series():
    piece = put("TS_01.mrc", (6, 10, 12))  # as thin as a series, but not as wide as the tomogram
    put("TS_01_rec.mrc")
    assert found("TS_01").paths == (piece,)


@pytest.mark.parametrize(
    ("listing", "text"),
    [
        ("TS_01.tlt", "\n".join(map(str, range(7)))),
        ("TS_01.rawtlt", "-60.0\n-40\n-20\n0\n20\n40\n60\n\n"),
        (
            "TS_01.mrc.mdoc",
            "PixelSpacing = 2.5\n" + "".join(f"\n[ZValue = {n}]\nTiltAngle = 1\n" for n in range(7)),
        ),
        ("TS_01.mdoc", "".join(f"[ZValue = {n}]\n" for n in range(7))),
        (
            "TS_01.aln",
            "# AreTomo Alignment\n# RawSize = 96 80 7\n" + "".join(f"  {n}  1.0 2.0\n" for n in range(7)),
        ),
    ],
)
def test_as_many_sections_as_tilts_are_a_tilt_series(listing, text):
    """Its header may be that of a volume; alone in the folder it is refused, beside a reconstruction left alone."""
    series("TS_01.mrc", ispg=1, mz=7, cella=(0, 0, 0))
    assert levels("TS_01") == []
    Path("T", listing).write_text(text)
    assert levels("TS_01") == ["error"]
    put("TS_01_rec.mrc")
    assert levels("TS_01") == ["ok"]
    assert found("TS_01").paths[0].name == "TS_01_rec.mrc"


def test_a_stack_of_images_is_never_cut_without_a_word():
    """AreTomo's tomograms have such headers too, so that it may be right."""
    put("TS_01_Vol.mrc", ispg=0, mz=1)
    assert levels("TS_01") == ["warning"]
    put("TS_01_Vol.mrc", ispg=0)
    assert levels("TS_01") == []


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("name", "file", "guess"),
    [
        ("TS_01", "TS_01_10.00Apx.mrc", False),
        ("TS_01", "rec_TS_01.mrc", False),
        ("tomo_7.mrc", "7.rec", False),
        ("1", "TS_01.mrc", True),
        ("7", "cell7_bin4.mrc", True),
    ],
)
def test_a_match_by_number_alone_is_said(name, file, guess):
    put(file)
    assert found(name).is_guess is guess
    findings = list(check_choice({name: found(name)}))
    assert [finding.level for finding in findings] == ["warning"] * guess
    assert all(f"{name} is {file}" in finding.words for finding in findings)


def test_a_binning_is_not_the_number_of_a_tomogram():
    put("cell3_bin4.mrc")
    with pytest.raises(ParticleError, match="1 of 1 tomograms have no volume"):
        found("4")


def test_a_file_that_was_named_for_another_is_said():
    path = put("other.mrc")
    (tomogram,) = find_tomograms(["TS_01"], path, Path("p.star")).values()
    assert tomogram.is_guess


@pytest.mark.parametrize(
    ("names", "fine"),
    [
        (
            ("TS_01", "TS_01.tomostar", "./TS_01.mrc", "/a/b/TS_01.mrc", "b/TS_01.mrc"),
            True,
        ),  # spellings of one
        (("a/TS_01.mrc", "b/TS_01.mrc"), False),
        (("1", "TS_01"), False),
        (("rec_TS_01", "tomo_TS_01"), False),
    ],
)
def test_two_tomograms_never_get_one_file(names, fine):
    put("TS_01.mrc")
    if fine:
        assert len(find_tomograms(names, Path("T"), Path("p.star"))) == len(names)
    else:
        with pytest.raises(ParticleError, match=f"{names[0]} and {names[1]} both fit T/TS_01.mrc"):
            find_tomograms(names, Path("T"), Path("p.star"))


def test_a_name_that_is_listed_twice_is_refused():
    files = [str(put("a.mrc")), str(put("b.mrc"))]
    twice = {"rlnTomoName": ["TS_01", "TS_01"], "rlnTomoReconstructedTomogram": files}
    Path("t.star").write_text(loop(twice, "global"))
    with pytest.raises(StarError, match=r"t\.star lists TS_01 twice"):
        find_tomograms(["TS_01"], Path("t.star"), Path("p.star"))


def test_of_two_sizes_in_a_folder_the_asked_one_is_taken():
    sizes = {size: put(f"TS_01_{size:.2f}Apx.mrc", angpix=size) for size in (10.0, 5.0)}
    with pytest.raises(ParticleError, match="fits 2 files"):
        found("TS_01")
    for size, path in sizes.items():
        assert found("TS_01", angpix=size).paths == (path,)
    assert found("TS_01", angpix=4.996).paths == (sizes[5.0],)


def test_umlauts_that_were_taken_apart_are_the_same_letters():
    path = put(unicodedata.normalize("NFD", "Zelle_ü.mrc"))
    name = unicodedata.normalize("NFC", "Zelle_ü")
    assert found(name).paths == (path,)
    Path("p.star").write_text(loop({"rlnImageName": [f"T/{name}.mrc"]}))
    assert read_particles(Path("p.star")).image(0).path == path


@pytest.mark.parametrize("listed", [True, False])
def test_a_job_of_relion_may_be_given_for_its_tomograms(listed):
    job = Path("Tomograms/job009")
    (job / "tomograms").mkdir(parents=True)
    volume = job / "tomograms" / "rec_TS_01.mrc"
    write_volume(volume, ramp(VOLUME), 10.0)
    if listed:
        (job / "tomograms.star").write_text(tomograms_star(rlnTomoReconstructedTomogram=[str(volume)]))
    (tomogram,) = find_tomograms(["TS_01"], job, Path("p.star")).values()
    assert tomogram.paths == (volume,)
    assert (tomogram.tilt_series_angpix == 1.35) is listed


DYNAMO = "{tag} 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 {tomogram} 1 1 0 10 10 6 0 0\n"


def test_dynamos_map_names_the_tomograms():
    Path("c.tbl").write_text(DYNAMO.format(tag=1, tomogram=1) + DYNAMO.format(tag=2, tomogram=2))
    assert read_particles(Path("c.tbl")).tomograms == ["1", "2"]
    Path("indices_column20.doc").write_text("1 T/b 2.rec\n2   /elsewhere/a_7.90Apx.mrc\n\n")
    table = read_particles(Path("c.tbl"))
    assert table.tomograms == ["T/b 2.rec", "/elsewhere/a_7.90Apx.mrc"]
    assert (table.dialect, table.rivals) == (
        "particle list",
        (),
    )  # Warp's names change nothing of Dynamo's pixels
    Path("C.TBL").write_text(Path("c.tbl").read_text())
    assert read_particles(Path("C.TBL")).tomograms == table.tomograms
    Path("indices_column20.doc").write_text("1 T/b.rec\n")
    with pytest.raises(StarError, match=r"tomogram 2 is not in indices_column20\.doc, which has 1"):
        read_particles(Path("c.tbl"))


# ------------------------------------------------------------------------------------------ sizes


def source(columns: dict[str, list[str]], head: str = "", **options: object) -> TomogramSource:
    Path("p.star").write_text(head + loop(columns))
    table = read_particles(Path("p.star"))
    where = Path("t.star") if Path("t.star").exists() else Path("T")
    return TomogramSource(
        table, find_tomograms(table.tomograms, where, table.path), Extraction(box=8), **options
    )


CENTRED = {f"rlnCenteredCoordinate{axis}Angst": ["1.0"] for axis in "XYZ"}
PIXELS = {f"rlnCoordinate{axis}": ["40.0"] for axis in "XYZ"}
ONE = {"rlnOpticsGroup": ["1"]}
TILT = optics(rlnTomoTiltSeriesPixelSize=["2.5"])


@pytest.mark.parametrize(
    ("sizes", "places", "expected"),
    [
        ((96, 80, 48), CENTRED, []),
        ((103, 87, 55), CENTRED, []),  # within two voxels
        ((96, 48, 80), CENTRED, ["error"]),  # y and z exchanged: the centre lies elsewhere
        ((105, 80, 48), CENTRED, ["error"]),
        ((96, 48, 80), PIXELS, ["warning"]),  # counted from the first voxel
    ],
)
def test_sizes_that_contradict_the_volume_are_said(sizes, places, expected):
    path = put("TS_01.mrc")
    stated = {f"rlnTomoSize{axis}": [str(size)] for axis, size in zip("XYZ", sizes, strict=True)}
    known = {"rlnTomoTiltSeriesPixelSize": ["2.5"], "rlnTomoTomogramBinning": ["4"], **stated}
    Path("t.star").write_text(tomograms_star(rlnTomoReconstructedTomogram=[str(path)], **known))
    columns = {"rlnTomoName": ["TS_01"], **places, **ONE}
    findings = list(check_volumes(source(columns, TILT)))
    assert [finding.level for finding in findings] == expected
    assert all("24 x 20 x 12 voxels (x, y, z)" in finding.words for finding in findings)


def test_unbinned_sizes_that_differ_between_list_and_optics_are_said():
    path = put("TS_01.mrc")
    known = {"rlnTomoTiltSeriesPixelSize": ["5"], "rlnTomoTomogramBinning": ["2"]}
    sizes = {f"rlnTomoSize{axis}": [] for axis in "XYZ"}
    Path("t.star").write_text(tomograms_star(rlnTomoReconstructedTomogram=[str(path)], **known, **sizes))
    (finding,) = check_volumes(source({"rlnTomoName": ["TS_01"], **PIXELS, **ONE}, TILT))
    assert finding.level == "warning"
    assert "unbinned pixels of 5 A, the particles' optics groups 2.5 A" in finding.words


def test_a_name_that_contradicts_the_header_is_said_and_speaks_where_that_is_silent():
    put("TS_01_10.00Apx.mrc", angpix=5.0)
    columns = {"rlnMicrographName": ["TS_01"], **{label: ["4"] for label in PIXELS}}
    (finding,) = check_volumes(source(columns))
    assert (finding.level, finding.topic) == ("warning", "pixel size")
    put("TS_01_10.00Apx.mrc", angpix=1.0)
    silent = source(columns)
    assert (silent.angpix, list(check_volumes(silent))) == (10, [])


def test_uneven_pixels_are_an_error_unless_the_user_says_the_size():
    put("TS_01.mrc", cella=(240, 200, 240))
    columns = {"rlnMicrographName": ["TS_01"], **{label: ["4"] for label in PIXELS}}
    with pytest.raises(VolumeError, match="10 x 10 x 20 A along x, y and z") as caught:
        source(columns)
    assert "--tomogram-angpix" in caught.value.hint
    assert source(columns, tomogram_angpix=10.0).angpix == 10


# ----------------------------------------------------------------------------------------- boxes in files


def boxes(name: str = "b.mrc", **fields: object) -> FileSource:
    """Return a source of one box of eight pixels, with a STAR file that is silent of its size."""
    put(name, (8, 8, 8), **fields)
    Path("p.star").write_text(loop({"rlnImageName": [f"T/{name}"]}))
    return FileSource(read_particles(Path("p.star")))


def test_uneven_pixels_of_boxes_are_an_error_where_the_star_file_is_silent():
    with pytest.raises(VolumeError, match="10 x 10 x 20 A") as caught:
        boxes(cella=(80, 80, 160))
    assert "--angpix" in caught.value.hint
    Path("p.star").write_text(loop({"rlnImageName": ["T/b.mrc"], "rlnPixelSize": ["10"]}))
    stated = FileSource(read_particles(Path("p.star")))
    assert [finding.level for finding in check_files(stated, None)] == ["error"]
    assert [finding.level for finding in check_files(stated, 10.0)] == ["ok"]


def test_a_box_of_another_size_is_no_box_of_a_table_that_is_silent():
    """A sample of headers, which a check looks at, may miss it."""
    for number, size in enumerate((10.0, 5.0, 10.0)):
        put(f"b{number}.mrc", (8, 8, 8), size)
    columns = {"rlnImageName": [f"T/b{number}.mrc" for number in range(3)]}
    Path("p.star").write_text(loop(columns))
    table = read_particles(Path("p.star"))
    assert FileSource(table).read(2).shape == (8, 8, 8)
    with pytest.raises(VolumeError, match=r"b1\.mrc has pixels of 5 A, the others of 10 A"):
        FileSource(table).read(1)
    assert FileSource(table, 10.0).read(1).shape == (8, 8, 8)  # as the user says
    Path("p.star").write_text(loop({**columns, "rlnPixelSize": ["10"] * 3}))
    assert FileSource(read_particles(Path("p.star"))).read(1).shape == (8, 8, 8)  # as the table says


@pytest.mark.parametrize("image", ["T/b.mrc", "1@T/b.mrc"])
def test_a_stack_of_one_volume_is_a_volume(image):
    boxes(ispg=401, mz=8)
    Path("p.star").write_text(loop({"rlnImageName": [image]}))
    assert FileSource(read_particles(Path("p.star"))).read(0).shape == (8, 8, 8)


def test_a_cube_is_a_volume_whatever_its_name():
    assert boxes("b.mrcs").read(0).shape == (8, 8, 8)
    with pytest.raises(ParticleError, match="its images are 2D stacks"):
        boxes("b.mrcs", ispg=0, mz=1)  # eight tilts of eight pixels a side


def test_unsigned_bytes_are_said():
    put("b.mrc", (8, 8, 8))
    voxels = np.random.default_rng(0).integers(0, 256, (8, 8, 8)).astype("u1")
    Path("T/b.mrc").write_bytes(mrc(voxels.view("i1"), mode=0, cella=(80, 80, 80), dmin=0, dmax=255))
    Path("p.star").write_text(loop({"rlnImageName": ["T/b.mrc"]}))
    read = FileSource(read_particles(Path("p.star")))
    assert np.array_equal(read.read(0), voxels)
    assert [finding.level for finding in check_files(read, None)] == ["warning", "ok"]


def test_boxes_are_the_same_however_their_paths_are_spelt():
    prints = set()
    for number, spelt in enumerate(("T/b.mrc", "./T/../T/b.mrc", str(Path("T/b.mrc").absolute()))):
        if not number:
            put("b.mrc", (8, 8, 8))
        Path("p.star").write_text(loop({"rlnImageName": [spelt]}))
        prints.add(FileSource(read_particles(Path("p.star"))).fingerprint())
    assert len(prints) == 1
    put("c.mrc", (8, 8, 8))
    Path("p.star").write_text(loop({"rlnImageName": ["T/c.mrc"]}))
    assert FileSource(read_particles(Path("p.star"))).fingerprint() not in prints
