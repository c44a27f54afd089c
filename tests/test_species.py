"""Invented species, and the boxes that show them."""

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import eval_legendre
from scipy.stats import kstest

from cryoclass.errors import UsageError
from cryoclass.pretraining.batches import diameters, draw_batch
from cryoclass.settings import Invention, Simulation
from cryoclass.simulation import optics, species
from cryoclass.simulation.boxes import draw_density, draw_optics, from_spectrum, see, seen_by_tilts
from cryoclass.simulation.drawing import random_turns
from cryoclass.simulation.rotations import operators
from cryoclass.simulation.species import (
    BLOBS,
    DESCRIPTION,
    GROUPS,
    HOLLOW,
    Assemblies,
    describe,
    draw_assemblies,
)
from cryoclass.simulation.tomogram import prepare_shapes, turned

DIAMETER, RESOLUTION = (60.0, 240.0), (20.0, 40.0)
NAMES = list(GROUPS)
ANGPIX = 10.0

# Each range a single value, and nothing but the particle and the noise.
PLAIN = Invention(
    shift=0,
    neighbours=0,
    membrane_chance=0,
    tilt=(60, 60),
    axis_spread=0,
    odd_axis=0,
    defocus=(3, 3),
    amplitude_contrast=(0.07, 0.07),
    b_factor=(0, 0),
    low_pass=(50, 50),
    coloured=0,
)


def pixels(count, angpix=ANGPIX):
    return torch.full((count,), angpix)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(count, seed=0, hollow=HOLLOW):
    return draw_assemblies(count, DIAMETER, RESOLUTION, seeded(seed), hollow)


def small(count, seed=0):
    """Species of 80 to 140 angstroms with blobs that 10 angstrom pixels show without loss."""
    return draw_assemblies(count, (80.0, 140.0), (35.0, 45.0), seeded(seed))


def turned_species(found, turns):
    return Assemblies(
        positions=found.positions @ turns.mT, weights=found.weights, sigma=found.sigma, group=found.group
    )


def blobs(found, row):
    """Return the positions and weights of the blobs that one species has."""
    has = found.weights[row] > 0
    return found.positions[row, has].double().numpy(), found.weights[row, has].double().numpy()


def repeats_under(found, row, operator):
    """Say whether a turn takes every blob to where another of the same weight is."""
    positions, weights = blobs(found, row)
    apart = cdist(positions @ operator.T, positions)
    partner = apart.argmin(1)
    return (
        apart.min(1).max() < 1e-4 * float(found.radius[row])
        and len(set(partner)) == len(partner)
        and np.allclose(weights[partner], weights, rtol=1e-5)
    )


def frequencies_seen(side, tilt=60):
    """Return what a symmetric tilt series sees, and which frequencies have an opposite."""
    kz, ky, kx = optics.frequencies((side,) * 3)
    paired = (kz > -0.5) & (ky > -0.5) & (kx < 0.5)
    return torch.tensor(optics.seen_by_tilts((side,) * 3, tilt)), torch.tensor(paired)


def correlations(cubes):
    """Return the correlation of each cube with each other one (n, n), 0 with itself."""
    found = np.corrcoef(cubes.flatten(1).double().numpy())
    np.fill_diagonal(found, 0)
    return found


# ------------------------------------------------------------------------------------------------ species


def test_the_same_seed_gives_the_same_species_and_another_seed_others():
    one, same, other = drawn(50), drawn(50), drawn(50, seed=1)
    for name in ("positions", "weights", "sigma", "group"):
        assert torch.equal(getattr(one, name), getattr(same, name)), name
        assert not torch.equal(getattr(one, name), getattr(other, name)), name


def test_no_two_species_of_a_draw_are_the_same():
    found = drawn(300)
    assert len(found) == 300
    assert len(torch.unique(found.positions.flatten(1), dim=0)) == 300


def test_diameters_stay_within_their_limits_and_their_logarithm_is_drawn_evenly():
    across = 2 * drawn(3000).radius
    assert across.min() >= DIAMETER[0] * (1 - 1e-5)
    assert across.max() <= DIAMETER[1] * (1 + 1e-5)
    low, high = np.log(DIAMETER)
    assert kstest((across.log() - low) / (high - low), "uniform").pvalue > 0.01


