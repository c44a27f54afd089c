"""One loop reads many boxes, bad ones come with reasons, and what is known of a source is measured once.

At the end, the two sources of boxes: tomograms and files.
"""

import re
import threading
import time

import numpy as np
import pytest
from mrc_files import mrc, ramp
from star_files import ORIGINS, TILT_SERIES, loop, optics, twice

from cryoclass.cutting import TomogramSource
from cryoclass.errors import OutputError, ParticleError, VolumeError
from cryoclass.images import FileSource
from cryoclass.particles import read_particles
from cryoclass.settings import Extraction
from cryoclass.sources import (
    Boxes,
    InvertedSource,
    JoinedSource,
    RescaledSource,
    fastest_order,
    read_many,
    take_sample,
)
from cryoclass.tomograms import Tomogram
from cryoclass.volumes.mrc import write_volume


class Numbered:
    """Boxes that say their own number; some cannot be read, and some are listed nowhere."""

    def __init__(self, count=12, bad=(), unlisted=(), box=4, angpix=10.0):
        self.count, self.bad, self.box, self.angpix = count, set(bad) | set(unlisted), box, angpix
        self.order = np.array([row for row in reversed(range(count)) if row not in unlisted])
        self.reads, self.threads = [], set()

    def __len__(self):
        return self.count

    def read(self, index):
        self.reads.append(index)
        self.threads.add(threading.get_ident())
        if index in self.bad:
            raise VolumeError(f"row {index} is bad.")
        return np.random.default_rng(index).normal(index, 1, (self.box,) * 3).astype(np.float32)

    def fingerprint(self):
        return f"numbered {self.count}"


@pytest.mark.parametrize("workers", [1, 3])
def test_boxes_come_in_the_order_asked_for_and_bad_ones_with_a_reason(workers):
    rows = [7, 2, 9, 2, 0]
    read = list(read_many(Numbered(bad=[9]), rows, workers))
    assert [row for row, _ in read] == rows
    assert read[2][1] == "row 9 is bad."
    for row, box in read[:2]:
        np.testing.assert_array_equal(box, Numbered().read(row))


def test_as_much_is_read_ahead_as_was_allowed_and_no_more():
    source = Numbered(count=40)
    stream = read_many(source, range(40), workers=1, ahead=6)
    next(stream)
    deadline = time.monotonic() + 10
    while len(source.reads) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert source.reads == list(range(7))
    stream.close()
    assert len(source.reads) == 7


def test_whoever_stops_asking_does_not_wait_for_the_rest():
    class Slow(Numbered):
        def read(self, index):
            time.sleep(0.02)
            return super().read(index)

    source = Slow(count=40)
    stream = read_many(source, range(40), workers=1, ahead=30)
    next(stream)
    stream.close()
    assert len(source.reads) < 10


def test_threads_share_the_reading():
    gate = threading.Barrier(2, timeout=10)

    class Waiting(Numbered):
        def read(self, index):
            gate.wait()  # passes only where two threads read at once
            return super().read(index)

    assert len(list(read_many(Waiting(), range(8), workers=2))) == 8


def test_what_is_no_fault_of_a_particle_ends_the_reading():
    class Full(Numbered):
        def read(self, index):
            raise OutputError(f"box {index}: the disk is full.")

    with pytest.raises(OutputError):
        list(read_many(Full(), range(8), workers=2))


def test_rows_that_a_source_does_not_list_come_last():
    source = Numbered(unlisted=[1, 4])
    assert fastest_order(source, np.array([0, 1, 4, 5, 9])) == [9, 5, 0, 1, 4]


def test_a_sample_is_the_mean_and_the_hash_of_what_can_be_read():
    source = Numbered(bad=[3])
    sample = take_sample(source)
    good = [row for row in range(12) if row != 3]
    assert sorted(sample.rows) == good
    assert sample.problems == ("row 3 is bad",)
    assert sample.size == 12
    np.testing.assert_allclose(
        sample.mean, np.mean([Numbered().read(row) for row in good], axis=0), rtol=1e-5
    )
    assert sample.digest == take_sample(Numbered(bad=[3])).digest
    assert sample.digest != take_sample(InvertedSource(Numbered(bad=[3]))).digest


