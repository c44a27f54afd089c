"""Phantoms: well-known complexes, rebuilt from published symmetry, dimensions and subunit layout.

A phantom is a union of solid ellipsoids of density 1. It is a stand-in with the right size, symmetry, holes and lobes,
not a model of the protein: at the 15 to 40 angstroms that matter in a tomogram little more is seen. Lengths are
angstroms, vectors x, y, z; the main symmetry axis is z.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryoclass.errors import UsageError
from cryoclass.settings import Simulation
from cryoclass.simulation.rotations import Matrix, about, operators

Vector = tuple[float, float, float]

BEST_RESOLUTION = 15.0
"""Angstroms; phantoms hold nothing finer."""


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A solid ellipsoid.

    Attributes
    ----------
    centre
        Angstroms from the symmetry axes.
    radii
        Half axes in angstroms, along x, y, z before turning.
    turn
        Degrees about z.
    lean
        Degrees about y, before ``turn``.
    """

    centre: Vector
    radii: Vector
    turn: float = 0.0
    lean: float = 0.0

    @property
    def axes(self) -> Matrix:
        """The directions of the half axes, as columns."""
        return about((0, 0, 1), self.turn) @ about((0, 1, 0), self.lean)


@dataclass(frozen=True, kw_only=True)
class Species:
    """A complex.

    Attributes
    ----------
    name
        The label that particles get.
    symmetry
        Point group: ``C1``, ``C3``, ``D7``, ``T``, ``O``, ...
    extent
        Published (or, where ``source`` says so, approximate) size in angstroms along x, y, z.
    source
        Where symmetry, size and layout come from.
    unit
        Ellipsoids of one asymmetric unit.
    """

    name: str
    symmetry: str
    extent: Vector
    source: str
    unit: tuple[Blob, ...]


def ring_blob(radius: float, degrees: float, height: float, radii: Vector, lean: float = 0.0) -> Blob:
    """Return a blob of a ring about z; ``radii`` are its half axes along the radius, the ring and z."""
    angle = math.radians(degrees)
    centre = (radius * math.cos(angle), radius * math.sin(angle), height)
    return Blob(centre=centre, radii=radii, turn=degrees, lean=lean)


