"""Dialects: every producer's particle file is recognised by its content, and anything else is refused in words."""

import re
from pathlib import Path

import numpy as np
import pytest
from star_files import (
    CENTRED,
    OPTICS,
    ORIGINS,
    PRODUCERS,
    TRAPS,
    XYZ,
    listing,
    loop,
    optics,
    relion4,
    relion5,
    relion30,
    relion31,
    twice,
    warp_3d,
)

from cryoclass.errors import ParticleError, StarError
from cryoclass.particles import Particles, read_particles
from cryoclass.star.document import StarFile
from cryoclass.star.frames import Frame
from cryoclass.star.particle_file import ParticleFile
from cryoclass.star.rows import Rows

MICROGRAPH, TOMO = "rlnMicrographName", "rlnTomoName"


def parse(text: str) -> StarFile:
    return StarFile.parse(text.encode(), Path("x.star"))


def particles(text: str) -> Particles:
    return Particles(file=ParticleFile.of(parse(text)))


@pytest.mark.parametrize(
    ("producer", "name", "contrast", "frame", "tomogram", "angpix"),
    [
        ("relion30", "RELION 3.0", "relion", Frame.TOMOGRAM_PIXELS, MICROGRAPH, 7.5),
        ("bare_numbers", "RELION 3.0", "relion", Frame.TOMOGRAM_PIXELS, MICROGRAPH, 2.23),
        ("relion31", "RELION 3.1", "relion", Frame.TOMOGRAM_PIXELS, MICROGRAPH, 7.5),
        ("optics_after_particles", "RELION 3.1", "relion", Frame.TOMOGRAM_PIXELS, MICROGRAPH, 7.5),
        ("relion4", "RELION 4", "relion", Frame.TILT_SERIES_PIXELS, TOMO, 7.5),
        ("relion5", "RELION 5", "relion", Frame.CENTRED_ANGSTROMS, TOMO, 7.5),
        ("relion5_picks", "RELION 5 picks", "relion", Frame.PICKED_ANGSTROMS, TOMO, None),
        ("warp_3d", "Warp 3D export", "warp", Frame.IMAGE_PIXELS, MICROGRAPH, 10.0),
        ("pytom", "Warp 3D export", "warp", Frame.IMAGE_PIXELS, MICROGRAPH, 10.96),
        (
            "refined_warp",
            "RELION refinement of Warp subtomograms",
            "warp",
            Frame.IMAGE_PIXELS,
            MICROGRAPH,
            5.0,
        ),
        ("warptools_2d", "WarpTools 2D export", "warp", Frame.IMAGE_PIXELS, TOMO, 12.0),
        ("warp_matching", "Warp template matching", "warp", Frame.FRACTION, MICROGRAPH, None),
        ("m_species", "M species", "m", Frame.ANGSTROMS, "wrpSourceName", None),
        ("m_to_relion", "Warp or M", "warp", Frame.ANGSTROMS, MICROGRAPH, None),
    ],
)
def test_each_producer_is_recognised(producer, name, contrast, frame, tomogram, angpix):
    table = particles(PRODUCERS[producer])
    assert (table.dialect, table.file.dialect.producer, table.frame) == (name, contrast, frame)
    assert table.file.dialect.tomogram == tomogram
    assert table.angpix is None if angpix is None else np.allclose(table.angpix, angpix)
    assert table.coordinates.shape == (2, 3)
    assert all(table.tomograms)
    words = table.in_words()
    assert name in words
    assert frame.value in words


@pytest.mark.parametrize("block", ["", "images", "particles", "TS_01.tomostar"])
def test_the_block_may_have_any_name(block):
    assert particles(relion30(block)).dialect == "RELION 3.0"


def test_data_particles_comes_before_other_tables_with_images():
    other = loop({"rlnImageName": ["template.mrc"]}, "images")
    assert len(particles(other + relion31())) == 2


def test_the_file_name_says_nothing(tmp_path):
    (tmp_path / "relion5_TS_01.tomostar").write_text(warp_3d())
    assert read_particles(tmp_path / "relion5_TS_01.tomostar").dialect == "Warp 3D export"


@pytest.mark.parametrize(
    "tomogram",
    [
        "TS_01.tomostar",
        "TS_01.mrc.tomostar",
        "/abs/path/TS_01.mrc.tomostar",
        "/abs/reconstruction/01006_10.73Apx.mrc",
        "tomo_ts01.mrc_15.00Apx.mrc",
        "TS_01_10.00Apx",
    ],
)
def test_warp_is_known_by_the_names_of_its_tomograms(tomogram):
    assert particles(warp_3d(tomogram)).dialect == "Warp 3D export"