def test_a_sample_of_a_large_table_is_spread_and_small():
    source = Numbered(count=5000, box=2)
    rows = take_sample(source).rows
    assert len(rows) == 200
    assert {0, 4999} <= set(rows)
    assert np.diff(np.sort(rows)).max() < 30


def test_a_sample_with_a_time_limit_stops():
    source = Numbered(count=500, box=2)
    assert take_sample(source, most_seconds=0.0).size == 1


def test_contrast_and_hash_are_measured_once_a_run():
    source = Numbered()
    boxes = Boxes(source=source)
    assert boxes.sample.contrast == boxes.sample.contrast
    assert boxes.fingerprint == boxes.fingerprint
    assert len(source.reads) == 12


def test_other_boxes_have_another_fingerprint():
    plain = Numbered()
    sources = [
        plain,
        Numbered(count=13),
        InvertedSource(plain),
        RescaledSource(plain, 4, 20.0),
        RescaledSource(plain, 6, 20.0),
        JoinedSource([plain, plain]),
    ]
    assert len({source.fingerprint() for source in sources}) == len(sources)
    elsewhere = Numbered()
    elsewhere.fingerprint = lambda: "the same voxels as far as was looked, in other files"
    assert Boxes(source=elsewhere).fingerprint != Boxes(source=plain).fingerprint
    changed = Numbered()
    changed.read = lambda index: np.full((4, 4, 4), index, np.float32)
    assert Boxes(source=changed).fingerprint != Boxes(source=plain).fingerprint


# ------------------------------------------------------------------------------------- out of tomograms

VOXELS = np.random.default_rng(0).normal(5, 2, (20, 24, 28)).astype(np.float32)  # z, y, x
PLAIN = {"box": 8, "norm": False, "invert": "no"}


@pytest.fixture
def cut(tmp_path):
    """Return a function that makes a source of boxes around coordinates (x, y, z), all in one tomogram of 10 A."""
    write_volume(tmp_path / "TS_01.mrc", VOXELS, 10.0)

    def source(*coordinates, head="", columns=None, name="TS_01.mrc", tomogram=None, **settings):
        rows = {
            f"rlnCoordinate{axis}": [str(values[i]) for values in coordinates] for i, axis in enumerate("XYZ")
        }
        names = {"rlnMicrographName": ["TS_01"] * len(coordinates)}
        (tmp_path / "x.star").write_text(head + loop({**names, **rows, **(columns or {})}))
        (tmp_path / "TS_01.mrc").rename(tmp_path / name)
        volume = tomogram or Tomogram(name="TS_01", paths=(tmp_path / name,))
        particles = read_particles(tmp_path / "x.star")
        return TomogramSource(particles, {"TS_01": volume}, Extraction(**{**PLAIN, **settings}))

    return source


@pytest.mark.parametrize(
    ("coordinate", "truncated", "voxel"),
    [
        *((10, False, 10), (10.49, False, 10), (10.5, False, 11), (11.5, False, 12), (10.9, False, 11)),
        *((10.9, True, 10), (-0.5, False, 0), (-0.6, False, -1), (-0.6, True, 0)),
    ],
)
def test_the_nearest_voxel_becomes_the_centre(cut, coordinate, truncated, voxel):
    source = cut((coordinate, 12, 9), relion_rounding=truncated)
    assert source.placements[0].centres.tolist() == [[voxel, 12, 9]]
    assert source.placements[0].positions.tolist() == [[coordinate, 12, 9]]
    assert (len(source), source.box, source.angpix) == (1, 8, 10)


