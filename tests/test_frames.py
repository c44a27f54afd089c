"""Coordinate frames: every formula against numbers worked out by hand, origins with their sign, sizes that are odd or unknown."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from star_files import ORIGINS, loop, relion4, relion30, relion31, twice

from cryoclass.errors import ParticleError
from cryoclass.particles import Particles
from cryoclass.star.dialects import ORIENTATION
from cryoclass.star.document import StarFile
from cryoclass.star.frames import (
    Affine,
    Frame,
    Geometry,
    affine,
    origins_in_subtomogram,
    origins_in_tomogram,
    xyz_to_zyx,
)
from cryoclass.star.particle_file import ParticleFile

# A tomogram of 4000 x 4001 x 2000 unbinned pixels of 1.25 A, binned 8 times: 10 A per voxel. RELION writes
# int(S / B + 0.5) voxels along x and y and int(S / B) along z.
KNOWN = Geometry(
    shape=(500, 500, 250), angpix=10.0, tilt_series_angpix=1.25, unbinned_size=(4000.0, 4001.0, 2000.0)
)
UNKNOWN = Geometry(shape=(500, 501, 250), angpix=10.0)


def particles(text: str) -> Particles:
    return Particles(file=ParticleFile.of(StarFile.parse(text.encode(), Path("x.star"))))


@pytest.mark.parametrize(
    ("frame", "geometry", "image_angpix", "coordinate", "voxel"),
    [
        # C/v + S*P/(2v): 500 voxels of S; the odd 4001 * 1.25 / 20 = 250.0625; 125
        (Frame.CENTRED_ANGSTROMS, KNOWN, 7.5, (0, 0, 0), (250, 250.0625, 125)),
        (Frame.CENTRED_ANGSTROMS, KNOWN, None, (100, -100, 25), (260, 240.0625, 127.5)),
        (Frame.CENTRED_ANGSTROMS, UNKNOWN, None, (100, -100, 25), (260, 240.5, 127.5)),
        # RELION 5's picker centres with S/2 - 1: one unbinned pixel, 0.125 voxels, less
        (Frame.PICKED_ANGSTROMS, KNOWN, None, (100, -100, 25), (259.875, 239.9375, 127.375)),
        # c * P/v
        (Frame.TILT_SERIES_PIXELS, KNOWN, 7.5, (800, 80, 8), (100, 10, 1)),
        (Frame.TOMOGRAM_PIXELS, KNOWN, 7.5, (10.5, 20, 30), (10.5, 20, 30)),
        (Frame.TOMOGRAM_PIXELS, UNKNOWN, None, (10.5, 20, 30), (10.5, 20, 30)),
        # c * p/v
        (Frame.IMAGE_PIXELS, KNOWN, 7.5, (100, 200, 4), (75, 150, 3)),
        (Frame.IMAGE_PIXELS, UNKNOWN, 5.364, (1000, 0, 10), (536.4, 0, 5.364)),
        # A/v
        (Frame.ANGSTROMS, KNOWN, 7.5, (1000, 25, -10), (100, 2.5, -1)),
        # f * (S - 1) * P/v: 3999 * 0.125, 4000 * 0.125, 1999 * 0.125
        (Frame.FRACTION, KNOWN, None, (1, 1, 1), (499.875, 500, 249.875)),
        (Frame.FRACTION, KNOWN, None, (0.5, 0, 0.25), (249.9375, 0, 62.46875)),
        (Frame.FRACTION, UNKNOWN, None, (1, 1, 1), (499, 500, 249)),
    ],
)
def test_coordinates_become_voxels(frame, geometry, image_angpix, coordinate, voxel):
    found = affine(frame, geometry, image_angpix).voxel(np.array([coordinate, coordinate], dtype=float))
    assert found == pytest.approx(np.array([voxel, voxel]))


def test_every_row_may_have_a_pixel_size_of_its_own():
    found = affine(Frame.IMAGE_PIXELS, UNKNOWN, np.array([5.0, 20.0])).voxel(np.full((2, 3), 8.0))
    assert found.tolist() == [[4, 4, 4], [16, 16, 16]]


def test_an_unbinned_size_without_its_pixel_size_says_nothing():
    geometry = Geometry(shape=(4, 5, 6), angpix=10.0, unbinned_size=(32.0, 40.0, 48.0))
    assert geometry.size_angstroms.tolist() == [40, 50, 60]


def test_a_pick_and_an_extracted_particle_differ_by_one_unbinned_pixel():
    """RELION 5 moves picks by 1.35 A in its own project: the trap of the two centres."""
    geometry = Geometry(
        shape=(540, 540, 270), angpix=10.0, tilt_series_angpix=1.35, unbinned_size=(4000.0,) * 3
    )
    centred, picked = (affine(f, geometry, None) for f in (Frame.CENTRED_ANGSTROMS, Frame.PICKED_ANGSTROMS))
    assert (centred.offset - picked.offset) * geometry.angpix == pytest.approx([1.35] * 3)


def test_the_centre_does_not_come_from_the_binned_size():
    """z is cut down to whole voxels, so its middle is not the middle of the unbinned volume."""
    geometry = Geometry(
        shape=(134, 134, 66), angpix=7.5, tilt_series_angpix=2.5, unbinned_size=(401.0, 401.0, 200.0)
    )
    assert affine(Frame.CENTRED_ANGSTROMS, geometry, None).offset == pytest.approx(
        [401 / 6, 401 / 6, 200 / 6]
    )


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        (Frame.TILT_SERIES_PIXELS, "unbinned pixel size"),
        (Frame.IMAGE_PIXELS, "pixel size of the coordinates"),
    ],
)
def test_a_size_that_nobody_says_is_asked_for(frame, what):
    with pytest.raises(ParticleError, match=f"the {what} is unknown") as caught:
        affine(frame, UNKNOWN, None)
    assert "--coords-angpix" in caught.value.hint


positive = st.floats(0.1, 20)
sizes = st.tuples(*[st.integers(10, 5000)] * 3)


@given(st.sampled_from(Frame), positive, positive, positive, sizes, st.tuples(*[st.floats(-5000, 5000)] * 3))
def test_voxels_go_back_to_the_coordinates_they_came_from(frame, angpix, unbinned, image, size, coordinate):
    geometry = Geometry(
        shape=size,
        angpix=angpix,
        tilt_series_angpix=unbinned,
        unbinned_size=tuple(n * angpix / unbinned + 1 for n in size),
    )
    to_voxel = affine(frame, geometry, image)
    given_one = np.array([coordinate])
    assert to_voxel.coordinate(to_voxel.voxel(given_one)) == pytest.approx(given_one, abs=1e-6, rel=1e-9)
    assert to_voxel.voxel(given_one).shape == (1, 3)


def test_an_affine_is_scale_then_offset():
    moved = Affine(scale=np.array([1.0, 2, 3]), offset=np.array([10.0, 20, 30]))
    assert moved.voxel(np.array([[1.0, 1, 1]])).tolist() == [[11, 22, 33]]


def test_only_here_xyz_becomes_zyx():
    assert xyz_to_zyx(np.array([[1, 2, 3], [4, 5, 6]])).tolist() == [[3, 2, 1], [6, 5, 4]]


# ------------------------------------------------------------------------------------------ origins


def test_angstrom_origins_stay_what_they_are():
    assert particles(relion31(**ORIGINS)).origins.tolist() == [[1.5] * 3, [-2] * 3]


def test_the_older_origins_count_pixels_of_the_image():
    old = {f"rlnOrigin{axis}": [x, y] for axis, x, y in [("X", "1", "-2"), ("Y", "0", "4"), ("Z", "3", "0")]}
    assert particles(relion30(**old)).origins.tolist() == [[7.5, 0, 22.5], [-15, 30, 0]]
    both = particles(relion30(**old, **ORIGINS))
    assert both.file.dialect.origins == tuple(ORIGINS)  # angstroms come first
    two_sizes = particles(relion30(**old, rlnPixelSize=["2", "3"]))
    assert two_sizes.origins.tolist() == [[2, 0, 6], [-6, 12, 0]]
    assert particles(relion31()).origins is None


def test_older_origins_need_a_pixel_size_unless_they_are_zero():
    def table(value: str) -> Particles:
        columns = {f"rlnOrigin{axis}": [value] for axis in "XYZ"} | {"rlnImageName": ["a.mrc"]}
        return particles(loop(columns))

    assert not table("0.0").origins.any()
    with pytest.raises(ParticleError, match="count pixels of a size that is not stated"):
        table("1.0").origins  # noqa: B018


def test_origins_in_part_are_none():
    assert particles(relion31(rlnOriginXAngst=["1", "2"])).origins is None


def test_the_orientation_of_a_subtomogram_by_hand():
    """With rot = 90 the box's x axis lies along the tomogram's -y or +y: RELION's matrix is the transpose of scipy's."""
    turned = origins_in_tomogram(np.array([[1.0, 0, 0]]), np.array([[90.0, 0, 0]]))
    assert turned[0] == pytest.approx([0, -1, 0], abs=1e-12)
    tilted = origins_in_tomogram(np.array([[0.0, 0, 1]]), np.array([[0.0, 90, 0]]))
    assert tilted[0] == pytest.approx([-1, 0, 0], abs=1e-12)


def relion_euler_matrix(rot: float, tilt: float, psi: float) -> np.ndarray:
    """Return the matrix of ``Euler_angles2matrix`` in RELION's ``euler.cpp``, written out."""
    a, b, g = np.radians([rot, tilt, psi])
    ca, cb, cg, sa, sb, sg = np.cos(a), np.cos(b), np.cos(g), np.sin(a), np.sin(b), np.sin(g)
    cc, cs, sc, ss = cb * ca, cb * sa, sb * ca, sb * sa
    return np.array(
        [
            [cg * cc - sg * sa, cg * cs + sg * ca, -cg * sb],
            [-sg * cc - cg * sa, -sg * cs + cg * ca, sg * sb],
            [sc, ss, cb],
        ]
    )


