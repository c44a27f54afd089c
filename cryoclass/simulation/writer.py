"""Simulated tomograms and particles as files that RELION, Warp and cryoclass read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cryoclass.errors import UsageError
from cryoclass.files import together
from cryoclass.particles import IMAGE
from cryoclass.progress import Track, silent
from cryoclass.settings import Simulation
from cryoclass.simulation.phantoms import first_names
from cryoclass.simulation.tomogram import (
    Keep,
    Seen,
    Shape,
    forget,
    prepare_shapes,
    simulate_boxes,
    simulate_tomogram,
)
from cryoclass.simulation.truth import truth_names, volume_name, write_truth
from cryoclass.star.tables import Table, write_tables
from cryoclass.volumes.mrc import write_volume

Density = NDArray[np.float32]
Simulate = Callable[[Mapping[str, Shape], Sequence[str], Simulation, np.random.Generator, Keep], Seen]

LABEL_COLUMN = "cryoclassLabel"
UNLABELLED = "unlabelled"
RELION31_VERSION = 30001
MAGNIFICATION = 10000.0
"""At this magnification a detector pixel in micrometres is a pixel in angstroms; Warp writes the same."""


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What was written.

    Attributes
    ----------
    star
        The particle table that a user would have: ``coordinates.star`` or ``particles.star``.
    truth
        ``truth.star``: the same rows with true position, angles, defocus and label.
    volumes
        Tomograms, or particle boxes in row order.
    counts
        Particles of each species.
    labelled
        Particles whose label stands in ``star``.
    """

    star: Path
    truth: Path
    volumes: tuple[Path, ...]
    counts: dict[str, int]
    labelled: int


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The columns of all particles, in row order, that the tables are made of.

    ``images`` and ``truth`` are columns that name volumes; both are empty where there are none.
    """

    tomograms: list[str]
    picked: NDArray[Any]
    position: NDArray[Any]
    angles: NDArray[Any]
    defocus: NDArray[Any]
    species: list[str]
    images: dict[str, list[str]]
    truth: dict[str, list[str]]


def write_tomograms(
    outdir: Path,
    densities: Mapping[str, Density],
    settings: Simulation,
    track: Track = silent,
    *,
    truth: bool = False,
) -> Simulated:
    """Write ``tomograms/TS_01.mrc`` ..., ``coordinates.star`` and ``truth.star``.

    RELION's tomograms are float32 with dark particles, Warp's (``TS_01_10.00Apx.mrc``) float16 with bright ones.

    Parameters
    ----------
    outdir
        Folder to write to.
    densities
        Species to [z, y, x] cube of ``settings.box`` pixels at ``settings.angpix``, protein positive. The first
        ``settings.species`` in alphabetical order are used.
    settings
        Everything else.
    track
        Sees the tomograms go by.
    truth
        Write ``Masks/`` and ``Densities/`` too: of each particle what it truly is in the box that ``extract`` cuts round it.

    Raises
    ------
    UsageError
        The settings do not fit together: too few species, too many particles, too many tomograms.
    VolumeError
        A density has the wrong box or is empty.
    """
    warp = settings.dialect == "warp"
    dtype: Literal["float16", "float32"] = "float16" if warp else "float32"
    volumes, parts = [], []
    for name, seen in _each_tomogram(
        densities, settings, simulate_tomogram, track, outdir if truth else None
    ):
        file = f"{name}_{settings.angpix:.2f}Apx.mrc" if warp else f"{name}.mrc"
        volumes.append(outdir / "tomograms" / file)
        write_volume(volumes[-1], seen.volume if warp else -seen.volume, settings.angpix, dtype)
        known = truth_names(name, len(seen.particles)) if truth else {}
        parts.append(_rows(_tomogram_key(name, settings), seen, {}, known))
    return _write_stars(outdir / "coordinates.star", _joined(parts), settings, volumes)


def write_particles(
    outdir: Path,
    densities: Mapping[str, Density],
    settings: Simulation,
    track: Track = silent,
    *,
    truth: bool = False,
) -> Simulated:
    """Write ``Subtomograms/TS_01/TS_01_000001.mrc`` ..., ``particles.star`` and ``truth.star``, without tomograms.

    Every box is simulated on its own, with bright particles, and has mean 0 and deviation 1. Parameters and errors as
    in :func:`write_tomograms`.
    """
    volumes, parts = [], []
    for name, seen in _each_tomogram(densities, settings, simulate_boxes, track, outdir if truth else None):
        count = len(seen.particles)
        images = [volume_name("Subtomograms", name, number) for number in range(1, count + 1)]
        for image, box in zip(images, seen.volume, strict=True):
            volumes.append(outdir / image)
            write_volume(volumes[-1], box, settings.angpix)
        known = truth_names(name, count) if truth else {}
        parts.append(_rows(_tomogram_key(name, settings), seen, {IMAGE: images}, known))
    return _write_stars(outdir / "particles.star", _joined(parts), settings, volumes)


def _each_tomogram(
    densities: Mapping[str, Density],
    settings: Simulation,
    simulate: Simulate,
    track: Track,
    truth: Path | None,
) -> Iterator[tuple[str, Seen]]:
    """Yield the name and content of every tomogram; each has a random generator of its own.

    What its particles truly are is written into the folder ``truth``, where one is given, as they are placed.
    """
    names = first_names(densities, settings.species)
    if not names:
        raise UsageError("there is no density to simulate.", "Give a folder with maps, or leave --maps out.")
    shapes = prepare_shapes({name: densities[name] for name in names}, settings.box)
    shares = share_out(names, settings)
    digits = max(2, len(str(settings.tomograms)))
    for index in track(range(settings.tomograms), "Simulating tomograms", settings.tomograms):
        rng = np.random.default_rng([settings.seed, index])
        name = f"TS_{index + 1:0{digits}d}"
        keep = forget if truth is None else partial(write_truth, truth, settings.angpix, name)
        yield name, simulate(shapes, rng.permutation(shares[index]).tolist(), settings, rng, keep)


def share_out(names: Sequence[str], settings: Simulation) -> list[list[str]]:
    """Share the particles out: every species as evenly as it goes over the tomograms, no tomogram empty.

    Returns
    -------
    list
        For each tomogram the species of its particles.

    Raises
    ------
    UsageError
        There are more tomograms than particles.
    """
    tomograms, each = settings.tomograms, settings.per_species
    if tomograms > each * len(names):
        raise UsageError(
            f"--tomograms is {tomograms}, but there are only {each * len(names)} particles.",
            f"Use --tomograms {each * len(names)}, or more --per-species.",
        )
    shares: list[list[str]] = [[] for _ in range(tomograms)]
    for number, name in enumerate(names):
        # Species start at different tomograms, so that all are filled where a species has fewer particles than that.
        start = number * tomograms // len(names)
        for particle in range(each):
            shares[(start + particle) % tomograms].append(name)
    return shares


def shown_labels(species: Sequence[str], settings: Simulation) -> list[str]:
    """Return what the label column says: the species, or ``unlabelled`` for all but a drawn share of each species.

    At least one particle of each species keeps its label, unless ``settings.labelled`` is 0.
    """
    rng = np.random.default_rng([settings.seed, settings.tomograms])
    names, labels = np.array(species), np.full(len(species), UNLABELLED, dtype=object)
    for name in sorted(set(species)):
        rows = rng.permutation(np.flatnonzero(names == name))
        count = max(round(settings.labelled * len(rows)), int(settings.labelled > 0))
        labels[rows[:count]] = name
    return [str(label) for label in labels]


def _rows(tomogram: str, seen: Seen, images: dict[str, list[str]], truth: dict[str, list[str]]) -> _Rows:
    particles = seen.particles
    return _Rows(
        tomograms=[tomogram] * len(particles),
        picked=np.array([p.picked for p in particles]),
        position=np.array([p.position for p in particles]),
        angles=np.array([p.angles for p in particles]),
        defocus=np.full(len(particles), 1e4 * seen.defocus),  # angstroms
        species=[p.species for p in particles],
        images=images,
        truth=truth,
    )


def _joined(parts: list[_Rows]) -> _Rows:
    return _Rows(
        tomograms=[name for part in parts for name in part.tomograms],
        picked=np.concatenate([part.picked for part in parts]),
        position=np.concatenate([part.position for part in parts]),
        angles=np.concatenate([part.angles for part in parts]),
        defocus=np.concatenate([part.defocus for part in parts]),
        species=[name for part in parts for name in part.species],
        images=_joined_columns([part.images for part in parts]),
        truth=_joined_columns([part.truth for part in parts]),
    )


def _joined_columns(parts: list[dict[str, list[str]]]) -> dict[str, list[str]]:
    return {label: [cell for part in parts for cell in part[label]] for label in parts[0]}


def _tomogram_key(name: str, settings: Simulation) -> str:
    """Return what stands in rlnMicrographName."""
    return f"{name}.tomostar" if settings.dialect == "warp" else f"tomograms/{name}.mrc"


def _write_stars(star: Path, rows: _Rows, settings: Simulation, volumes: list[Path]) -> Simulated:
    labels = shown_labels(rows.species, settings)
    version = RELION31_VERSION if settings.dialect == "relion31" else None
    truth = star.with_name("truth.star")
    with together(truth):
        write_tables(star, _tables(rows, labels, settings), version)
        write_tables(truth, {"": _truth_columns(rows, settings)})
    return Simulated(
        star=star,
        truth=truth,
        volumes=tuple(volumes),
        counts={name: rows.species.count(name) for name in sorted(set(rows.species))},
        labelled=len(labels) - labels.count(UNLABELLED),
    )


def _tables(rows: _Rows, labels: list[str], settings: Simulation) -> dict[str, Table]:
    """Return the blocks of the particle table in the dialect asked for."""
    columns: dict[str, Any] = {"rlnMicrographName": rows.tomograms} | _coordinates(rows.picked)
    columns |= rows.images | rows.truth
    if settings.dialect == "relion31":
        columns["rlnOpticsGroup"] = [1] * len(labels)
        return {
            "optics": _optics_group(settings, bool(rows.images)),
            "particles": columns | {LABEL_COLUMN: labels},
        }
    columns |= _microscope_columns(settings, len(labels))
    return {"": columns | {LABEL_COLUMN: labels}}


def _coordinates(position: NDArray[Any]) -> dict[str, Any]:
    return {f"rlnCoordinate{axis}": position[:, i] for i, axis in enumerate("XYZ")}


def _optics_group(settings: Simulation, images: bool) -> dict[str, Any]:
    """RELION 3.1 extracts with rlnMicrographPixelSize and reads boxes with rlnImagePixelSize and the image columns."""
    group = {
        "rlnOpticsGroupName": ["simulated"],
        "rlnOpticsGroup": [1],
        "rlnMicrographPixelSize": [settings.angpix],
        "rlnVoltage": [settings.voltage],
        "rlnSphericalAberration": [settings.spherical_aberration],
        "rlnAmplitudeContrast": [settings.amplitude_contrast],
        "rlnImagePixelSize": [settings.angpix],
    }
    if images:
        group |= {
            "rlnImageSize": [settings.box],
            "rlnImageDimensionality": [3],
            "rlnCtfDataAreCtfPremultiplied": [0],
        }
    return group


def _microscope_columns(settings: Simulation, count: int) -> dict[str, Any]:
    """RELION 3.0 takes the pixel size from magnification and detector; Warp writes it beside them."""
    values = {"rlnMagnification": MAGNIFICATION, "rlnDetectorPixelSize": settings.angpix}
    if settings.dialect == "warp":
        values["rlnPixelSize"] = settings.angpix
    values |= {
        "rlnVoltage": settings.voltage,
        "rlnSphericalAberration": settings.spherical_aberration,
        "rlnAmplitudeContrast": settings.amplitude_contrast,
    }
    return {column: [value] * count for column, value in values.items()}


def _truth_columns(rows: _Rows, settings: Simulation) -> dict[str, Any]:
    columns: dict[str, Any] = {"rlnMicrographName": rows.tomograms} | _coordinates(rows.position)
    columns |= {f"rlnAngle{name}": rows.angles[:, i] for i, name in enumerate(("Rot", "Tilt", "Psi"))}
    columns |= {"rlnDefocusU": rows.defocus, "rlnDefocusV": rows.defocus}
    columns["rlnPixelSize"] = [settings.angpix] * len(rows.species)
    return columns | rows.truth | {LABEL_COLUMN: rows.species}