def test_a_plain_box_is_what_stands_in_the_tomogram(cut):
    assert np.array_equal(cut((10, 12, 9)).read(0), VOXELS[5:13, 8:16, 6:14])


@pytest.mark.parametrize(
    ("invert", "name", "sign"),
    [
        ("no", "TS_01.mrc", 1),
        ("yes", "TS_01.mrc", -1),
        ("auto", "TS_01.mrc", -1),  # RELION leaves protein dark
        ("no", "TS_01_10.00Apx.mrc", 1),
        ("yes", "TS_01_10.00Apx.mrc", -1),
        ("auto", "TS_01_10.00Apx.mrc", 1),  # Warp makes it bright
    ],
)
def test_boxes_are_made_bright(cut, invert, name, sign):
    box = cut((10, 12, 9), name=name, invert=invert).read(0)
    assert np.array_equal(box, sign * VOXELS[5:13, 8:16, 6:14])


def test_a_table_of_warp_has_bright_particles(cut):
    warp = {"rlnImageName": ["TS_01_0000000_10.00A.mrc"], "rlnPixelSize": ["10"]}
    assert np.array_equal(cut((10, 12, 9), columns=warp, invert="auto").read(0), VOXELS[5:13, 8:16, 6:14])


def test_the_background_is_what_lies_outside_the_radius(cut):
    box = cut((10, 12, 9), norm=True, bg_radius=2.0).read(0)
    axis = np.arange(8) - 4
    outside = sum(part**2 for part in np.ix_(axis, axis, axis)) > 4
    assert box[outside].mean() == pytest.approx(0, abs=1e-6)
    assert box[outside].std() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("place", "edge", "words"),
    [
        ((4, 4, 4), "skip", None),
        ((24, 20, 16), "skip", None),
        ((3, 4, 4), "replicate", None),
        ((3, 4, 4), "skip", "x=3 y=4 z=4 sticks out of the tomogram TS_01.mrc (28 x 24 x 20)"),
        ((24, 20, 17), "skip", "x=24 y=20 z=17 sticks out of"),
        ((24, 20, 24), "replicate", "x=24 y=20 z=24 lies outside the tomogram"),
        ((-4, 4, 4), "replicate", "x=-4 y=4 z=4 lies outside"),
        ((1e300, 4, 4), "replicate", f"x={2**40} y=4 z=4 lies outside"),
    ],
)
def test_boxes_at_the_edge_are_filled_or_skipped_and_those_outside_refused(cut, place, edge, words):
    source = cut(place, edge=edge)
    if words is None:
        assert source.read(0).shape == (8, 8, 8)
        return
    with pytest.raises(VolumeError, match=re.escape(words)):
        source.read(0)


@pytest.mark.parametrize(
    ("value", "words"), [(3.0, "constant: every voxel is 3"), (np.nan, "1 voxels that are NaN")]
)
def test_a_box_that_shows_nothing_is_refused(cut, tmp_path, value, words):
    spoilt = VOXELS.copy()
    spoilt[9, 12, 10] = value
    if np.isfinite(value):
        spoilt[:] = value
    (tmp_path / "spoilt.mrc").write_bytes(mrc(spoilt, cella=(280, 240, 200)))
    source = cut((10, 12, 9), tomogram=Tomogram(name="TS_01", paths=(tmp_path / "spoilt.mrc",)))
    with pytest.raises(VolumeError, match=words):
        source.read(0)


@pytest.mark.parametrize(("shifts", "places"), [(True, [9.85, 12.2]), (False, [10, 12])])
def test_refined_origins_are_subtracted(cut, shifts, places):
    source = cut((10, 12, 9), (12, 12, 9), columns=ORIGINS, shifts=shifts)  # 1.5 and -2 A
    assert source.placements[0].positions[:, 0] == pytest.approx(places)


