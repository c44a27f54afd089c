"""Tomograms of known content: particles placed, seen through the microscope, and buried in noise.

Volumes are [z, y, x]; positions x, y, z in pixels, the centre of the first voxel being 0. Protein is positive (bright)
here; who wants dark particles turns the sign when writing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoclass.errors import UsageError, VolumeError
from cryoclass.settings import Simulation, Size3
from cryoclass.simulation.optics import contrast_transfer, seen_by_tilts, transferred
from cryoclass.simulation.rotations import random_rotations, relion_angles
from cryoclass.star.tables import DECIMALS
from cryoclass.volumes.crop import nearest_voxels
from cryoclass.volumes.turn import spline, turned_spline

Density = NDArray[np.float32]
Keep = Callable[[int, Density], None]
"""Sees each particle's number, from 1, and its density alone in its box [z, y, x], turned and moved as it lies there."""

PICKING_ERROR = 1.0
"""Pixels along each axis by which a particle may lie off the centre of a box simulated on its own."""


@dataclass(frozen=True, kw_only=True)
class Particle:
    """A particle as it truly lies.

    Attributes
    ----------
    species
        Its label.
    picked
        Position x, y, z in pixels of the tomogram where somebody who looks for it finds it.
    position
        True position x, y, z in pixels.
    angles
        RELION's rot, tilt, psi in degrees.
    """

    species: str
    picked: tuple[float, ...]
    position: tuple[float, ...]
    angles: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What was seen, signal and noise apart.

    Attributes
    ----------
    particles
        What lies in it.
    defocus
        Micrometres under focus.
    signal, noise
        A tomogram [z, y, x], or boxes [n, z, y, x] in the order of ``particles``; both after the missing wedge.
    """

    particles: tuple[Particle, ...]
    defocus: float
    signal: Density
    noise: Density

    @property
    def volume(self) -> Density:
        """Signal and noise together, brought to mean 0 and deviation 1 (a tomogram, or each box on its own)."""
        total = self.signal + self.noise
        axes = (-3, -2, -1)
        total -= total.mean(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32)
        total /= total.std(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32)
        return total


@dataclass(frozen=True, kw_only=True, eq=False)
class Shape:
    """A density made ready to be turned: its spline coefficients [z, y, x], and its radius in pixels."""

    coefficients: Density
    radius: float


def prepare_shapes(densities: Mapping[str, Density], box: int) -> dict[str, Shape]:
    """Check densities and compute what turning them needs.

    Raises
    ------
    VolumeError
        A density is no cube of ``box`` pixels, or reaches beyond the sphere that fits into it.
    """
    return {name: _prepare(name, density, box) for name, density in densities.items()}


def _prepare(name: str, density: Density, box: int) -> Shape:
    if density.shape != (box, box, box):
        raise VolumeError(
            f"the density of {name} has shape {density.shape}; it must be a cube of {box} pixels."
        )
    filled = np.argwhere(density > 0.1 * density.max())
    if not len(filled) or density.max() <= 0:
        raise VolumeError(f"the density of {name} is empty.", "Protein must be positive.")
    # Half a voxel more, since a voxel's centre is measured.
    radius = float(np.linalg.norm(filled - box // 2, axis=1).max()) + 0.5
    if radius > box // 2:
        raise VolumeError(
            f"the density of {name} reaches {radius:.1f} pixels from the centre; a box of {box} pixels holds {box // 2}.",
            f"Use --box {2 * int(np.ceil(radius)) + 2}, or a larger --angpix.",
        )
    return Shape(coefficients=spline(density), radius=radius)


def turned(shape: Shape, rotation: NDArray[Any], offset: NDArray[Any]) -> Density:
    """Return a density turned about voxel ``n // 2`` and moved, by cubic splines.

    Parameters
    ----------
    shape
        From :func:`prepare_shapes`.
    rotation
        Matrix (3, 3) in x, y, z that takes the reference to the tomogram.
    offset
        Shift x, y, z in voxels.
    """
    return turned_spline(shape.coefficients, rotation, offset)


def forget(_number: int, _density: Density) -> None:
    """Keep nothing."""


def simulate_tomogram(
    shapes: Mapping[str, Shape],
    species: Sequence[str],
    settings: Simulation,
    rng: np.random.Generator,
    keep: Keep = forget,
) -> Seen:
    """Simulate one tomogram.

    Parameters
    ----------
    shapes
        From :func:`prepare_shapes`.
    species
        One name for each particle.
    settings
        Size, optics and noise.
    rng
        Draws everything.
    keep
        Sees the particles go by.

    Raises
    ------
    UsageError
        The particles do not fit without overlap.
    """
    positions = positions_in([shapes[name].radius for name in species], settings, rng)
    rotations = random_rotations(len(species), rng)
    middles = box_middles(positions)
    clean = np.zeros(settings.size, np.float32)
    alone = _placed([shapes[name] for name in species], rotations, positions - middles, keep)
    for middle, density in zip(middles, alone, strict=True):
        clean[_cube(middle, settings.box)] += density
    defocus = rng.uniform(*settings.defocus)
    seen = seen_by_tilts(settings.size, settings.tilt)
    signal = transferred(clean, contrast_transfer(settings.size, settings, defocus) * seen)
    variance = signal_variance(signal, positions, settings.box)
    noise = noise_for(variance / settings.snr, settings.size, settings.tilt, rng)
    return Seen(
        particles=_particles(species, positions, positions, rotations),
        defocus=defocus,
        signal=signal,
        noise=noise,
    )


def simulate_boxes(
    shapes: Mapping[str, Shape],
    species: Sequence[str],
    settings: Simulation,
    rng: np.random.Generator,
    keep: Keep = forget,
) -> Seen:
    """Simulate the particles of one tomogram each in a box of its own, without the tomogram.

    A particle lies up to :data:`PICKING_ERROR` pixels off the centre of its box, as after picking. Parameters as in
    :func:`simulate_tomogram`.
    """
    picked = np.round(_random_positions(len(species), settings, rng))
    offsets = rng.uniform(-PICKING_ERROR, PICKING_ERROR, (len(species), 3))
    rotations = random_rotations(len(species), rng)
    defocus = rng.uniform(*settings.defocus)
    cube: Size3 = (settings.box,) * 3
    weights = contrast_transfer(cube, settings, defocus) * seen_by_tilts(cube, settings.tilt)
    alone = _placed([shapes[name] for name in species], rotations, offsets, keep)
    signal = np.stack([transferred(density, weights) for density in alone])
    variance = float(signal.var(axis=(1, 2, 3), dtype=np.float64).mean())
    noise = np.stack([noise_for(variance / settings.snr, cube, settings.tilt, rng) for _ in species])
    return Seen(
        particles=_particles(species, picked, picked + offsets, rotations),
        defocus=defocus,
        signal=signal,
        noise=noise,
    )


def _placed(
    shapes: Sequence[Shape], rotations: NDArray[Any], offsets: NDArray[Any], keep: Keep
) -> Iterator[Density]:
    """Yield the density of each particle alone in its box, after ``keep`` has seen it."""
    for number, (shape, rotation, offset) in enumerate(zip(shapes, rotations, offsets, strict=True), 1):
        density = turned(shape, rotation, offset)
        keep(number, density)
        yield density


def box_middles(positions: NDArray[Any]) -> NDArray[np.int64]:
    """Return the voxels x, y, z (n, 3) round which ``extract`` cuts the boxes of particles at ``positions`` (n, 3).

    It reads positions from a table, where they are rounded.
    """
    return nearest_voxels(np.round(positions, DECIMALS)).astype(np.int64)


def _particles(
    species: Sequence[str], picked: NDArray[Any], positions: NDArray[Any], rotations: NDArray[Any]
) -> tuple[Particle, ...]:
    angles = relion_angles(rotations)
    return tuple(
        Particle(species=name, picked=tuple(at), position=tuple(lies), angles=tuple(angle))
        for name, at, lies, angle in zip(
            species, picked.tolist(), positions.tolist(), angles.tolist(), strict=True
        )
    )


def signal_variance(signal: Density, positions: NDArray[Any], box: int) -> float:
    """Return the variance within a cube of ``box`` pixels round each position (x, y, z), mean over the cubes."""
    cubes = [_cube(middle, box) for middle in box_middles(positions)]
    return float(np.mean([signal[cube].var(dtype=np.float64) for cube in cubes]))


def noise_for(variance: float, size: Size3, tilt: float, rng: np.random.Generator) -> Density:
    """Return Gaussian noise [z, y, x] that has passed the missing wedge and has exactly this variance."""
    white = rng.standard_normal(size, dtype=np.float32)
    noise = transferred(white, seen_by_tilts(size, tilt))
    return noise * np.float32(np.sqrt(variance / noise.var(dtype=np.float64)))


def _cube(middle_xyz: NDArray[Any], box: int) -> tuple[slice, ...]:
    """Return the slices z, y, x of the cube round a voxel x, y, z."""
    return tuple(slice(int(i) - box // 2, int(i) - box // 2 + box) for i in middle_xyz[::-1])


def positions_in(
    radii: Sequence[float], settings: Simulation, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Place spheres at random: none overlaps another, and the box round each lies within the tomogram.

    Parameters
    ----------
    radii
        In pixels.
    settings
        Size of the tomogram and box.
    rng
        Draws the positions.

    Returns
    -------
    numpy.ndarray
        x, y, z in pixels, (n, 3), in the order of ``radii``.

    Raises
    ------
    UsageError
        They do not fit.
    """
    sizes = np.asarray(radii, dtype=float)
    placed = np.empty((len(sizes), 3))
    largest_first = np.argsort(-sizes, kind="stable")
    for done, index in enumerate(largest_first):
        before = largest_first[:done]
        spot = _free_spot(placed[before], sizes[before] + sizes[index], settings, rng)
        if spot is None:
            raise UsageError(
                f"only {done} of {len(sizes)} particles find room in a tomogram of {' x '.join(map(str, settings.size))} pixels.",
                "Use a larger --size, more --tomograms, or fewer --per-species.",
            )
        placed[index] = spot
    return placed


def _free_spot(
    placed: NDArray[Any], distances: NDArray[Any], settings: Simulation, rng: np.random.Generator
) -> NDArray[np.float64] | None:
    """Return x, y, z at least ``distances`` (n,) away from ``placed`` (n, 3), or None after many attempts."""
    for _attempt in range(100):
        candidates = _random_positions(50, settings, rng)
        gaps = np.linalg.norm(candidates[:, None] - placed, axis=2) - distances
        free = np.flatnonzero((gaps >= 0).all(axis=1))
        if free.size:
            return np.asarray(candidates[free[0]])
    return None


def _random_positions(count: int, settings: Simulation, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw x, y, z so that the box round each lies within the tomogram."""
    half, size_xyz = settings.box // 2, np.array(settings.size[::-1])
    if (size_xyz < settings.box).any():
        raise UsageError(
            f"--size is {' x '.join(map(str, settings.size))}; no side may be below --box {settings.box}.",
            f"Use a --size of at least {settings.box} along every axis.",
        )
    return rng.uniform(half, size_xyz - settings.box + half, (count, 3))