@pytest.mark.parametrize("hollow", [0.0, 1.0])
def test_the_centre_of_mass_is_the_origin_and_all_masses_together_are_one(hollow):
    found = drawn(500, hollow=hollow)
    assert found.weights.sum(1) == pytest.approx(1, abs=1e-5)
    assert found.weights.min() >= 0
    centre = (found.positions * found.weights[..., None]).sum(1)
    assert (centre.norm(dim=1) / found.radius).max() < 1e-5


def test_every_group_is_drawn_about_as_often_as_its_share_says():
    count = 5000
    found = np.bincount(drawn(count).group, minlength=len(GROUPS))
    share = np.array(list(GROUPS.values())) / sum(GROUPS.values())
    deviation = np.sqrt(count * share * (1 - share))
    assert found.min() > 0
    assert (np.abs(found - count * share) < 4 * deviation).all()


def test_every_subunit_has_the_same_number_of_blobs():
    found = drawn(2000)
    used = (found.weights > 0).sum(1)
    for name in set(GROUPS) - {"rod"}:
        copies = len(operators(name))
        assert (used[found.group == NAMES.index(name)] == BLOBS // copies * copies).all(), name


@pytest.mark.parametrize("hollow", [0.0, 1.0])
def test_species_repeat_under_their_own_symmetry(hollow):
    found = drawn(2000, hollow=hollow)
    for name in set(GROUPS) - {"C1", "rod"}:
        rows = (found.group == NAMES.index(name)).nonzero()[:2, 0].tolist()
        assert len(rows) == 2
        group = operators(name)
        for row, operator in itertools.product(rows, group):
            assert repeats_under(found, row, operator), name
        # A turn that no group here holds.
        assert not repeats_under(found, rows[0], random_turns(1, seeded(1))[0].double().numpy()), name


def test_hollow_species_have_nothing_inside():
    found = drawn(1000, hollow=1.0)
    for name in ("D3", "T", "O", "I"):  # their centre stays where it is when blobs move outwards
        for row in (found.group == NAMES.index(name)).nonzero()[:, 0].tolist():
            positions, _ = blobs(found, row)
            assert np.linalg.norm(positions, axis=1).min() > 0.749 * float(found.radius[row]), name


def test_the_copies_of_a_rod_follow_each_other_along_a_screw():
    found = drawn(1000, hollow=0.0)
    rows = (found.group == NAMES.index("rod")).nonzero()[:, 0].tolist()
    orders = set()
    for row in rows:
        positions, weights = blobs(found, row)
        copies = next(n for n in range(16, 2, -1) if repeats_in_order(weights, n))
        units = positions.reshape(copies, -1, 3)
        steps = np.array([cdist(one, two) for one, two in itertools.pairwise(units)])
        assert np.allclose(steps, steps[0], atol=1e-3)
        rises = np.diff(units[:, 0, 2])
        assert np.allclose(rises, rises[0], atol=1e-3)
        assert rises[0] > 0
        orders.add(copies)
    assert min(orders) >= 3
    assert len(orders) > 5


def repeats_in_order(weights, copies):
    if len(weights) % copies or len(weights) // copies != BLOBS // copies:
        return False
    units = weights.reshape(copies, -1)
    return bool(np.allclose(units, units[0], rtol=1e-5))


def test_species_are_taken_in_the_order_asked():
    found = drawn(5)
    some = found.taken(torch.tensor([3, 1, 3]))
    assert len(some) == 3
    assert torch.equal(some.positions, found.positions[[3, 1, 3]])
    assert torch.equal(some.radius, found.radius[[3, 1, 3]])


def test_the_icosahedral_group_has_sixty_turns_and_is_closed():
    group = operators("I")
    assert group.shape == (60, 3, 3)
    assert np.allclose(group @ group.swapaxes(1, 2), np.eye(3))
    assert np.allclose(np.linalg.det(group), 1)
    flat = group.reshape(60, 9)
    products = (group[:, None] @ group[None]).reshape(3600, 9)
    matches = cdist(products, flat) < 1e-8
    assert (matches.sum(1) == 1).all()
    assert (matches.sum(0) == 60).all()
    # Cosines of the angles of turns: the identity, 15 half turns, 20 by 120 degrees, 12 by 72 and 12 by 144.
    cosines = np.round((np.trace(group, axis1=1, axis2=2) - 1) / 2, 4)
    found = dict(zip(*np.unique(cosines, return_counts=True), strict=True))
    assert found == {1: 1, -1: 15, -0.5: 20, 0.309: 12, -0.809: 12}


# -------------------------------------------------------------------------------------------------- turns


def test_random_turns_are_rotations():
    turns = random_turns(1000, seeded()).double()
    assert torch.allclose(turns @ turns.mT, torch.eye(3, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(1000, dtype=torch.float64), atol=1e-6)


def test_random_turns_are_uniform():
    count = 20_000
    turns = random_turns(count, seeded(3)).double().numpy()
    flat = turns.reshape(count, 9)
    error = 1 / np.sqrt(count)
    assert np.abs(flat.mean(0)).max() < 4 * error
    assert np.abs(flat.T @ flat / count - np.eye(9) / 3).max() < 4 * error
    for entry in flat.T:  # a coordinate of a uniform direction is uniform from -1 to 1 (Archimedes)
        assert kstest((entry + 1) / 2, "uniform").pvalue > 1e-3
    angle = np.arccos(np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert kstest((angle - np.sin(angle)) / np.pi, "uniform").pvalue > 0.01


# -------------------------------------------------------------------------------------------- describing


def test_a_description_does_not_depend_on_the_orientation():
    found = drawn(64)
    angpix = torch.full((64,), ANGPIX)
    one = describe(found, angpix)
    other = describe(turned_species(found, random_turns(64, seeded(1))), angpix)
    assert one.shape == (64, DESCRIPTION)
    assert one.isfinite().all()
    change = (one - other).norm(dim=1).max()
    between = torch.cdist(one, one).fill_diagonal_(torch.inf)
    assert change < 1e-2 * between.min()


def test_a_description_sees_shape_beyond_the_distances_from_the_centre():
    found = drawn(20)
    mixed = turned_species(found, torch.eye(3))
    turns = random_turns(20 * BLOBS, seeded(2)).unflatten(0, (20, BLOBS))
    mixed.positions[:] = (turns @ found.positions[..., None])[..., 0]  # each blob keeps its distance
    angpix = torch.full((20,), ANGPIX)
    one, other = describe(found, angpix), describe(mixed, angpix)
    shells = slice(0, species.PIXEL_SHELLS)  # degree 0: mass alone
    assert torch.allclose(one[:, shells], other[:, shells], rtol=1e-4, atol=1e-6)
    assert ((one - other).norm(dim=1) > 0.01).all()


def test_a_description_is_the_mass_by_radius_and_angular_degree():
    found = drawn(6)
    for row in range(6):
        positions, weights = blobs(found, row)
        distance, sigma = np.linalg.norm(positions, axis=1), float(found.sigma[row])
        gyration = np.sqrt(weights @ distance**2)
        cosine = positions @ positions.T / np.outer(distance, distance)
        expected = []
        for degree in range(species.DEGREES):
            seen = np.exp(-degree * (degree + 1) / 2 * (sigma / distance) ** 2)
            legendre = eval_legendre(degree, cosine)
            for spacing, count in (
                (species.SPACING * ANGPIX, species.PIXEL_SHELLS),
                (species.OWN_SPACING * gyration, species.OWN_SHELLS),
            ):
                from_shell = distance[:, None] / spacing - np.arange(count)
                mass = (weights * seen)[:, None] * np.exp(-0.5 * (from_shell / species.THICKNESS) ** 2)
                power = mass.T @ legendre @ mass
                expected += [*np.diag(power), *np.diag(power, 1)]
        expected = np.sign(expected) * np.sqrt(np.abs(expected))
        described = describe(found.taken(torch.tensor([row])), torch.tensor([ANGPIX]))[0].numpy()
        assert described[:-2] == pytest.approx(expected, abs=1e-3)
        assert described[-2:] == pytest.approx(np.log([gyration / ANGPIX, sigma / ANGPIX]), abs=1e-3)


def test_a_description_counts_in_pixels():
    found = drawn(10)
    larger = Assemblies(
        positions=2 * found.positions, weights=found.weights, sigma=2 * found.sigma, group=found.group
    )
    at = torch.linspace(5, 15, 10)
    assert torch.allclose(describe(found, at), describe(larger, 2 * at), atol=1e-5)


# ---------------------------------------------------------------------------------------------- densities


@pytest.mark.parametrize("side", [32, 33])
def test_a_density_lies_where_its_offset_says_in_x_y_z(side):
    found = small(4)
    offset = torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, -2.5, 0], [0.5, 1, 2]])
    density = draw_density(found, random_turns(4, seeded()), offset, pixels(4), side)
    assert density.shape == (4, side, side, side)
    mass = density.sum((1, 2, 3))
    voxel = torch.arange(side) - side // 2
    z, y, x = ((density.sum(axes) * voxel).sum(1) / mass for axes in ((2, 3), (1, 3), (1, 2)))
    assert torch.allclose(torch.stack([x, y, z], 1), offset, atol=1e-2)


