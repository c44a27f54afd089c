"""What is done to a box: cutting, rescaling, normalising, judging its contrast."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cryoclass.errors import VolumeError
from cryoclass.volumes.contrast import measure_contrast
from cryoclass.volumes.crop import crop, overlap
from cryoclass.volumes.normalise import normalise
from cryoclass.volumes.pixels import agree
from cryoclass.volumes.rescale import (
    apply_rescale,
    centre_of,
    fourier_interpolate,
    fourier_rescale,
    plan_rescale,
)

SHAPE = (11, 12, 14)


def noise(shape: tuple[int, ...], seed: int = 0, blur: float = 0.0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(5, 2, shape)
    return ndimage.gaussian_filter(values, blur, mode="wrap").astype(np.float32)


def distances(side: int) -> np.ndarray:
    """Return the distance of every voxel from the box centre, ``side // 2``."""
    axis = np.arange(side) - side // 2
    return np.sqrt(sum(part**2.0 for part in np.ix_(axis, axis, axis)))


def blob(side: int, sigma: float, height: float = 1.0) -> np.ndarray:
    return (height * np.exp(-(distances(side) ** 2) / (2 * sigma**2))).astype(np.float32)


# ------------------------------------------------------------------------------------------ crop


@settings(deadline=None)
@given(st.tuples(*[st.integers(-25, 35)] * 3), st.integers(1, 20), st.sampled_from(["f4", "i1", ">i2", "f2"]))
def test_a_crop_equals_a_slice_of_the_volume_with_its_edges_repeated(centre, box, dtype):
    volume = noise(SHAPE).astype(dtype)
    pad = 60
    padded = np.pad(volume, pad, mode="edge")
    starts = [c - box // 2 + pad for c in centre]
    expected = padded[tuple(slice(s, s + box) for s in starts)]
    found = crop(volume, centre, box)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.array_equal(found, expected)


@given(st.tuples(*[st.integers(-25, 35)] * 3), st.integers(1, 20))
def test_overlap_counts_the_voxels_of_the_box_that_lie_inside(centre, box):
    mask = np.zeros([n + 120 for n in SHAPE], dtype=bool)
    mask[tuple(slice(60, 60 + n) for n in SHAPE)] = True
    inside = mask[tuple(slice(c - box // 2 + 60, c - box // 2 + 60 + box) for c in centre)].sum()
    expected = "inside" if inside == box**3 else "partial" if inside else "outside"
    assert overlap(SHAPE, centre, box) == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("start", "expected"),
    [
        *((-4, "outside"), (-3, "partial"), (-1, "partial"), (0, "inside")),
        *((6, "inside"), (7, "partial"), (9, "partial"), (10, "outside")),
    ],
)
def test_one_voxel_decides_whether_a_box_lies_inside(axis, start, expected):
    centre = [5, 5, 5]
    centre[axis] = start + 2
    assert overlap((10, 10, 10), tuple(centre), 4) == expected


@pytest.mark.parametrize("box", [4, 5])
def test_the_asked_voxel_becomes_the_centre(box):
    volume = np.zeros((20, 20, 20), dtype=np.float32)
    volume[7, 9, 12] = 1
    assert crop(volume, (7, 9, 12), box)[box // 2, box // 2, box // 2] == 1


def test_a_crop_is_a_copy_even_where_it_is_the_whole_volume():
    volume = noise((6, 6, 6))
    box = crop(volume, (3, 3, 3), 6)
    box[:] = 0
    assert volume.any()


# ------------------------------------------------------------------------------------------ rescale


@pytest.mark.parametrize(("side", "size"), [(16, 8), (16, 12), (12, 16), (16, 32), (20, 14), (8, 8)])
def test_a_fourier_rescale_keeps_the_mean(side, size):
    cube = noise((side, side, side))
    scaled = fourier_rescale(cube, size)
    assert scaled.shape == (size, size, size)
    assert scaled.dtype == np.float32
    assert scaled.mean(dtype=np.float64) == pytest.approx(cube.mean(dtype=np.float64), rel=1e-5)


@pytest.mark.parametrize(("side", "size"), [(24, 16), (16, 24), (24, 18)])
def test_a_fourier_rescale_reads_a_wave_at_the_new_voxels(side, size):
    """A wave of whole periods is known everywhere, so the rescaled voxels can be computed."""

    def wave(n: int) -> np.ndarray:
        z, y, x = (axis / n for axis in np.ogrid[:n, :n, :n])
        return 3 + np.cos(2 * np.pi * (2 * x - y) + 0.3) + np.sin(2 * np.pi * (3 * z + y))

    assert fourier_rescale(wave(side), size) == pytest.approx(wave(size), abs=1e-5)


def wave(side: int, frequencies: tuple[int, int, int], step: float = 1.0) -> np.ndarray:
    """Return a wave of whole periods (z, y, x) over ``side`` voxels, read at every ``step`` from the centre."""
    count = round(side / step)
    places = (np.arange(count) - count // 2) * step + side // 2
    phase = sum(n * axis for n, axis in zip(frequencies, np.ix_(places, places, places), strict=True))
    return np.cos(2 * np.pi / side * phase)


def test_a_cube_of_the_right_size_stays_what_it_is():
    assert fourier_rescale(noise((8, 8, 8)), 8) == pytest.approx(noise((8, 8, 8)), abs=1e-5)


@pytest.mark.parametrize(
    ("frequencies", "stays"), [((3, 4, 0), True), ((0, 0, 4), True), ((4, 4, 0), False), ((3, 3, 3), False)]
)
def test_a_cube_that_grows_loses_what_lies_beyond_the_nyquist_sphere(frequencies, stays):
    found = fourier_rescale(wave(10, frequencies), 20)
    assert found[::2, ::2, ::2] == pytest.approx(wave(10, frequencies) * stays, abs=1e-5)


@pytest.mark.parametrize(("sign", "stays"), [(1, True), (-1, False)])
def test_of_two_nyquist_frequencies_the_positive_one_is_kept(sign, stays):
    found = fourier_rescale(wave(16, (4 * sign, 0, 1)), 8)
    assert found == pytest.approx(wave(8, (4 * sign, 0, 1)) * stays, abs=1e-5)


@pytest.mark.parametrize(("step", "frequency", "stays"), [(2, 3, True), (2, 4, False), (2, 5, False)])
def test_interpolating_leaves_out_what_the_coarser_grid_cannot_hold(step, frequency, stays):
    found = fourier_interpolate(wave(16, (0, frequency, 0)), 8, step)
    assert found == pytest.approx(wave(16, (0, frequency, 0), step) * stays, abs=1e-5)


@pytest.mark.parametrize("frequency", [1, 3, 7])
def test_interpolating_finer_adds_no_frequency(frequency):
    found = fourier_interpolate(wave(16, (frequency, 0, 1)), 32, 0.5)
    assert found == pytest.approx(wave(16, (frequency, 0, 1), 0.5), abs=1e-4)


@pytest.mark.parametrize(("side", "size"), [(16, 12), (12, 16)])
def test_there_and_back_again(side, size):
    smooth = noise((side, side, side), blur=2.0)
    assert fourier_rescale(fourier_rescale(smooth, size), side) == pytest.approx(smooth, abs=0.02)


def test_interpolating_agrees_with_rescaling_where_both_can():
    smooth = noise((48, 48, 48), blur=3.0)
    scaled = fourier_rescale(smooth, 32)
    assert fourier_interpolate(smooth, 20, 1.5) == pytest.approx(centre_of(scaled, 20), abs=1e-4)


@pytest.mark.parametrize(("side", "box"), [(8, 4), (8, 5), (9, 4), (9, 5), (8, 8)])
def test_the_centre_of_a_cube_keeps_the_middle_voxel(side, box):
    cube = np.zeros((side,) * 3)
    cube[side // 2, side // 2, side // 2] = 1
    assert centre_of(cube, box)[box // 2, box // 2, box // 2] == 1
    assert centre_of(cube, box).shape == (box,) * 3


@settings(max_examples=400, deadline=None)
@given(st.integers(2, 64).map(lambda n: 2 * n), st.floats(0.5, 20), st.floats(0.3, 4))
def test_any_pixel_size_is_met_within_a_thousandth(box, from_angpix, ratio):
    to_angpix = from_angpix * ratio
    plan = plan_rescale(box, from_angpix, to_angpix)
    assert plan.angpix == pytest.approx(to_angpix, rel=1e-3)
    assert plan.angpix == pytest.approx(from_angpix * plan.step)
    assert plan.box == box
    assert plan.cut % 2 == 0
    assert plan.cut * from_angpix >= box * plan.angpix * (1 - 1e-9)
    assert plan.scaled is None or (plan.scaled % 2 == 0 and box <= plan.scaled <= 2 * box)
    # Fourier space joins opposite faces: what is interpolated needs two pixels more on each side.
    assert plan.scaled is not None or plan.cut >= box * to_angpix / from_angpix + 4 - 1e-9


def test_odd_boxes_are_the_centre_of_even_cubes():
    plan = plan_rescale(9, 10.0, 15.0)
    assert (plan.cut, plan.scaled, plan.box) == (18, 12, 9)


def test_up_to_twice_the_box_is_cut_before_voxels_are_interpolated():
    """17 to 16 is met by no pair of even cubes below 34 and 32."""
    assert plan_rescale(16, 16.0, 17.0).scaled == 32
    assert plan_rescale(14, 16.0, 17.0).scaled is None


@pytest.mark.parametrize("box", [15, 16, 31, 32])
@pytest.mark.parametrize("ratio", np.linspace(0.4, 3.0, 60).round(4).tolist())
def test_a_plan_is_even_meets_the_pixel_size_and_cuts_what_it_needs(box, ratio):
    plan = plan_rescale(box, 10.0, 10.0 * ratio)
    assert plan.cut % 2 == 0 or plan.cut == box
    assert plan.angpix == pytest.approx(10.0 * ratio, rel=1e-3)
    if plan.scaled is not None and plan.scaled != plan.cut:
        assert plan.scaled % 2 == 0
        assert box <= plan.scaled <= 2 * box + box % 2
        assert plan.cut / plan.scaled == pytest.approx(plan.step)
    elif plan.scaled is None:
        assert plan.cut >= box * ratio + 4, "interpolation looks beyond the box"


def test_a_pixel_size_that_is_there_already_changes_nothing():
    plan = plan_rescale(16, 10.0, 10.004)
    assert (plan.cut, plan.scaled, plan.angpix) == (16, 16, 10.0)
    cube = noise((16, 16, 16))
    assert np.array_equal(apply_rescale(cube, plan), cube)


def test_the_smallest_pair_of_cubes_is_taken():
    plan = plan_rescale(8, 5.0, 10.0)
    assert (plan.cut, plan.scaled, plan.box, plan.angpix) == (16, 8, 8, 10.0)
    nearly = plan_rescale(16, 10.0, 14.995)
    assert (nearly.cut, nearly.scaled, nearly.angpix) == (24, 16, 15.0)


@pytest.mark.parametrize("box", [32, 40])
@pytest.mark.parametrize(
    ("from_angpix", "to_angpix"), [(10, 15), (13.33, 10), (5.364, 10), (9.9, 10), (10, 9.95), (7.87, 13.48)]
)
def test_a_blob_keeps_its_place_its_height_and_its_size_in_angstroms(box, from_angpix, to_angpix):
    sigma = 35.0  # angstroms
    plan = plan_rescale(box, from_angpix, to_angpix)
    scaled = apply_rescale(blob(plan.cut, sigma / from_angpix, height=3.0), plan)
    assert scaled.shape == (box, box, box)
    assert scaled.dtype == np.float32
    assert scaled == pytest.approx(blob(box, sigma / plan.angpix, height=3.0), abs=3e-3)
    assert np.unravel_index(scaled.argmax(), scaled.shape) == (box // 2,) * 3
    variance = (np.maximum(scaled, 0) * distances(box) ** 2).sum() / np.maximum(scaled, 0).sum() / 3
    assert np.sqrt(variance) * plan.angpix == pytest.approx(sigma, rel=0.02)


def test_a_blob_off_the_centre_moves_by_its_distance_in_angstroms():
    plan = plan_rescale(32, 9.9, 12.0)
    cube = np.roll(blob(plan.cut, 3.5), (5, -4, 3), axis=(0, 1, 2))
    scaled = np.maximum(apply_rescale(cube, plan), 0)
    found = np.array(ndimage.center_of_mass(scaled)) - 16
    assert found * plan.angpix == pytest.approx(np.array([5, -4, 3]) * 9.9, abs=0.5)


def test_a_constant_stays_what_it_is():
    for to_angpix in (7.0, 9.95, 10.07, 23.0):
        plan = plan_rescale(16, 10.0, to_angpix)
        cube = np.full((plan.cut,) * 3, 4.2)
        assert apply_rescale(cube, plan) == pytest.approx(np.full((16, 16, 16), 4.2), rel=1e-5)


# ------------------------------------------------------------------------------------------ pixel sizes


@pytest.mark.parametrize(
    ("sizes", "same"),
    [
        ((10.0,), True),
        ((10.0, 10.09), True),
        ((10.09, 10.0), True),
        ((10.0, 10.1005), False),  # less than 1 % of the larger, but more than 1 % of the smaller
        ((10.11, 10.0), False),
        ((10.0, 10.06, 9.95), False),
    ],
)
def test_lengths_within_one_per_cent_are_the_same(sizes, same):
    assert agree(*sizes) is same


# ------------------------------------------------------------------------------------------ normalise


@pytest.mark.parametrize(("side", "radius"), [(12, 4), (13, 4.5), (16, 8), (16, 0)])
def test_the_background_gets_mean_0_and_deviation_1_and_the_rest_follows(side, radius):
    cube = noise((side, side, side)) + blob(side, 2, height=50)
    result = normalise(cube, radius)
    background = result[distances(side) > radius].astype(np.float64)
    assert background.mean() == pytest.approx(0, abs=1e-6)
    assert background.std() == pytest.approx(1, abs=1e-6)
    assert result.dtype == np.float32
    line = np.polyfit(cube.ravel(), result.ravel(), 1)
    assert np.polyval(line, cube) == pytest.approx(result, abs=1e-4)  # one straight line for all voxels
    assert line[0] > 0


def test_only_voxels_farther_than_the_radius_are_background():
    cube = noise((8, 8, 8))
    changed = cube.copy()
    changed[distances(8) <= 3] += 1000
    outside = distances(8) > 3
    assert np.array_equal(normalise(cube, 3)[outside], normalise(changed, 3)[outside])


def test_half_precision_does_not_overflow():
    cube = np.full((16, 16, 16), 60000, dtype=np.float16)
    cube[::2] = 59968
    assert normalise(cube, 4).std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e-3, 123.456, np.nan])
def test_a_constant_background_is_refused_whatever_its_value(value, dtype):
    cube = np.full((16, 16, 16), value, dtype=dtype)
    cube[8, 8, 8] = 7
    with pytest.raises(VolumeError, match="the background is constant"):
        normalise(cube, 4)


def test_a_radius_that_leaves_no_background_is_refused():
    with pytest.raises(VolumeError):
        normalise(noise((8, 8, 8)), 100)


# ------------------------------------------------------------------------------------------ contrast


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_contrast_is_that_of_the_middle_against_the_outside(side, offset):
    background = noise((side,) * 3, seed=3) * 0.1 + offset
    particle = blob(side, side / 6, height=3.0)
    assert measure_contrast(background + particle) == "bright"
    assert measure_contrast(background - particle) == "dark"
    assert measure_contrast(background) == "unknown"


@pytest.mark.parametrize("value", [0.0, 0.1, np.nan])
def test_a_mean_that_shows_nothing_has_no_contrast(value):
    assert measure_contrast(np.full((16, 16, 16), value, dtype=np.float32)) == "unknown"


@pytest.mark.parametrize(
    ("height", "contrast"), [(2.1, "bright"), (1.9, "unknown"), (-1.9, "unknown"), (-2.1, "dark")]
)
def test_a_contrast_takes_two_deviations_of_the_outside(height, contrast):
    cube = np.full((17, 17, 17), height)
    outside = distances(17) > 8.5
    cube[outside] = np.resize(
        [1.0, -1.0], outside.sum()
    )  # mean 0, deviation 1: it is an even number of voxels
    assert measure_contrast(cube) == contrast


@pytest.mark.parametrize(("distance", "contrast"), [(4, "bright"), (5, "unknown"), (8, "unknown")])
def test_the_middle_is_a_sphere_of_a_quarter_of_the_box_and_its_surface(distance, contrast):
    cube = np.zeros((16, 16, 16))
    cube[distances(16) > 8] = np.resize([1.0, -1.0], (distances(16) > 8).sum())
    cube[distances(16) == distance] = 1000
    assert measure_contrast(cube) == contrast
    cube[distances(16) <= 4] = (
        3  # what lies between middle and outside does not count, nor does the inscribed sphere
    )
    assert measure_contrast(cube) == "bright"


def test_a_box_without_an_outside_has_no_contrast():
    assert measure_contrast(np.ones((1, 1, 1))) == "unknown"


def test_a_particle_may_fill_the_sphere_that_touches_the_faces():
    cube = noise((16, 16, 16), seed=4) * 0.1
    cube[distances(16) <= 8] += 1 + distances(16)[distances(16) <= 8] / 2
    assert measure_contrast(cube) == "bright"
    assert measure_contrast(-cube) == "dark"


def test_a_bright_corner_is_no_particle():
    cube = noise((16, 16, 16), seed=4) * 0.1
    cube[:4, :4, :4] += 50
    assert measure_contrast(cube) == "unknown"


def ball_in_known_noise(deviations: float, shape: tuple[int, int, int] = (32, 32, 32)) -> np.ndarray:
    """Return a box whose centre lies as many standard deviations of its outside above the outside's mean."""
    side = min(shape)
    axes = np.ogrid[tuple(slice(-(n // 2), n - n // 2) for n in shape)]
    squared = sum(axis**2.0 for axis in axes)
    box = np.random.default_rng(3).normal(size=shape)
    outside = squared > (side / 2) ** 2
    box = (box - box[outside].mean()) / box[outside].std()
    centre = squared <= (side / 4) ** 2
    box[centre] = deviations
    return box.astype(np.float32)


def test_the_contrast_of_a_flat_box_goes_by_its_shortest_side():
    assert measure_contrast(ball_in_known_noise(4.0, (16, 32, 32))) == "bright"