_ALL = (
    Species(
        name="aldolase",
        symmetry="D2",
        extent=(92, 90, 66),
        source="Rabbit muscle fructose-bisphosphate aldolase, PDB 1ADO: tetramer of 39 kDa TIM barrels; approximate layout.",
        unit=(
            Blob(centre=(23, 22, 10), radii=(22.5, 23.5, 23.5)),
            Blob(centre=(36, 9, -10), radii=(9, 9, 9)),
        ),
    ),
    Species(
        name="apoferritin",
        symmetry="O",
        extent=(120, 120, 120),
        source="Horse spleen apoferritin, PDB 1IER: 24 four-helix bundles on a rhombic dodecahedron, 120 A outside, 80 A inside.",
        # Each face, on a twofold axis, carries two antiparallel bundles along its long diagonal.
        unit=(Blob(centre=(34.5, 34.5, 14.5), radii=(11, 31, 17), turn=45),),
    ),
    Species(
        name="beta_galactosidase",
        symmetry="D2",
        extent=(175, 135, 90),
        source="E. coli beta-galactosidase, PDB 1DP0: 465 kDa tetramer of 175 x 135 x 90 A (Jacobson et al. 1994); approximate layout.",
        unit=(
            Blob(
                centre=(61, 22, 14), radii=(28, 22, 26)
            ),  # jelly roll and immunoglobulin folds at the far ends
            Blob(centre=(40, 42, 16), radii=(25, 27, 30)),  # TIM barrel
            Blob(centre=(20, 22, -18), radii=(23, 19, 22)),  # beta sandwich at the activating interface
        ),
    ),
    Species(
        name="dnab_helicase",
        symmetry="C6",
        extent=(118, 106, 75),
        source="E. coli DnaB in its sixfold form (Yu et al. 1996), two tiers as in PDB 2R6A; about 118 A across; approximate layout.",
        unit=(
            ring_blob(38, 0, -18, (22, 21, 21)),  # motor domains
            ring_blob(37, 25, 20, (13, 20, 19)),  # collar of N-terminal domains, with the wider hole
        ),
    ),
    Species(
        name="glutamate_dehydrogenase",
        symmetry="D3",
        extent=(100, 100, 144),
        source="Bovine glutamate dehydrogenase, PDB 3JCZ: 334 kDa, two stacked trimers with antennae on the threefold; approximate layout.",
        unit=(
            ring_blob(25, 0, 18, (24, 23, 21)),  # glutamate domains: the core
            ring_blob(35, 28, 42, (18, 19, 20)),  # nucleotide domains
            ring_blob(9, 50, 58, (8, 8, 14)),  # antenna
        ),
    ),
    Species(
        name="groel",
        symmetry="D7",
        extent=(135, 135, 145),
        source="E. coli GroEL, PDB 1OEL: two rings of seven, 145 A long, 135 A wide, cavities of 45 A (Braig et al. 1994).",
        unit=(
            ring_blob(45, 8, 18, (23, 21, 19)),  # equatorial
            ring_blob(21, 20, 12, (13, 11, 10)),  # tails that close the cavities in the middle
            ring_blob(54, 0, 38, (13, 13, 15)),  # intermediate
            ring_blob(45, -8, 56, (23, 20, 18)),  # apical
        ),
    ),
    Species(
        name="hemagglutinin",
        symmetry="C3",
        extent=(78, 78, 135),
        source="Influenza hemagglutinin ectodomain, PDB 2HMG: a spike of 135 A, 15 to 40 A in radius (Wilson et al. 1981).",
        unit=(
            ring_blob(10, 0, -22, (12, 12, 46)),  # coiled coil of HA2
            ring_blob(15, 40, -52, (10, 9, 15)),  # foot
            ring_blob(17, 70, 2, (9, 10, 20)),  # vestigial esterase
            ring_blob(22, 15, 43, (19, 21, 26)),  # receptor-binding head of HA1
        ),
    ),
    Species(
        name="insulin_receptor",
        symmetry="C2",
        extent=(132, 56, 128),
        source="Insulin receptor ectodomain, PDB 3LOH: inverted V, L2 and FnIII-1 at the apex; approximate layout.",
        unit=(
            Blob(centre=(46, 13, -38), radii=(20, 15, 22)),  # L1
            Blob(centre=(36, 13, -5), radii=(15, 14, 20), lean=-15),  # CR
            Blob(centre=(20, 13, 30), radii=(20, 15, 20)),  # L2
            Blob(centre=(-14, 13, 44), radii=(16, 13, 19)),  # FnIII-1
            Blob(centre=(-33, 13, 6), radii=(13, 13, 25), lean=20),  # FnIII-2
            Blob(centre=(-49, 12, -41), radii=(13, 13, 25), lean=20),  # FnIII-3
        ),
    ),
    Species(
        name="ribosome",
        symmetry="C1",
        extent=(200, 250, 215),
        source="80S ribosome (yeast, PDB 4V88): two unequal lobes, about 250 A in its greatest length; approximate layout.",
        unit=(
            Blob(centre=(32, 0, 0), radii=(66, 95, 88)),  # body of the large subunit
            Blob(centre=(22, 5, 90), radii=(26, 30, 28)),  # central protuberance
            Blob(centre=(12, -104, 42), radii=(16, 20, 16)),  # L1 stalk
            Blob(centre=(14, 106, 36), radii=(15, 20, 15)),  # P stalk
            Blob(centre=(-66, 8, -28), radii=(34, 48, 66)),  # body of the small subunit
            Blob(centre=(-60, -8, 66), radii=(32, 42, 32)),  # its head
            Blob(centre=(-30, 0, -10), radii=(16, 18, 40)),  # bridges between the two
        ),
    ),
    Species(
        name="rubisco",
        symmetry="D4",
        extent=(114, 114, 108),
        source="Spinach RuBisCO, PDB 8RUC: eight large and eight small subunits, about 110 A, channel on the fourfold; approximate layout.",
        unit=(
            ring_blob(35, 10, 20, (23, 24, 25)),  # large
            ring_blob(33, 45, 40, (17, 16, 16)),  # small, on the poles between the large
        ),
    ),
    Species(
        name="t20s_proteasome",
        symmetry="D7",
        extent=(113, 113, 148),
        source="T. acidophilum 20S proteasome, PDB 1PMA: rings of seven alpha, beta, beta, alpha; 148 A x 113 A (Loewe et al. 1995).",
        unit=(
            ring_blob(37, 8, 56, (20, 20, 19)),  # alpha
            ring_blob(16, 30, 55, (11, 9, 12)),  # loops that leave a gate of 13 A
            ring_blob(40, -5, 19, (17.5, 21, 20)),  # beta, wide chamber
        ),
    ),
    Species(
        name="thyroglobulin",
        symmetry="C2",
        extent=(240, 140, 100),
        source="Human thyroglobulin, PDB 6SCJ: 660 kDa, a long dimer with flaps and arms; about 240 A; approximate layout.",
        unit=(
            Blob(centre=(24, 14, 26), radii=(30, 28, 26)),  # cholinesterase-like domain at the twofold
            Blob(centre=(48, -10, -18), radii=(42, 36, 30)),  # core
            Blob(centre=(92, 12, -8), radii=(30, 22, 26), turn=30),  # arm
            Blob(centre=(70, -46, 6), radii=(24, 22, 30), turn=-40),  # flap
        ),
    ),
)