def test_the_mass_of_a_density_does_not_depend_on_orientation_and_place():
    found = small(1).taken(torch.zeros(20, dtype=torch.long))
    generator = seeded(5)
    offset = 2 * torch.rand((20, 3), generator=generator)
    density = draw_density(found, random_turns(20, generator), offset, pixels(20), 32)
    expected = (np.sqrt(2 * np.pi) * found.sigma / ANGPIX) ** 3  # of Gaussians whose weights sum to 1
    assert torch.allclose(density.sum((1, 2, 3)), expected, rtol=1e-3)
    assert density.min() >= 0


def test_a_density_is_turned_as_simulated_tomograms_turn_theirs():
    found = small(60)
    found = found.taken((found.group == NAMES.index("C1")).nonzero()[:6, 0])
    turns, still = random_turns(6, seeded(1)), torch.eye(3).expand(6, 3, 3)
    offset = torch.tensor([1.0, -2.0, 0.5]).expand(6, 3)
    reference = draw_density(found, still, torch.zeros(6, 3), pixels(6), 32).numpy()
    here = draw_density(found, turns, offset, pixels(6), 32)
    back = draw_density(found, turns.mT, offset, pixels(6), 32)
    for row, density in enumerate(reference):
        shape = prepare_shapes({"x": density}, 32)["x"]
        there = turned(shape, turns[row].double().numpy(), offset[row].double().numpy())
        right, wrong = (np.corrcoef(one[row].ravel(), there.ravel())[0, 1] for one in (here, back))
        assert right > 0.9999
        assert 1 - right < 0.1 * (1 - wrong)