@pytest.mark.parametrize(("head", "expected"), [(optics(**TILT_SERIES), 10.0), ("", 20.0)])
def test_unbinned_pixels_are_those_of_the_optics_or_else_of_the_list(cut, tmp_path, head, expected):
    columns = {"rlnTomoName": ["TS_01"], "rlnOpticsGroup": ["1"]}
    tomogram = Tomogram(name="TS_01", paths=(tmp_path / "TS_01.mrc",), tilt_series_angpix=2.5)
    source = cut((80, 80, 80), head=head, columns=columns, tomogram=tomogram)
    assert source.placements[0].positions[0].tolist() == [expected] * 3


def test_what_coordinates_count_is_what_the_user_says(cut):
    assert cut((80, 80, 80), coords_angpix=1.25).placements[0].positions[0].tolist() == [10, 10, 10]


def test_a_wished_pixel_size_is_met(cut):
    source = cut((14, 12, 10), box=4, angpix=20.0)
    assert (source.angpix, source.placements[0].plan.cut) == (20, 8)
    assert source.read(0).shape == (4, 4, 4)


@pytest.fixture
def two_tomograms(tmp_path):
    """Return a function that makes a source of rows in two tomograms, one of which has another pixel size."""

    def source(second, **settings):
        for name, angpix in {"A": 10.0, "B": second}.items():
            write_volume(tmp_path / f"{name}.mrc", VOXELS, angpix)
        rows = {f"rlnCoordinate{axis}": ["9", "10", "11", "12"] for axis in "XYZ"}
        (tmp_path / "x.star").write_text(loop({"rlnMicrographName": ["B", "A", "C", "B"], **rows}))
        tomograms = {name: Tomogram(name=name, paths=(tmp_path / f"{name}.mrc",)) for name in "BA"}
        return TomogramSource(
            read_particles(tmp_path / "x.star"), tomograms, Extraction(**{**PLAIN, **settings})
        )

    return source


def test_rows_are_read_tomogram_by_tomogram_and_those_without_one_refused(two_tomograms):
    source = two_tomograms(10.0)
    assert source.order.tolist() == [0, 3, 1]
    assert [source.read(row)[4, 4, 4] for row in (0, 1, 3)] == [VOXELS[n, n, n] for n in (9, 10, 12)]
    with pytest.raises(VolumeError, match="tomogram C has no volume"):
        source.read(2)


def test_rows_of_a_tomogram_keep_their_order(cut):
    places = np.random.default_rng(1).integers(4, 16, (300, 3))
    source = cut(*places.tolist())
    assert source.order.tolist() == list(range(300))
    assert np.array_equal(source.placements[0].centres, places)


def test_tomograms_of_two_pixel_sizes_need_a_common_one(two_tomograms):
    with pytest.raises(ParticleError, match=r"different pixel sizes: A 10 A, B 10.2 A") as caught:
        two_tomograms(10.2)
    assert "--angpix" in caught.value.hint
    assert two_tomograms(10.05).angpix == 10.0
    assert two_tomograms(20.0, angpix=20.0).angpix == pytest.approx(20.0, rel=1e-3)


def test_other_crops_have_another_fingerprint(cut, tmp_path):
    plain = cut((10, 12, 9)).fingerprint()
    assert cut((10, 12, 9)).fingerprint() == plain
    others = [cut((11, 12, 9)), cut((10, 12, 9), box=10), cut((10, 12, 9), norm=True)]
    found = {source.fingerprint() for source in others}
    write_volume(tmp_path / "TS_01.mrc", VOXELS[:, :, :26], 10.0)
    found.add(cut((10, 12, 9)).fingerprint())
    assert len(found | {plain}) == 5


# ---------------------------------------------------------------------------------------- out of files


@pytest.fixture
def files(tmp_path):
    """Return a function that makes a source of the files that a table names; arrays are written, 2.5 A a voxel."""

    def source(images, angpix=None, columns=None):
        for name, voxels in images.items():
            if voxels is not None:
                (tmp_path / name.rpartition("@")[2]).write_bytes(
                    voxels if isinstance(voxels, bytes) else mrc(voxels)
                )
        (tmp_path / "x.star").write_text(loop({"rlnImageName": list(images), **(columns or {})}))
        return FileSource(read_particles(tmp_path / "x.star"), angpix)

    return source