angles = st.tuples(st.floats(-180, 180), st.floats(0, 180), st.floats(-180, 180))


@given(st.lists(st.tuples(angles, st.tuples(*[st.floats(-50, 50)] * 3)), min_size=1, max_size=4))
def test_rotated_origins_equal_relions_matrix_and_scipys_inverse(rows):
    orientation, origins = (np.array(part) for part in zip(*rows, strict=True))
    found = origins_in_tomogram(origins, orientation)
    relion = np.array([relion_euler_matrix(*a) @ o for a, o in zip(orientation, origins, strict=True)])
    inverse = Rotation.from_euler("ZYZ", orientation, degrees=True).inv().apply(origins)
    assert found == pytest.approx(relion, abs=1e-9)
    assert found == pytest.approx(inverse, abs=1e-9)
    assert origins_in_subtomogram(found, orientation) == pytest.approx(origins, abs=1e-9)


def test_a_files_orientation_turns_its_origins():
    turn = dict(zip(ORIENTATION, (twice("90.0"), twice("0.0"), twice("0.0")), strict=True))
    origins = {"rlnOriginXAngst": ["4", "0"], "rlnOriginYAngst": ["0", "2"], "rlnOriginZAngst": ["1", "1"]}
    found = particles(relion4(**origins, **turn)).origins
    assert found == pytest.approx(np.array([[0, -4, 1], [2, 0, 1]]), abs=1e-12)
    assert particles(relion4(**origins)).origins.tolist() == [[4, 0, 1], [0, 2, 1]]