# ------------------------------------------------------------------------------------------------- seeing


@pytest.mark.parametrize("side", [16, 31, 32])
def test_every_box_has_the_snr_that_was_drawn_for_it(side):
    settings = Invention(box=side, coloured=0.5)
    seen = see(small(8), 3, pixels(8, ANGPIX * 32 / side), (0.01, 2.0), settings, seeded())
    assert seen.snr.shape == (8, 3)
    assert 0.01 <= seen.snr.min() < seen.snr.max() <= 2
    target, noise = (from_spectrum(part, side).double() for part in (seen.target, seen.noise))
    ratio = target.var((1, 2, 3), correction=0) / noise.var((1, 2, 3), correction=0)
    assert torch.allclose(ratio.float(), seen.snr.flatten(), rtol=1e-3)


def test_boxes_are_the_sum_of_their_parts():
    seen = see(small(4), 2, pixels(4), (0.5, 0.5), Invention(neighbour_chance=1), seeded())
    parts = sum(from_spectrum(part, 32) for part in (seen.target, seen.surroundings, seen.noise))
    assert seen.boxes.shape == (4, 2, 32, 32, 32)
    assert torch.allclose(seen.boxes.flatten(0, 1), parts, atol=1e-4 * float(parts.abs().max()))


@pytest.mark.parametrize("side", [31, 32])
def test_parts_are_spectra_of_real_boxes(side):
    """Whatever the tilts and their axis: else a box would not show what its spectrum says."""
    seen = see(small(30), 1, pixels(30), (0.5, 0.5), Invention(box=side, odd_axis=0.5), seeded())
    for part in (seen.target, seen.surroundings, seen.noise):
        again = torch.fft.rfftn(from_spectrum(part, side), dim=(1, 2, 3))
        assert torch.allclose(again, part, atol=1e-5 * float(part.abs().max()))


