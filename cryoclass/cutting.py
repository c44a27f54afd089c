"""Boxes out of tomograms: where each is cut, and what is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cryoclass.errors import ChangedError, LeftOutError, ParticleError, VolumeError
from cryoclass.files import digest, stamp
from cryoclass.particles import Particles
from cryoclass.readings import Site, positions_in, read_frame, sites_of
from cryoclass.settings import Extraction
from cryoclass.star.frames import Frame, xyz_to_zyx
from cryoclass.tomograms import Tomogram
from cryoclass.volumes.crop import crop, nearest_voxels, overlap
from cryoclass.volumes.mrc import Volume, check_finite
from cryoclass.volumes.normalise import normalise
from cryoclass.volumes.pixels import agree
from cryoclass.volumes.rescale import RescalePlan, apply_rescale, plan_rescale

FAR_OUTSIDE = 2**40  # voxels; nonsense coordinates must stay whole numbers


@dataclass(frozen=True, kw_only=True)
class Placement(Site):
    """Where the boxes of one tomogram are cut.

    Attributes
    ----------
    positions
        Where the particles are (m, 3) x, y, z: 0-based voxel indices with fraction.
    centres
        Voxels (m, 3) x, y, z that become the box centres.
    plan
        Which cube to cut and what to make of it.
    """

    positions: np.ndarray
    centres: np.ndarray
    plan: RescalePlan

    @property
    def remainders(self) -> np.ndarray:
        """Where the particles lie from the centres of their boxes (m, 3) x, y, z in angstroms."""
        return np.asarray((self.positions - self.centres) * self.geometry.angpix)


class TomogramSource:
    """Boxes cut from tomograms on the fly, exactly as ``extract`` writes them.

    Parameters
    ----------
    particles
        A table with coordinates.
    tomograms
        Volumes by tomogram name; particles of other tomograms cannot be read.
    settings
        How to cut.
    tomogram_angpix
        Voxel size of the tomograms in angstroms, where the headers are wrong.

    Attributes
    ----------
    reading
        What the coordinates were taken for.

    Raises
    ------
    ParticleError
        Tomograms of different pixel sizes and no ``settings.angpix``, or a size that the coordinates need is unknown.
    """

    def __init__(
        self,
        particles: Particles,
        tomograms: Mapping[str, Tomogram],
        settings: Extraction,
        tomogram_angpix: float | None = None,
    ) -> None:
        self.particles, self.settings = particles, settings
        sites = sites_of(particles, tomograms, tomogram_angpix)
        self.reading = read_frame(particles, sites, settings)
        self.placements = [place(site, particles, settings, self.reading.frame) for site in sites]
        self.angpix = _common_angpix(self.placements)
        self.box = settings.box
        self.order = np.concatenate([p.rows for p in self.placements])
        self._stamps = {path: stamp(path) for p in self.placements for path in p.tomogram.paths}

    def __len__(self) -> int:
        return len(self.particles)

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32; see :class:`Source`."""
        if index not in self._where:
            raise LeftOutError(f"tomogram {self.particles.tomograms[index]} has no volume.")
        placement, position = self._where[index]
        self._check_unchanged(placement)
        z, y, x = xyz_to_zyx(placement.centres[position]).tolist()
        volume = placement.tomogram.open()
        how = overlap(volume.data.shape, (z, y, x), placement.plan.cut)
        if how == "outside" or (how == "partial" and self.settings.edge == "skip"):
            words = "lies outside" if how == "outside" else "sticks out of"
            raise LeftOutError(f"the box at x={x} y={y} z={z} {words} the tomogram {_size_words(volume)}.")
        bright = placement.tomogram.is_bright(by_table=self.particles.bright)
        cut = crop(volume.data, (z, y, x), placement.plan.cut)
        self._check_unchanged(placement)
        return finish_box(cut, placement.plan, self.settings, bright=bright)

    def _check_unchanged(self, placement: Placement) -> None:
        """Hold, before and after voxels are read, that the files are those that the run began with."""
        for path in placement.tomogram.paths:
            if stamp(path) != self._stamps[path]:
                raise ChangedError(
                    f"{path} has changed while boxes were cut out of it (its size or time): results would mix two "
                    "versions.",
                    "Wait until nothing writes it any more, and type the same command again.",
                )

    def fingerprint(self) -> str:
        """Return what the boxes are; see :class:`cryoclass.sources.Source`: where each is cut, how, and out of what."""
        places = [
            (
                p.rows.tobytes(),
                p.centres.tobytes(),
                p.plan,
                p.tomogram.is_bright(by_table=self.particles.bright),
            )
            for p in self.placements
        ]
        stamps = [stamp(path) for p in self.placements for path in p.tomogram.paths]
        return digest("crops", len(self), self.settings, *places, *stamps)

    @cached_property
    def _where(self) -> dict[int, tuple[Placement, int]]:
        return {int(row): (p, position) for p in self.placements for position, row in enumerate(p.rows)}


def finish_box(cut: np.ndarray, plan: RescalePlan, settings: Extraction, *, bright: bool) -> np.ndarray:
    """Turn a plain crop into a subtomogram: rescale, normalise, then invert, in RELION's order.

    Parameters
    ----------
    cut
        ``[z, y, x]`` float32 cube of ``plan.cut`` pixels a side.
    plan, settings
        How to rescale and what else to do.
    bright
        Whether particles are brighter than the background in the tomogram; decides ``--invert auto``.

    Raises
    ------
    VolumeError
        The box holds NaN or is constant.
    """
    check_finite(cut, Path("the box"))
    if cut.min() == cut.max():
        raise VolumeError(f"the box is constant: every voxel is {cut.flat[0]:g}.")
    box = apply_rescale(cut, plan)
    if settings.norm:
        box = normalise(box, settings.background_radius)
    invert = settings.invert == "yes" or (settings.invert == "auto" and not bright)
    return np.ascontiguousarray(-box if invert else box)


def place(site: Site, particles: Particles, settings: Extraction, frame: Frame) -> Placement:
    """Return where to cut the particles of a tomogram whose coordinates count ``frame``."""
    angpix = site.geometry.angpix
    positions = positions_in(frame, site, particles, settings.coords_angpix)
    if settings.shifts and particles.origins is not None:
        positions = positions - particles.origins[site.rows] / angpix
    rounded = np.trunc(positions) if settings.relion_rounding else nearest_voxels(positions)
    return Placement(
        **vars(site),
        positions=positions,
        centres=np.clip(rounded, -FAR_OUTSIDE, FAR_OUTSIDE).astype(np.int64),
        plan=plan_rescale(settings.box, angpix, settings.angpix or angpix),
    )


def _common_angpix(placements: list[Placement]) -> float:
    sizes = {p.tomogram.name: p.plan.angpix for p in placements}
    small, large = min(sizes, key=lambda name: sizes[name]), max(sizes, key=lambda name: sizes[name])
    if not agree(sizes[small], sizes[large]):
        raise ParticleError(
            f"the tomograms have different pixel sizes: {small} {sizes[small]:g} A, {large} {sizes[large]:g} A.",
            "Give --angpix, so that all boxes get the same.",
        )
    return sizes[small]


def _size_words(volume: Volume) -> str:
    z, y, x = volume.data.shape
    return f"{volume.path.name} ({x} x {y} x {z})"
