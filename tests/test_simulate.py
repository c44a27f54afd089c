"""Phantoms, maps, optics, tomograms and their files."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import starfile
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from cryoclass.errors import UsageError, VolumeError
from cryoclass.settings import Simulation
from cryoclass.simulation.maps import read_maps, without_background
from cryoclass.simulation.optics import contrast_transfer, seen_by_tilts, transferred, wavelength
from cryoclass.simulation.phantoms import (
    SPECIES,
    blur,
    density,
    diameter,
    first_names,
    operators,
    phantom_densities,
)
from cryoclass.simulation.rotations import about, random_rotations, relion_angles
from cryoclass.simulation.tomogram import (
    positions_in,
    prepare_shapes,
    simulate_boxes,
    simulate_tomogram,
    turned,
)
from cryoclass.simulation.writer import share_out, shown_labels, write_particles, write_tomograms
from cryoclass.volumes.crop import crop
from cryoclass.volumes.mrc import open_volume, read_map, write_volume

SMALL = Simulation(species=2, per_species=6, tomograms=2, box=20, angpix=10.0, size=(32, 96, 96), snr=0.2)


@pytest.fixture(scope="module")
def densities():
    return phantom_densities(SMALL)


@pytest.fixture(scope="module")
def shapes(densities):
    return prepare_shapes(densities, SMALL.box)


@pytest.fixture(scope="module")
def drawn():
    """Every phantom at 6 angstroms."""
    return {name: density(species, 6.0, 52) for name, species in SPECIES.items()}


def correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def turned_by(volume, rotation):
    shape = prepare_shapes({"x": volume}, volume.shape[0])["x"]
    return turned(shape, rotation, np.zeros(3))


# ------------------------------------------------------------------------------------------- phantoms


@pytest.mark.parametrize(
    ("symmetry", "order"), [("C1", 1), ("C3", 3), ("D2", 4), ("D7", 14), ("T", 12), ("O", 24)]
)
def test_a_point_group_has_its_order_and_is_closed(symmetry, order):
    group = operators(symmetry)
    assert len(group) == order
    assert np.linalg.det(group) == pytest.approx(np.ones(order))
    product = group[-1] @ group[order // 2]
    assert np.isclose(product, group).all(axis=(1, 2)).sum() == 1


@pytest.mark.parametrize("symmetry", ["", "C0", "X3", "C", "I9"])
def test_an_unknown_symmetry_is_refused(symmetry):
    with pytest.raises(UsageError, match="must be Cn, Dn, T, O or I"):
        operators(symmetry)


def test_phantoms_repeat_under_their_own_symmetry_only(drawn):
    for name, species in SPECIES.items():
        group = operators(species.symmetry)
        for operator in group[1:4]:
            assert correlation(drawn[name], turned_by(drawn[name], operator)) > 0.99, name
        # A turn that no group here holds.
        assert correlation(drawn[name], turned_by(drawn[name], about((1, 2, 3), 100))) < 0.97, name


def test_phantoms_have_the_published_size(drawn):
    for name, species in SPECIES.items():
        solid = drawn[name] > 0.5
        sizes = [
            6.0 * (np.ptp(np.flatnonzero(solid.any(axis=axes))) + 1) for axes in ((0, 1), (0, 2), (1, 2))
        ]
        assert sizes == pytest.approx(species.extent, rel=0.1, abs=6.0), name


def test_phantoms_are_positive_and_centred(drawn):
    for name, volume in drawn.items():
        assert volume.dtype == np.float32
        assert volume.min() >= 0
        assert 0.6 < volume.max() <= 1.001, name
        assert np.abs(np.array(ndimage.center_of_mass(volume)) - 26).max() < 0.1, name


def test_phantoms_keep_mass_and_place_at_any_pixel_size():
    fine, coarse = density(SPECIES["groel"], 4.0, 64), density(SPECIES["groel"], 12.0, 31)
    assert fine.sum() * 4**3 == pytest.approx(coarse.sum() * 12**3, rel=0.01)
    assert np.array(ndimage.center_of_mass(coarse)) == pytest.approx([15, 15, 15], abs=0.05)


def test_the_shells_are_hollow(drawn):
    assert drawn["apoferritin"][26, 26, 26] < 0.01  # cavity of 80 angstroms
    assert drawn["t20s_proteasome"][24:29, 26, 26].max() < 0.05  # chamber between the beta rings
    assert drawn["groel"][35, 26, 26] < 0.05  # folding cavity of one ring


def test_no_two_phantoms_look_alike_at_ten_angstroms():
    boxes = phantom_densities(Simulation())
    assert len(boxes) >= 10
    assert list(boxes) == sorted(boxes)
    names = list(boxes)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert correlation(boxes[a], boxes[b]) < 0.9, (a, b)


def test_the_first_species_in_alphabetical_order_are_taken(densities):
    assert list(densities) == sorted(SPECIES)[:2]
    assert first_names(["b", "c", "a"], None) == ["a", "b", "c"]
    with pytest.raises(UsageError, match="--species is 4, but there are only 3: a, b, c"):
        first_names(["b", "c", "a"], 4)


def test_a_phantom_that_does_not_fit_names_the_box_that_does():
    with pytest.raises(UsageError, match=r"ribosome has a diameter of \d+ angstroms; --box 20") as caught:
        phantom_densities(SMALL.replace(species=None))
    needed = int(caught.value.hint.split("--box ")[1].split(",")[0])
    boxes = phantom_densities(SMALL.replace(species=None, box=needed))
    prepare_shapes(boxes, needed)
    assert (needed - 2) * 10 > diameter(SPECIES["ribosome"])


# ------------------------------------------------------------------------------------------ rotations


def test_rotations_are_proper_and_uniform():
    rotations = random_rotations(4000, np.random.default_rng(1))
    assert rotations @ rotations.transpose(0, 2, 1) == pytest.approx(
        np.tile(np.eye(3), (4000, 1, 1)), abs=1e-9
    )
    assert np.linalg.det(rotations) == pytest.approx(np.ones(4000))
    # Over all orientations every entry has mean 0 and mean square 1/3; five standard errors are allowed.
    assert np.abs(rotations.mean(axis=0)).max() < 5 * np.sqrt(1 / 3 / 4000)
    assert np.abs((rotations**2).mean(axis=0) - 1 / 3).max() < 5 * 0.3 / np.sqrt(4000)
    # The tip of z lies in every octant as often.
    octants = np.unique(np.sign(rotations[:, :, 2]), axis=0, return_counts=True)[1]
    assert len(octants) == 8
    assert np.abs(octants - 500).max() < 5 * np.sqrt(500)


def test_angles_are_those_of_relion_by_way_of_scipy():
    special = np.array([np.eye(3), about((0, 0, 1), 40), about((1, 0, 0), 180), about((1, 1, 0), 180)])
    rotations = np.concatenate([random_rotations(50, np.random.default_rng(2)), special])
    angles = relion_angles(rotations)
    back = Rotation.from_euler("ZYZ", angles[:50], degrees=True).as_matrix().transpose(0, 2, 1)
    assert back == pytest.approx(rotations[:50], abs=1e-9)
    for one, rotation in zip(angles[50:], special, strict=True):
        again = Rotation.from_euler("ZYZ", one, degrees=True).as_matrix().T
        assert again == pytest.approx(rotation, abs=1e-9)
    assert angles[50] == pytest.approx([0, 0, 0])


def test_turning_takes_a_point_where_the_matrix_says():
    volume = np.zeros((24, 24, 24), np.float32)
    volume[12 + 2, 12 - 3, 12 + 6] = 1  # x 6, y -3, z 2
    volume = ndimage.gaussian_filter(volume, 1.5)
    rotation, offset = random_rotations(1, np.random.default_rng(3))[0], np.array([0.4, -0.3, 0.2])
    shape = prepare_shapes({"x": volume}, 24)["x"]
    z, y, x = np.array(ndimage.center_of_mass(turned(shape, rotation, offset))) - 12
    assert [x, y, z] == pytest.approx(rotation @ [6, -3, 2] + offset, abs=0.02)


# --------------------------------------------------------------------------------------------- optics


def test_the_wavelength_is_the_relativistic_one():
    # Reimer and Kohl, Transmission Electron Microscopy: 3.701, 2.508 and 1.969 pm.
    assert [wavelength(v) for v in (100, 200, 300)] == pytest.approx([0.03701, 0.02508, 0.01969], rel=1e-3)


def test_contrast_transfer_has_its_sign_and_zeros_where_theory_puts_them():
    settings = Simulation(angpix=4.0, amplitude_contrast=0.1)
    transfer = contrast_transfer((4, 4, 4000), settings, 3.0)[0, 0]
    k = fft.rfftfreq(4000) / 4.0
    assert transfer[0] == pytest.approx(0.1)  # amplitude contrast alone, protein bright
    assert transfer[: np.searchsorted(k, 0.015)].min() > 0
    # Without Cs the first zero is where pi lambda defocus k^2 = pi - asin(A).
    plain = contrast_transfer((4, 4, 4000), settings.replace(spherical_aberration=0.0), 3.0)[0, 0]
    zero = np.sqrt((np.pi - np.arcsin(0.1)) / (np.pi * wavelength(300) * 3e4))
    first = np.flatnonzero(np.diff(np.sign(plain)))[0]
    assert k[first] <= zero <= k[first + 1]
    # Cs turns the phase back, so the zero moves outwards.
    assert np.flatnonzero(np.diff(np.sign(transfer)))[0] >= first


def test_contrast_transfer_does_not_care_for_the_shape_of_the_volume():
    settings = Simulation(angpix=5.0)
    cube, slab = (contrast_transfer(s, settings, 2.0) for s in ((32, 32, 32), (16, 32, 64)))
    assert cube[0, :, 0] == pytest.approx(slab[0, :, 0])
    assert cube[::2, 0, 0] == pytest.approx(slab[:, 0, 0], abs=1e-5)
    assert cube[0, 0, :] == pytest.approx(slab[0, 0, ::2], abs=1e-5)


@pytest.mark.parametrize("shape", [(32, 24, 40), (15, 16, 17)])
@pytest.mark.parametrize("tilt", [30.0, 45.0, 60.0])
def test_the_wedge_is_empty_exactly_where_no_tilt_sees(shape, tilt):
    mask = seen_by_tilts(shape, tilt)
    assert mask.shape == (shape[0], shape[1], shape[2] // 2 + 1)
    kz, kx = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[2])[None]
    angle = np.degrees(np.arctan2(np.abs(kz), kx))  # of a direction to the plane across the beam
    assert (mask[:, 3] == (angle <= tilt + 1e-6)).all()
    assert (mask == mask[:, :1]).all()  # the tilt axis y is seen everywhere alike
    volume = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    power = np.abs(fft.rfftn(transferred(volume, mask).astype(np.float64))) ** 2
    assert power[~mask].max() < 1e-9 * power[mask].mean()


def test_a_full_tilt_range_leaves_no_wedge():
    assert seen_by_tilts((8, 8, 8), 90.0).all()


# ----------------------------------------------------------------------------------------- tomograms


def test_the_measured_snr_is_the_one_asked_for(shapes):
    species = list(shapes) * 3
    for snr in (0.05, 2.0):
        seen = simulate_tomogram(shapes, species, SMALL.replace(snr=snr), np.random.default_rng(4))
        cubes = [
            crop(seen.signal, tuple(round(c) for c in reversed(p.position)), SMALL.box)
            for p in seen.particles
        ]
        signal = np.mean([cube.astype(np.float64).var() for cube in cubes])
        assert signal / seen.noise.astype(np.float64).var() == pytest.approx(snr, rel=0.01)
        boxes = simulate_boxes(shapes, species, SMALL.replace(snr=snr), np.random.default_rng(4))
        assert boxes.signal.var(axis=(1, 2, 3)).mean() / boxes.noise.var() == pytest.approx(snr, rel=0.01)


def test_signal_and_noise_leave_the_wedge_empty(shapes):
    seen = simulate_tomogram(shapes, list(shapes), SMALL, np.random.default_rng(5))
    mask = seen_by_tilts(SMALL.size, SMALL.tilt)
    for volume in (seen.signal, seen.noise, seen.volume):
        power = np.abs(fft.rfftn(volume.astype(np.float64))) ** 2
        assert power[~mask].max() < 1e-9 * power[mask].max()
    assert seen.volume.mean() == pytest.approx(0, abs=1e-5)
    assert seen.volume.std() == pytest.approx(1, abs=1e-4)


def test_a_planted_particle_is_the_density_turned_by_its_angles(shapes):
    # In focus, with amplitude contrast alone and without wedge, the signal is the density itself.
    settings = SMALL.replace(defocus=(0.0, 0.0), spherical_aberration=0.0, amplitude_contrast=1.0, tilt=90.0)
    for seed in range(3):
        seen = simulate_tomogram(shapes, ["aldolase"], settings, np.random.default_rng(seed))
        (particle,) = seen.particles
        rotation = Rotation.from_euler("ZYZ", particle.angles, degrees=True).as_matrix().T
        nearest = np.round(particle.position)
        expected = turned(shapes["aldolase"], rotation, np.array(particle.position) - nearest)
        found = crop(seen.signal, tuple(int(c) for c in reversed(nearest)), SMALL.box)
        assert found == pytest.approx(expected, abs=1e-5)


def test_particles_do_not_overlap_and_their_boxes_lie_inside():
    radii = [8.0, 5.0, 8.0, 3.0, 5.0, 6.0] * 2
    placed = positions_in(radii, SMALL, np.random.default_rng(7))
    assert (placed >= 10).all()
    assert (placed <= np.array([86, 86, 22])).all()
    for i, a in enumerate(placed):
        for j in range(i):
            assert np.linalg.norm(a - placed[j]) >= radii[i] + radii[j]


def test_too_many_particles_say_how_many_found_room():
    with pytest.raises(
        UsageError, match=r"only \d+ of 200 particles find room in a tomogram of 32 x 96 x 96"
    ):
        positions_in([9.0] * 200, SMALL, np.random.default_rng(8))


def test_a_tomogram_smaller_than_the_box_is_refused(shapes):
    with pytest.raises(UsageError, match="--size is 16 x 96 x 96; no side may be below --box 20"):
        simulate_tomogram(shapes, ["aldolase"], SMALL.replace(size=(16, 96, 96)), np.random.default_rng(0))


def test_densities_of_the_wrong_kind_are_refused(densities):
    with pytest.raises(VolumeError, match=r"aldolase has shape \(20, 20, 20\); it must be a cube of 24"):
        prepare_shapes(densities, 24)
    with pytest.raises(VolumeError, match="x is empty"):
        prepare_shapes({"x": np.zeros((20, 20, 20), np.float32)}, 20)
    with pytest.raises(
        VolumeError, match=r"x reaches 17\.8 pixels from the centre; a box of 20 pixels holds 10"
    ):
        prepare_shapes({"x": np.ones((20, 20, 20), np.float32)}, 20)


def test_species_are_shared_out_evenly_and_no_tomogram_is_empty():
    names = ["a", "b", "c", "d"]
    for per_species, tomograms in ((10, 4), (5, 4), (2, 8), (1, 4), (3, 7)):
        shares = share_out(names, SMALL.replace(per_species=per_species, tomograms=tomograms))
        assert sorted(name for share in shares for name in share) == sorted(names * per_species)
        assert all(shares)
        for name in names:
            counts = [share.count(name) for share in shares]
            assert max(counts) - min(counts) <= 1
    with pytest.raises(UsageError, match="--tomograms is 9, but there are only 8 particles"):
        share_out(names, SMALL.replace(per_species=2, tomograms=9))


# --------------------------------------------------------------------------------------------- files


def tree(folder: Path):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


@pytest.mark.parametrize("write", [write_tomograms, write_particles])
def test_the_same_seed_gives_the_same_bytes(write, densities, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write(tmp_path / name, densities, SMALL.replace(seed=seed, per_species=3))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    first, other = tree(tmp_path / "a"), tree(tmp_path / "c")
    assert first.keys() == other.keys()
    assert not set(first.values()) & set(other.values())


def test_a_relion31_tomogram_set(densities, tmp_path):
    written = write_tomograms(tmp_path, densities, SMALL)
    assert [p.relative_to(tmp_path).as_posix() for p in written.volumes] == [
        "tomograms/TS_01.mrc",
        "tomograms/TS_02.mrc",
    ]
    assert written.counts == {"aldolase": 6, "apoferritin": 6}
    assert written.labelled == 12
    assert "# version 30001" in written.star.read_text()
    blocks = starfile.read(written.star, always_dict=True)
    assert list(blocks) == ["optics", "particles"]
    optics, particles = blocks["optics"].iloc[0], blocks["particles"]
    assert optics["rlnMicrographPixelSize"] == optics["rlnImagePixelSize"] == 10
    assert {"rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"} <= set(blocks["optics"].columns)
    assert set(particles["rlnOpticsGroup"]) == {1}
    for tomogram, rows in particles.groupby("rlnMicrographName"):
        assert (tmp_path / tomogram).is_file()
        assert set(rows["cryoclassLabel"]) == {"aldolase", "apoferritin"}
    volume = open_volume(written.volumes[0])
    assert (volume.data.shape, volume.data.dtype, volume.angpix) == ((32, 96, 96), np.dtype("f4"), 10.0)


def test_truth_stands_beside_every_row(densities, tmp_path):
    written = write_tomograms(tmp_path, densities, SMALL.replace(labelled=0.5))
    rows = starfile.read(written.star)["particles"]
    truth = starfile.read(written.truth)
    same = ["rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]
    assert rows[same].equals(truth[same])
    shown = rows["cryoclassLabel"] != "unlabelled"
    assert (rows["cryoclassLabel"] == truth["cryoclassLabel"])[shown].all()
    assert written.labelled == shown.sum() == 6
    assert {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"} <= set(truth.columns)
    assert truth["rlnDefocusU"].between(25000, 50000).all()
    assert truth.groupby("rlnMicrographName")["rlnDefocusU"].nunique().tolist() == [1, 1]


def test_relion30_and_warp_say_the_pixel_size_their_own_way(densities, tmp_path):
    write_tomograms(tmp_path / "r", densities, SMALL.replace(dialect="relion30"))
    write_tomograms(tmp_path / "w", densities, SMALL.replace(dialect="warp"))
    ((name, relion),) = starfile.read(tmp_path / "r" / "coordinates.star", always_dict=True).items()
    assert name == ""
    assert "version" not in (tmp_path / "r" / "coordinates.star").read_text()
    assert (1e4 * relion["rlnDetectorPixelSize"] / relion["rlnMagnification"] == 10).all()
    assert set(relion["rlnMicrographName"]) == {"tomograms/TS_01.mrc", "tomograms/TS_02.mrc"}
    assert not {"rlnOpticsGroup", "rlnPixelSize", "rlnImagePixelSize"} & set(relion.columns)
    warp = starfile.read(tmp_path / "w" / "coordinates.star")
    assert set(warp["rlnMicrographName"]) == {"TS_01.tomostar", "TS_02.tomostar"}
    assert (warp["rlnPixelSize"] == 10).all()
    assert open_volume(tmp_path / "w/tomograms/TS_01_10.00Apx.mrc").data.dtype == np.dtype("f2")


@pytest.mark.parametrize(
    ("dialect", "sign", "file"), [("relion31", -1, "TS_01.mrc"), ("warp", 1, "TS_01_10.00Apx.mrc")]
)
def test_the_mean_of_crops_shows_the_particle_in_the_middle(dialect, sign, file, densities, tmp_path):
    settings = SMALL.replace(
        dialect=dialect, tomograms=1, snr=20.0, defocus=(0.0, 0.0), spherical_aberration=0.0, per_species=8
    )
    written = write_tomograms(tmp_path, densities, settings)
    rows = starfile.read(written.star, always_dict=True)
    rows = rows["" if dialect == "warp" else "particles"]
    tomogram = read_map(tmp_path / "tomograms" / file).data
    centres = np.round(rows[[f"rlnCoordinate{a}" for a in "ZYX"]].to_numpy()).astype(int)
    mean = sign * np.mean([crop(tomogram, tuple(c), 20) for c in centres.tolist()], axis=0)
    particle = np.where(mean > 0.3 * mean.max(), mean, 0)
    assert np.array(ndimage.center_of_mass(particle)) == pytest.approx([10, 10, 10], abs=0.6)
    assert mean[5:15, 5:15, 5:15].mean() > mean[:3].mean() + 0.2 * mean.max()


def test_particles_without_tomograms(densities, tmp_path):
    written = write_particles(tmp_path, densities, SMALL)
    rows, truth = starfile.read(written.star)["particles"], starfile.read(written.truth)
    assert rows["rlnImageName"][0] == "Subtomograms/TS_01/TS_01_000001.mrc"
    assert [tmp_path / name for name in rows["rlnImageName"]] == list(written.volumes)
    assert starfile.read(written.star)["optics"]["rlnImageSize"].tolist() == [20]
    box = read_map(written.volumes[0])
    assert (box.data.shape, box.angpix) == ((20, 20, 20), 10.0)
    assert box.data.mean() == pytest.approx(0, abs=1e-5)
    assert box.data.std() == pytest.approx(1, abs=1e-4)
    off = rows["rlnCoordinateX"] - truth["rlnCoordinateX"]
    assert 0 < off.abs().max() <= 1
    assert rows["cryoclassLabel"].tolist() == truth["cryoclassLabel"].tolist()


def test_particles_are_written_bright(densities, tmp_path):
    settings = SMALL.replace(snr=50.0, defocus=(0.0, 0.0), spherical_aberration=0.0)
    written = write_particles(tmp_path, {"aldolase": densities["aldolase"]}, settings.replace(species=1))
    mean = np.mean([read_map(p).data for p in written.volumes], axis=0)
    assert mean[8:13, 8:13, 8:13].mean() > 1


@pytest.mark.parametrize("labelled", [0.0, 0.01, 0.25, 0.5, 1.0])
def test_the_share_of_labels_holds_for_every_species(labelled):
    species = ["a", "b"] * 20 + ["b"] * 20
    labels = shown_labels(species, SMALL.replace(labelled=labelled))
    for name, count in (("a", 20), ("b", 40)):
        assert labels.count(name) == max(round(labelled * count), int(labelled > 0))
    assert all(label in (name, "unlabelled") for label, name in zip(labels, species, strict=True))
    assert labels == shown_labels(species, SMALL.replace(labelled=labelled))


def test_nothing_to_simulate_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no density to simulate"):
        write_tomograms(tmp_path, {}, SMALL.replace(species=None))
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- maps


def ball(side, radius, centre):
    axes = np.ogrid[tuple(slice(n) for n in side)]
    distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)))
    return np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)


@pytest.fixture
def map_folder(tmp_path):
    """A ball of 60 angstroms at 3 A on a grey, noisy ground, off the centre of a box that is no cube."""
    noise = 0.02 * np.random.default_rng(0).standard_normal((40, 48, 56)).astype(np.float32)
    write_volume(tmp_path / "my ball.mrc", 7 * ball((40, 48, 56), 10, (17.3, 25.6, 30.2)) + 3 + noise, 3.0)
    return tmp_path


@pytest.mark.parametrize(("angpix", "box"), [(3.0, 32), (4.1, 24), (10.0, 16), (1.5, 64), (6.0, 21)])
def test_a_map_keeps_its_size_in_angstroms(map_folder, angpix, box):
    ((name, found),) = read_maps(map_folder, angpix, box).items()
    assert name == "my_ball"
    assert (found.shape, found.dtype) == ((box, box, box), np.dtype("f4"))
    assert found.max() == 1
    assert found.min() == 0
    assert np.array(ndimage.center_of_mass(found)) == pytest.approx([box // 2] * 3, abs=0.05)
    # The radius of gyration of a ball is sqrt(3/5) of its radius; the blur of a coarser pixel adds to its square.
    grid = np.indices(found.shape) - box // 2
    gyration = np.sqrt((found * (grid**2).sum(axis=0)).sum() / found.sum()) * angpix
    added = max(blur(2 * angpix) ** 2 - blur(2 * 3.0) ** 2, 0)
    assert gyration == pytest.approx(np.sqrt(3 / 5 * 30**2 + 3 * added), rel=0.03)


def test_a_map_becomes_particles(map_folder, tmp_path):
    written = write_tomograms(tmp_path / "out", read_maps(map_folder, 10.0, 20), SMALL.replace(species=1))
    assert written.counts == {"my_ball": 6}


def test_background_and_specks_become_zero():
    data = ball((30, 30, 30), 6, (15, 15, 15)) - 5
    data[3, 3, 3] += 0.9
    cleaned = without_background(data)
    assert cleaned[3, 3, 3] == cleaned[0, 0, 0] == 0
    assert cleaned[15, 15, 15] == pytest.approx(1)
    assert without_background(np.full((8, 8, 8), 2.0, np.float32)).any() == np.False_


def test_maps_that_cannot_be_used_say_why(map_folder, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        read_maps(tmp_path / "absent", 10.0, 32)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no map")
    with pytest.raises(UsageError, match="holds no density map"):
        read_maps(tmp_path / "empty", 10.0, 32)
    with pytest.raises(
        VolumeError, match=r"my ball.mrc holds a particle with a diameter of 6\d angstroms"
    ) as caught:
        read_maps(map_folder, 5.0, 12)
    needed = int(caught.value.hint.split("--box ")[1].split(",")[0])
    assert read_maps(map_folder, 5.0, needed)["my_ball"].shape == (needed,) * 3


@pytest.mark.parametrize(
    ("name", "value", "angpix", "message"),
    [
        ("a.mrc", None, 1.0, "a.mrc has no pixel size"),
        ("flat.mrc", 5.0, 3.0, "flat.mrc has no density above its background"),
        ("my_ball.mrc", None, 3.0, "are both called my_ball"),
    ],
)
def test_a_bad_map_is_named(map_folder, name, value, angpix, message):
    data = ball((24, 24, 24), 6, (12, 12, 12)) if value is None else np.full((24, 24, 24), value, np.float32)
    write_volume(map_folder / name, data, angpix)
    with pytest.raises((VolumeError, UsageError), match=message):
        read_maps(map_folder, 10.0, 32)