@pytest.mark.parametrize("side", [24, 32, 33])
def test_nothing_lies_in_the_missing_wedge_and_something_everywhere_else(side):
    seen = see(small(6), 2, pixels(6), (0.5, 0.5), PLAIN.replace(box=side), seeded())
    inside, paired = frequencies_seen(side)
    for part in (seen.target, seen.noise):
        assert (part[:, ~(inside & paired)] == 0).all()
    assert (seen.noise[:, inside & paired] != 0).all()
    assert (seen.target[:, inside & paired] != 0).float().mean() > 0.99


def test_uneven_tilts_lie_between_the_even_ones_of_their_limits():
    settings = PLAIN.replace(tilt=(40, 65))
    seen = seen_by_tilts(200, settings, seeded()).bool()
    least, paired = frequencies_seen(32, 40)
    most, _ = frequencies_seen(32, 65)
    assert seen[:, least & paired].all()
    assert not seen[:, ~most].any()
    assert len(torch.unique(seen.flatten(1), dim=0)) > 150
    flipped = seen[:, torch.cat([torch.tensor([0]), torch.arange(31, 0, -1)])]  # kz to -kz
    assert (seen[..., :-1] != flipped[..., :-1]).any((1, 2, 3)).float().mean() > 0.9  # not symmetric


def test_a_tilt_axis_of_any_direction_turns_the_wedge_about_the_beam():
    seen = seen_by_tilts(300, PLAIN.replace(odd_axis=1), seeded()).bool().flatten(1)
    _, paired = frequencies_seen(32)
    kz, ky, kx = optics.frequencies((32,) * 3)
    angles = np.arange(-90, 90)
    expected = [
        np.abs(kz) <= np.abs(kx * np.cos(a) + ky * np.sin(a)) * np.sqrt(3) for a in np.radians(angles)
    ]
    wedges = torch.tensor(np.array(expected)) & paired
    apart = torch.cdist(seen.float(), wedges.flatten(1).float(), p=1) / paired.sum()  # share that differs
    assert apart.amin(1).max() < 0.01
    found = angles[apart.argmin(1)]
    assert kstest((found + 90.0) / 180, "uniform").pvalue > 0.01


@pytest.mark.parametrize("b_factor", [0, 800])
def test_contrast_transfer_is_that_of_simulated_tomograms_plain_flipped_or_corrected(b_factor):
    count, settings = 600, PLAIN.replace(b_factor=(b_factor, b_factor))
    drawn_optics = draw_optics(pixels(count), settings, seeded())
    inside, paired = frequencies_seen(32)
    kz, ky, kx = optics.frequencies((32,) * 3)
    envelope = np.exp(-b_factor / 4 * (kz**2 + ky**2 + kx**2) / ANGPIX**2)
    high, low = (
        optics.contrast_transfer((32,) * 3, Simulation(angpix=ANGPIX, voltage=voltage), 3.0)
        for voltage in (300, 200)
    )
    allowed = [high, low, np.abs(high), np.abs(low), np.ones_like(high)]
    expected = torch.tensor(np.array(allowed) * envelope, dtype=torch.float32)[:, inside & paired]
    shown = drawn_optics.signal[:, inside & paired]
    error = (shown[:, None] - expected).abs().amax(2)  # (N, 5)
    assert error.amin(1).max() < 1e-5
    found = np.bincount(error.argmin(1), minlength=5) / count
    assert found == pytest.approx([0.8 / 3, 0.2 / 3, 0.8 / 3, 0.2 / 3, 1 / 3], abs=0.06)


