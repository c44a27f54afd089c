"""The user's own density maps, brought to one pixel size and box."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryoclass.errors import UsageError, VolumeError
from cryoclass.simulation.phantoms import blur
from cryoclass.volumes.crop import crop
from cryoclass.volumes.mrc import Volume, read_map
from cryoclass.volumes.rescale import apply_rescale, plan_rescale

ENDINGS = (".mrc", ".map", ".ccp4", ".mrc.gz", ".map.gz", ".mrc.bz2", ".map.bz2")


def read_maps(folder: Path, angpix: float, box: int) -> dict[str, NDArray[np.float32]]:
    """Read every density map of a folder.

    The background is the median of a map's six faces. What rises less above it than 5 % of the highest voxel, or than
    four deviations of the faces, and every speck under 1 % of the largest piece, counts as background and becomes 0.

    Parameters
    ----------
    folder
        Holds MRC files; protein is positive.
    angpix
        Wished pixel size in angstroms.
    box
        Wished side of the cubes in pixels.

    Returns
    -------
    dict
        File name without its ending (blanks and the like become ``_``) to [z, y, x] float32, 0 outside, at most 1,
        centre of mass on voxel ``box // 2``; in alphabetical order.

    Raises
    ------
    UsageError
        There is no such folder, no map in it, or two maps would get one name.
    VolumeError
        A map is damaged, has no pixel size or no density, or does not fit into the box.
    """
    found = {name: _read_map(path) for name, path in sorted(_named(folder).items())}
    _check_fit(max(found.values(), key=lambda density: density.diameter), angpix, box)
    return {name: _into_box(density, angpix, box) for name, density in found.items()}


def read_references(folder: Path, angpix: float, box: int) -> dict[str, NDArray[np.float32]]:
    """Read every density map of a folder as :func:`read_maps` does, but leave each where it lies: orientations count from there.

    Returns
    -------
    dict
        File name without its ending to [z, y, x] float32, background 0, the middle voxel ``n // 2`` of the map on voxel ``box // 2``.

    Raises
    ------
    UsageError, VolumeError
        As :func:`read_maps`.
    """
    return {
        name: _in_place(_read_density(path), angpix, box) for name, path in sorted(_named(folder).items())
    }


def _in_place(volume: Volume, angpix: float, box: int) -> NDArray[np.float32]:
    """Bring a map to a pixel size and box, about its middle voxel."""
    assert volume.angpix is not None  # it was refused without one  # noqa: S101
    plan = plan_rescale(box, volume.angpix, angpix)
    middle = np.array(volume.data.shape) // 2
    return np.asarray(apply_rescale(_padded_crop(volume.data, middle, plan.cut), plan), np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """A map without its background: [z, y, x], pixel size, centre of mass (z, y, x in voxels), diameter in angstroms."""

    path: Path
    protein: NDArray[np.float32]
    angpix: float
    middle: NDArray[Any]
    diameter: float


def _named(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder.", "Give a folder of MRC density maps to --maps.")
    named: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = max((e for e in ENDINGS if path.name.lower().endswith(e)), key=len, default="")
        if not ending or path.name.startswith("."):
            continue
        # RELION 3.0 and Warp know no quotes, so a label must be one word.
        name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", path.name[: -len(ending)])
        if name in named:
            raise UsageError(f"{named[name]} and {path} are both called {name}.", "Rename one of them.")
        named[name] = path
    if not named:
        raise UsageError(f"{folder} holds no density map; their names end in {', '.join(ENDINGS[:3])}.")
    return named


def _read_map(path: Path) -> _Found:
    volume = _read_density(path)
    assert volume.angpix is not None  # it was refused without one  # noqa: S101
    return _measured(path, volume.data, volume.angpix)


def _read_density(path: Path) -> Volume:
    """Read a map, and take its background away."""
    volume = read_map(path)
    if volume.angpix is None:
        raise VolumeError(
            f"{path} has no pixel size in its header (0 or 1 means unknown).",
            "Set it: relion_image_handler --i map.mrc --o out.mrc --force_header_angpix 1.5 (with your pixel size).",
        )
    if volume.data.ndim != 3:
        raise VolumeError(f"{path} holds a stack of volumes; a density map is one.", "Take one out of it.")
    protein = without_background(volume.data)
    if not protein.any():
        raise VolumeError(f"{path} has no density above its background.", "Protein must be positive.")
    return Volume(path=path, data=protein, angpix=volume.angpix)


def _measured(path: Path, protein: NDArray[np.float32], angpix: float) -> _Found:
    """Cut a map down to its protein, so that many maps fit into memory, and measure it."""
    inside = ndimage.find_objects((protein > 0).astype(np.int8))[0]
    tight = protein[inside].copy()
    middle = np.array(ndimage.center_of_mass(tight))
    reach = np.sqrt(((np.argwhere(tight > 0) - middle) ** 2).sum(axis=1).max())
    return _Found(path=path, protein=tight, angpix=angpix, middle=middle, diameter=angpix * (2 * reach + 1))


def without_background(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a map [z, y, x] whose background is 0, by the rules of :func:`read_maps`."""
    faces = np.concatenate([data.take(end, axis).ravel() for axis in range(3) for end in (0, -1)])
    raised = data - np.median(faces)
    threshold = max(0.05 * float(raised.max()), 4 * float(faces.std()))
    pieces, count = ndimage.label(raised > threshold)
    if not count:
        return np.zeros_like(data)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0  # the background
    kept = (sizes >= 0.01 * sizes.max()) & (sizes > 0)
    return np.where(kept[pieces], raised, 0).astype(np.float32)