@pytest.mark.parametrize("image", ["TS_0000000_10.00A.mrc", "sub/1006_0000001_5.36A.mrc", "x_2.45A.mrc"])
def test_warp_is_known_by_the_names_of_its_images(image):
    assert particles(relion30(tomogram="1006", rlnImageName=twice(image))).file.dialect.producer == "warp"


def test_optics_groups_or_angstrom_origins_are_newer_than_relion_30():
    for more in ({"rlnOpticsGroup": ["1", "1"]}, ORIGINS):
        assert particles(relion30(**more)).dialect == "RELION 3.1"


def test_relion5_picks_are_told_from_particles_by_what_they_lack():
    picks = {TOMO: twice("TS_54"), **CENTRED}
    assert particles(loop(picks)).frame is Frame.PICKED_ANGSTROMS
    assert particles(loop({**picks, "rlnTomoParticleName": ["a/1", "a/2"]})).frame is Frame.CENTRED_ANGSTROMS
    assert particles(optics() + loop(picks)).frame is Frame.CENTRED_ANGSTROMS


def test_centred_coordinates_come_before_pixels():
    table = particles(loop({TOMO: twice("TS_54"), **XYZ, **CENTRED}))
    assert table.frame is Frame.CENTRED_ANGSTROMS
    assert table.coordinates[0].tolist() == [-485.896912, 588.853933, 12.5]


def test_fractions_are_told_by_their_range():
    text = PRODUCERS["warp_matching"]
    assert particles(text.replace(" 0.75 ", " 1.004 ")).frame is Frame.FRACTION  # a peak just beyond the rim
    assert particles(text.replace("0.25 ", "-0.02 ")).frame is Frame.FRACTION
    assert particles(text.replace(" 0.75 ", " 2.5 ")).frame is not Frame.FRACTION
    assert particles(text.replace("0.25 ", "-5.25 ")).frame is not Frame.FRACTION
    whole = loop({MICROGRAPH: twice("TS_01"), **{label: twice("1") for label in XYZ}})
    assert particles(whole).frame is not Frame.FRACTION  # a voxel
    images = {"rlnImageName": twice("a.mrc"), **{label: twice("0.5") for label in XYZ}}
    assert particles(loop(images)).frame is not Frame.FRACTION  # cut boxes have pixels, be they few


def test_m_takes_the_first_of_several_temporal_samples():
    table = particles(PRODUCERS["m_species"])
    assert table.coordinates.tolist() == [[101.5, 101.5, 101.5], [201, 201, 201]]


def test_particles_without_coordinates_are_told_so():
    table = particles(loop({"rlnImageName": ["a.mrc"]}))
    assert "no coordinates" in table.in_words()
    with pytest.raises(ParticleError, match="has no coordinates"):
        table.coordinates  # noqa: B018 - reading is what raises
    assert table.tomograms == [""]


def test_particles_without_images_say_how_to_get_some():
    with pytest.raises(ParticleError, match="names no images") as caught:
        particles(PRODUCERS["relion5_picks"]).images  # noqa: B018
    assert "extract" in caught.value.hint


# ------------------------------------------------------------------------------------------ 2D stacks


@pytest.mark.parametrize(
    "text",
    [
        relion5(stacks=True),
        PRODUCERS["warptools_2d"],
        listing({"rlnTomoSubTomosAre2DStacks": "1"}, "general") + relion4(),
        optics(rlnImageDimensionality=["2"])
        + relion31().split("data_particles")[1].join(["data_particles", ""]),
        relion30(rlnImageName=twice("000001@stack.mrcs")),
    ],
    ids=["relion5", "warptools", "general", "dimensionality", "mrcs"],
)
def test_2d_stacks_are_seen(text):
    assert particles(text).stacks_2d
    assert "2D image stacks" in particles(text).in_words()


def test_one_optics_group_of_2d_stacks_makes_a_table_of_them():
    two = {label: cells * 2 for label, cells in OPTICS.items()}
    text = optics(**{**two, "rlnOpticsGroup": ["1", "2"], "rlnImageDimensionality": ["3", "2"]})
    images = {"rlnImageName": ["a.mrc", "b.mrc"], "rlnOpticsGroup": ["1", "2"]}
    assert particles(text + loop({**XYZ, **images})).stacks_2d


@pytest.mark.parametrize(
    ("producer", "bright"), [("m_species", True), ("warp_3d", True), ("relion31", False)]
)
def test_warp_and_m_make_particles_bright(producer, bright):
    assert particles(PRODUCERS[producer]).bright is bright


@pytest.mark.parametrize("text", [relion5(stacks=False), relion4(), relion31(), relion30(), warp_3d()])
def test_volumes_are_not_taken_for_2d_stacks(text):
    assert not particles(text).stacks_2d