def test_noise_is_white_where_it_is_not_asked_to_be_coloured():
    inside, paired = frequencies_seen(32)
    white = draw_optics(pixels(20), PLAIN, seeded()).background
    assert torch.equal(white, (inside & paired).float().expand_as(white))
    coloured = draw_optics(pixels(20), PLAIN.replace(coloured=1), seeded()).background[:, inside & paired]
    assert (coloured.std(1) > 0.01).float().mean() > 0.8


def test_a_low_pass_filter_takes_signal_and_noise_alike():
    inside, paired = frequencies_seen(32)
    kz, ky, kx = optics.frequencies((32,) * 3)
    k = torch.tensor(np.sqrt(kz**2 + ky**2 + kx**2), dtype=torch.float32)[inside & paired]
    open_, filtered = (
        draw_optics(pixels(9), PLAIN.replace(low_pass=limit), seeded()) for limit in ((50, 50), (0.25, 0.25))
    )
    passed = 1 / (1 + torch.exp((k - 0.25) / 0.02))
    for name in ("signal", "background"):
        before, after = (getattr(weights, name)[:, inside & paired] for weights in (open_, filtered))
        assert torch.allclose(after, before * passed, atol=1e-6)


# ------------------------------------------------------------------------------------------- surroundings


def test_nothing_surrounds_a_particle_unless_asked():
    found = small(10)
    alone = see(found, 2, pixels(10), (1, 1), Invention(neighbours=0, membrane_chance=0), seeded())
    assert (alone.surroundings == 0).all()
    never = see(found, 2, pixels(10), (1, 1), Invention(neighbour_chance=0, membrane_chance=0), seeded())
    assert (never.surroundings == 0).all()


@pytest.mark.parametrize(
    "asked",
    [{"neighbours": 3, "neighbour_chance": 1}, {"membrane_chance": 1}],
    ids=["neighbours", "membrane"],
)
def test_surroundings_that_are_asked_for_lie_beside_the_particle(asked):
    settings = PLAIN.replace(box=48, **asked)
    seen = see(small(12), 2, pixels(12), (1, 1), settings, seeded())
    assert (seen.surroundings.abs().amax((1, 2, 3)) > 0).all()
    assert (seen.noise.abs().amax((1, 2, 3)) > 0).all()
    target, around = (from_spectrum(part, 48).flatten(1) for part in (seen.target, seen.surroundings))
    inner = torch.tensor(np.linalg.norm(np.indices((48,) * 3) - 24, axis=0) < 3).flatten()
    assert (around[:, inner].square().mean(1) < target[:, inner].square().mean(1)).float().mean() > 0.85


def test_membranes_are_as_frequent_as_asked():
    seen = see(small(150), 2, pixels(150), (1, 1), PLAIN.replace(membrane_chance=0.25), seeded())
    assert (seen.surroundings.abs().amax((1, 2, 3)) > 0).float().mean() == pytest.approx(0.25, abs=0.06)


# --------------------------------------------------------------------------------------------------- views


def test_views_of_a_species_share_nothing_but_the_species():
    found = small(300)
    lopsided = found.taken((found.group == NAMES.index("C1")).nonzero()[:3, 0])
    seen = see(lopsided, 6, pixels(3), (0.1, 1), PLAIN, seeded())
    assert len(torch.unique(seen.snr)) == 18
    target, noise = (from_spectrum(part, 32).unflatten(0, (3, 6)) for part in (seen.target, seen.noise))
    for one, other in zip(target, noise, strict=True):
        assert np.abs(correlations(one)).max() < 0.999
        assert np.abs(correlations(other)).max() < 0.03


def test_views_of_a_species_differ_by_a_turn_and_a_shift():
    """Seen with a perfect microscope, the invariants of all views agree, and their axes do not."""
    found = small(4)
    rows = torch.arange(4).repeat_interleave(3)
    turns = random_turns(12, seeded(4))
    density = draw_density(found.taken(rows), turns, torch.zeros(12, 3), pixels(12), 32).double()
    at = torch.tensor(np.indices((32,) * 3)[::-1].reshape(3, -1) - 16.0)
    weight = density.flatten(1) / density.sum((1, 2, 3))[:, None]
    moments = torch.einsum("nv,iv,jv->nij", weight, at, at)
    sizes = torch.linalg.eigvalsh(moments).unflatten(0, (4, 3))
    assert torch.allclose(sizes, sizes[:, :1].expand_as(sizes), rtol=1e-3)
    apart = (moments.unflatten(0, (4, 3))[:, 0] - moments.unflatten(0, (4, 3))[:, 1]).abs().amax((1, 2))
    assert (apart > 0.02 * sizes.mean((1, 2))).all()