SPECIES: dict[str, Species] = {species.name: species for species in _ALL}
"""Every phantom, by name, in alphabetical order."""


def first_names(names: Iterable[str], count: int | None) -> list[str]:
    """Return the first ``count`` names in alphabetical order, or all of them.

    Raises
    ------
    UsageError
        There are fewer.
    """
    ordered = sorted(names)
    if count is not None and count > len(ordered):
        raise UsageError(
            f"--species is {count}, but there are only {len(ordered)}: {', '.join(ordered)}.",
            f"Use --species {len(ordered)} or leave it out.",
        )
    return ordered[:count]


def phantom_densities(settings: Simulation) -> dict[str, NDArray[np.float32]]:
    """Return the densities of the first ``settings.species`` phantoms in alphabetical order (all: ``None``).

    Raises
    ------
    UsageError
        There are not so many phantoms, or one does not fit into the box.
    """
    chosen = [SPECIES[name] for name in first_names(SPECIES, settings.species)]
    _check_fit(max(chosen, key=diameter), settings.angpix, settings.box)  # so the hint suits all of them
    return {species.name: density(species, settings.angpix, settings.box) for species in chosen}


def density(species: Species, angpix: float, box: int) -> NDArray[np.float32]:
    """Draw a phantom.

    The solid is drawn on a grid of at most 4 angstroms, blurred with a Gaussian to a resolution of 15 angstroms or
    two pixels, whichever is coarser (Gaussian of resolution / (pi sqrt 2), as ChimeraX molmap), and averaged down.

    Parameters
    ----------
    species
        What to draw.
    angpix
        Pixel size in angstroms.
    box
        Side of the cube in pixels.

    Returns
    -------
    numpy.ndarray
        ``[z, y, x]`` float32, 0 outside and 1 inside protein, centre of mass on voxel ``box // 2``.

    Raises
    ------
    UsageError
        The phantom does not fit into the box in every orientation.
    """
    _check_fit(species, angpix, box)
    finer = 2 * math.ceil((angpix / 4 - 1) / 2) + 1  # odd, so that a fine voxel lies on each coarse centre
    solid = _drawn(_whole(species), angpix / finer, finer * box, finer * (box // 2) + finer // 2)
    blurred = ndimage.gaussian_filter(solid, blur(max(BEST_RESOLUTION, 2 * angpix)) / (angpix / finer))
    return np.asarray(blurred.reshape(box, finer, box, finer, box, finer).mean(axis=(1, 3, 5)), np.float32)


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """A blob of the whole complex: centre (3,), axes (3, 3) as columns, radii (3,), all in angstroms."""

    centre: NDArray[Any]
    axes: Matrix
    radii: NDArray[Any]


@functools.cache
def _whole(species: Species) -> tuple[_Placed, ...]:
    """Apply the symmetry and bring the centre of mass to 0."""
    blobs = [
        _Placed(centre=turn @ blob.centre, axes=turn @ blob.axes, radii=np.array(blob.radii))
        for turn in operators(species.symmetry)
        for blob in species.unit
    ]
    spacing, side = 4.0, 2 * math.ceil(_reach(blobs) / 4.0) + 4
    solid = _drawn(blobs, spacing, side, side // 2)
    middle = (np.array(ndimage.center_of_mass(solid)) - side // 2)[::-1] * spacing
    return tuple(_Placed(centre=b.centre - middle, axes=b.axes, radii=b.radii) for b in blobs)


def _reach(blobs: Iterable[_Placed]) -> float:
    """Return a distance from 0 in angstroms that no blob exceeds by much: the farthest tip of a half axis."""
    return max(
        float(np.linalg.norm(b.centre + sign * b.axes[:, i] * b.radii[i]))
        for b in blobs
        for i in range(3)
        for sign in (-1, 1)
    )


def blur(resolution: float) -> float:
    """Return the deviation of the Gaussian that brings a density to a resolution, both in angstroms (as molmap)."""
    return resolution / (math.pi * math.sqrt(2))


def diameter(species: Species) -> float:
    """Return the diameter in angstroms of the sphere about the centre of mass that holds a phantom."""
    return 2 * _reach(_whole(species))


def _check_fit(species: Species, angpix: float, box: int) -> None:
    # One resolution for the blur, and two pixels so that a particle may sit between voxels.
    needed = math.ceil((diameter(species) + max(BEST_RESOLUTION, 2 * angpix)) / angpix) + 2
    if needed > box:
        raise UsageError(
            f"{species.name} has a diameter of {diameter(species):.0f} angstroms; --box {box} at --angpix {angpix:g} is too small for it.",
            f"Use --box {needed + needed % 2}, or a larger --angpix.",
        )


def _drawn(blobs: Iterable[_Placed], spacing: float, side: int, origin: int) -> NDArray[np.float32]:
    """Draw solid ellipsoids as a cube [z, y, x]; ``origin`` is the voxel of 0 along each axis."""
    cube = np.zeros((side, side, side), np.float32)
    for blob in blobs:
        half = np.sqrt(((blob.axes * blob.radii) ** 2).sum(axis=1)) + spacing
        low = np.maximum(np.floor((blob.centre - half) / spacing).astype(int) + origin, 0)
        high = np.minimum(np.ceil((blob.centre + half) / spacing).astype(int) + origin + 1, side)
        part = cube[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
        axes = [(np.arange(low[i], high[i]) - origin) * spacing - blob.centre[i] for i in range(3)]
        np.maximum(part, _ellipsoid(axes, blob, spacing), out=part)
    return cube


def _ellipsoid(axes: list[NDArray[Any]], blob: _Placed, spacing: float) -> NDArray[np.float32]:
    """Return 1 inside, 0 outside and a ramp of one voxel between, at points x, y, z relative to the blob's centre."""
    grid = np.stack(np.broadcast_arrays(axes[0], axes[1][:, None], axes[2][:, None, None]), axis=-1)
    scaled = grid @ (blob.axes / blob.radii)
    distance = (np.linalg.norm(scaled, axis=-1) - 1) * float(np.prod(blob.radii)) ** (1 / 3)
    return np.asarray(np.clip(0.5 - distance / spacing, 0, 1), dtype=np.float32)