def _needed(density: _Found, angpix: float) -> int:
    """Return the even box that holds a map in every orientation; two pixels, so that it may sit between voxels."""
    pixels = math.ceil(density.diameter / angpix) + 2
    return pixels + pixels % 2


def _check_fit(density: _Found, angpix: float, box: int) -> None:
    needed = _needed(density, angpix)
    if needed > box + box % 2:
        raise VolumeError(
            f"{density.path} holds a particle with a diameter of {density.diameter:.0f} angstroms; a box of {box} pixels of {angpix:g} angstroms is too small for it.",
            f"Use --box {needed}, or a larger --angpix.",
        )


def _into_box(density: _Found, angpix: float, box: int) -> NDArray[np.float32]:
    # Two more for the ringing of the Fourier crop; a small cube saves memory where the map has tiny pixels.
    plan = plan_rescale(_needed(density, angpix) + 2, density.angpix, angpix)
    nearest = np.round(density.middle).astype(int)
    cut = _padded_crop(density.protein, nearest, plan.cut)
    # A coarser pixel shows less: blurred to two pixels first, as phantoms are, or the Fourier crop would ring.
    sigma = math.sqrt(max(blur(2 * angpix) ** 2 - blur(2 * density.angpix) ** 2, 0)) / density.angpix
    scaled = apply_rescale(ndimage.gaussian_filter(cut, sigma), plan)
    return _centred(scaled, (nearest - density.middle) * density.angpix / plan.angpix, box)


def _padded_crop(protein: NDArray[np.float32], centre: NDArray[Any], side: int) -> NDArray[np.float32]:
    padded = np.pad(protein, 1)  # crop repeats the outermost voxel, which is background now
    z, y, x = (int(c) + 1 for c in centre)
    return crop(padded, (z, y, x), side)


def _centred(cube: NDArray[np.float32], shift: NDArray[Any], box: int) -> NDArray[np.float32]:
    """Shift by a part of a voxel, put into the box, and scale the highest voxel to 1."""
    side = max(box, cube.shape[0]) + 2
    roomy = crop(np.pad(cube, 1), (cube.shape[0] // 2 + 1,) * 3, side)
    moved = ndimage.shift(roomy, shift, order=3)
    inside = np.maximum(crop(moved, (side // 2,) * 3, box), 0)  # the Fourier crop may ring a little below 0
    return np.asarray(inside / inside.max(), dtype=np.float32)