def test_single_particles_have_no_third_coordinate():
    columns = {"rlnImageName": twice("1@x.mrcs"), MICROGRAPH: twice("m.mrc")}
    flat = {label: XYZ[label] for label in ("rlnCoordinateX", "rlnCoordinateY")}
    table = particles(loop({**columns, **flat}))
    assert table.dialect.endswith("single particles")
    assert table.frame is None


# ------------------------------------------------------------------------------------------ pixel sizes


def test_each_row_gets_the_pixel_size_of_its_optics_group():
    groups = {"rlnOpticsGroup": ["1", "2"], "rlnImagePixelSize": ["2.446", "3.446"]}
    two = {label: cells * 2 for label, cells in OPTICS.items()}
    text = loop({**two, **groups}, "optics") + loop({**XYZ, "rlnOpticsGroup": ["2", "1"]})
    assert particles(text).angpix.tolist() == [3.446, 2.446]


@pytest.mark.parametrize("group", ["1.000000", "1.", "1"])
def test_optics_groups_match_by_number(group):
    assert particles(relion31(rlnOpticsGroup=twice(group))).angpix.tolist() == [7.5, 7.5]


def test_an_optics_group_that_is_not_there_is_an_error():
    text = relion31(rlnOpticsGroup=["1", "7"])
    line = text.splitlines().index(next(row for row in text.splitlines() if row.endswith(" 7 "))) + 1
    words = f"x.star, line {line}: optics group 7 is not in data_optics, which has 1"
    with pytest.raises(StarError, match=re.escape(words)):
        particles(text).angpix  # noqa: B018


@pytest.mark.parametrize(
    ("columns", "table", "expected"),
    [
        ({"rlnPixelSize": ["3", "4"]}, {}, [3, 4]),
        ({"rlnPixelSize": ["3", "3"]}, {"rlnImagePixelSize": ["5"]}, [5, 5]),
        ({"rlnDetectorPixelSize": ["14", "7"], "rlnMagnification": ["28000", "10000"]}, {}, [5, 7]),
        (
            {"rlnPixelSize": ["3", "3"], "rlnDetectorPixelSize": ["14", "7"], "rlnMagnification": ["1", "1"]},
            {},
            [3, 3],
        ),
        ({}, {"rlnMicrographPixelSize": ["6"]}, [6, 6]),
        ({"rlnPixelSize": ["0", "0"]}, {}, None),
        ({"rlnPixelSize": ["3", "0"]}, {"rlnMicrographPixelSize": ["6"]}, [6, 6]),
        ({"rlnDetectorPixelSize": ["14", "7"], "rlnMagnification": ["0", "0"]}, {}, None),
        ({"rlnDetectorPixelSize": ["14", "7"]}, {}, [14, 7]),  # as PyTom writes
        ({"rlnDetectorPixelSize": ["14", "0"]}, {}, None),
        ({}, {}, None),
    ],
)
def test_the_pixel_size_is_looked_for_in_order(columns, table, expected):
    star = parse(
        loop({"rlnOpticsGroup": ["1"], **table}, "optics")
        + loop({**XYZ, "rlnOpticsGroup": ["1", "1"], **columns})
    )
    found = Rows(text=star, block=star.block("particles")).angpix
    assert found is None if expected is None else np.allclose(found, expected)


# ------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PRODUCERS["tomograms"], "a list of tomograms; give it with --tomograms"),
        (listing({"rlnJobTypeLabel": "relion.class3d", "rlnJobIsContinue": "0"}, "job"), "a RELION job"),
        (listing({"rlnJobType": "99"}, "job"), "a RELION job"),
        (listing({"rlnPipeLineJobCounter": "3"}, "pipeline_general"), "a RELION pipeline"),
        (loop({"wrpMovieName": ["a.mrc"], "wrpAngleTilt": ["3"]}), "a Warp tilt series (.tomostar)"),
        (loop({"motl_idx": ["1"], "orig_x": ["3"]}, "stopgap_motivelist"), "a STOPGAP motive list"),
        (loop({"col1": ["1"], "col2": ["2"]}), "holds no particle table"),
        (listing({"a": "1"}), "holds no particle table"),
        (loop({"rlnCoordinateX": ["1"], "rlnCoordinateY": ["2"]}), "has no column rlnCoordinateZ"),
    ],
)
def test_anything_else_is_refused_in_words(text, words):
    with pytest.raises(StarError, match=re.escape(words)):
        ParticleFile.of(parse(text))


def test_a_refusal_says_what_was_found():
    with pytest.raises(StarError) as caught:
        ParticleFile.of(parse(loop({"col1": ["1"], "col2": ["2"]})))
    assert "found col1, col2" in caught.value.hint


def test_an_empty_table_is_refused(tmp_path):
    (tmp_path / "x.star").write_bytes(TRAPS["no_rows"].replace(b"_x", b"_rlnImageName"))
    with pytest.raises(StarError, match="its table is empty"):
        read_particles(tmp_path / "x.star")