# ------------------------------------------------------------------------------------------------- batches


def test_a_batch_is_repeatable_from_its_seed():
    settings = Invention(neighbour_chance=0.5, membrane_chance=0.5)
    one, same, other = (draw_batch(6, 2, (0.1, 1), settings, seeded(seed)) for seed in (7, 7, 8))
    assert torch.equal(one.boxes, same.boxes)
    assert torch.equal(one.description, same.description)
    assert not torch.equal(one.boxes, other.boxes)
    assert not torch.equal(one.description, other.description)


@pytest.mark.parametrize("side", [16, 31, 32, 48])
def test_boxes_of_any_size_are_drawn(side):
    batch = draw_batch(8, 2, (0.1, 1), Invention(box=side), seeded())
    assert batch.boxes.shape == (8, 2, side, side, side)
    assert batch.description.shape == (8, DESCRIPTION)
    assert batch.boxes.isfinite().all()
    assert (batch.boxes.std((2, 3, 4)) > 0).all()


@pytest.mark.parametrize("angpix", [4.0, 16.0])
def test_species_fit_into_their_boxes(angpix):
    """Seen without noise and neighbours, hardly anything of a particle lies near the faces of its box."""
    settings = PLAIN.replace(pixel_range=(angpix, angpix), shift=2)
    generator = seeded()
    found = draw_assemblies(200, diameters(pixels(200, angpix), settings), (2 * angpix, 40.0), generator)
    density = draw_density(found, random_turns(200, generator), torch.zeros(200, 3), pixels(200, angpix), 32)
    inner = density[:, 1:-1, 1:-1, 1:-1].sum((1, 2, 3)) / density.sum((1, 2, 3))
    assert inner.min() > 0.95
    batch = draw_batch(20, 1, (1e6, 1e6), settings, generator)
    assert batch.boxes.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"snr": (1.0, 0.1)}, r"--snr is 1 0\.1; the smaller number comes first"),
        ({"tilt": (60.0, 50.0)}, r"--tilt is 60 50; the smaller number comes first"),
        ({"diameter": (300.0, 100.0)}, r"--diameter is 300 100; the smaller number comes first"),
        ({"tilt": (0.0, 60.0)}, "--tilt is 0.0; it must be above 0"),
        ({"b_factor": (-1.0, 0.0)}, "--b-factor is -1.0; it must be at least 0"),
    ],
)
def test_ranges_out_of_order_or_limits_are_refused(wrong, words):
    with pytest.raises(UsageError, match=words):
        Invention(**wrong)


@pytest.mark.parametrize(
    ("pixel", "words"),
    [
        (1.0, "1 angstroms hold species of up to 27 angstroms, but --diameter begins at 40"),
        (70.0, "70 angstroms show species of 280 angstroms or more, but --diameter ends at 260"),
    ],
)
def test_pixels_that_no_species_suits_are_refused(pixel, words):
    settings = Invention(pixel_range=(pixel, pixel))
    with pytest.raises(UsageError, match=words):
        draw_batch(4, 1, (1, 1), settings, seeded())


def test_species_suit_their_pixels():
    least, most = diameters(torch.tensor([4.0, 9.0, 16.0]), Invention())
    assert least.tolist() == [40, 40, 64]
    assert most.tolist() == [108, 243, 260]


def test_species_of_a_batch_have_pixels_of_their_own():
    """Species of one size in angstroms have blobs of many sizes in pixels."""
    settings = Invention(diameter=(100, 101), neighbours=0, membrane_chance=0)
    batch = draw_batch(40, 1, (1, 1), settings, seeded())
    sigma = batch.description[:, -1].exp()  # of the blobs in pixels
    assert sigma.max() / sigma.min() > 1.5