CUBE = VOXELS[:8, :8, :8]


def test_boxes_come_as_they_stand_in_their_files(files):
    source = files({"a.mrc": CUBE, "b.mrc": -CUBE})
    assert (len(source), source.box, source.angpix) == (2, 8, 2.5)
    assert np.array_equal(source.read(1), -CUBE)


@pytest.mark.parametrize(
    ("voxels", "words"),
    [
        (VOXELS[:6, :6, :6], "bad.mrc has a box of 6, the others have 8 pixels"),
        (np.zeros_like(CUBE), "bad.mrc is constant: every voxel is 0"),
        (np.where(CUBE.max() > CUBE, CUBE, np.nan), "1 voxels that are NaN"),
        (VOXELS[:8, :8, :5], "is a CTF or weights volume"),
        (VOXELS[:8, :4, :3], "is a CTF or weights volume"),  # both halves of it, one on the other
        (VOXELS[:4, :8, :5], "is 5 x 8 x 4 voxels; a subtomogram is a cube"),
        (VOXELS[:3, :8, :5], "is 5 x 8 x 3 voxels; a subtomogram is a cube"),
        (VOXELS[:8, :8, :6], "is 6 x 8 x 8 voxels; a subtomogram is a cube"),
        (VOXELS[:8, :7, :8], "is 8 x 7 x 8 voxels; a subtomogram is a cube"),
        (VOXELS[:1, :8, :8], "is a 2D image"),
        (None, "bad.mrc: no such volume"),
    ],
)
def test_what_is_no_box_is_refused_in_words(files, voxels, words):
    source = files({"a.mrc": CUBE, "bad.mrc": voxels})
    with pytest.raises(VolumeError, match=re.escape(words)):
        source.read(1)


def test_boxes_of_a_stack_are_counted_from_one(files):
    stack = ramp((12, 4, 4))
    images = dict.fromkeys(["1@s.mrc", "3@s.mrc", "0@s.mrc", "4@s.mrc", "s.mrc"], mrc(stack, ispg=401, mz=4))
    source = files({**images, "2@a.mrc": CUBE})
    assert np.array_equal(source.read(0), stack[:4])
    assert np.array_equal(source.read(1), stack[8:])
    for row in (2, 3, 4):
        with pytest.raises(VolumeError, match=r"is a stack of 3 volumes; its images are 1@ to 3@"):
            source.read(row)
    with pytest.raises(VolumeError, match=r"2@.*a.mrc is one section of a volume, no box"):
        source.read(5)


def test_the_pixel_size_is_the_users_then_the_tables_then_the_headers(files):
    two = {"a.mrc": CUBE, "b.mrc": CUBE}
    assert files(two, angpix=7.0, columns={"rlnPixelSize": twice("5")}).angpix == 7
    assert files(two, columns={"rlnPixelSize": ["5.04", "5"]}).angpix == 5
    assert files(two).angpix == 2.5
    with pytest.raises(ParticleError, match=r"pixel sizes from 5 to 5\.1 A"):
        files(two, columns={"rlnPixelSize": ["5.1", "5"]})
    with pytest.raises(ParticleError, match="stands neither in the STAR file nor in the volumes") as caught:
        files({"a.mrc": mrc(CUBE, cella=(0, 0, 0))})
    assert caught.value.hint == "Give --angpix."


def test_the_first_readable_image_says_the_size_and_the_first_problem_is_told(files):
    assert files({"gone.mrc": None, "a.mrc": CUBE}).box == 8
    with pytest.raises(
        ParticleError, match=r"none of its 2 images can be read; the first: gone\.mrc: no such volume"
    ):
        files({"gone.mrc": None, "flat.mrc": VOXELS[:1, :8, :8]})
