"""What a particle truly is, voxel by voxel: its clean density, and the mask of the particle alone."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryoclass.file_names import numbered_path
from cryoclass.star.tables import DENSITY_COLUMN, MASK_COLUMN
from cryoclass.volumes.mask import particle_mask
from cryoclass.volumes.mrc import write_volume

FOLDERS = {MASK_COLUMN: "Masks", DENSITY_COLUMN: "Densities"}
"""Where the files lie that a column names."""


def volume_name(folder: str, tomogram: str, number: int) -> str:
    """Return what a table beside ``folder`` calls the volume of a particle, numbered from 1 within its tomogram."""
    return numbered_path(Path(folder), tomogram, number).as_posix()


def truth_names(tomogram: str, count: int) -> dict[str, list[str]]:
    """Return the columns that name what :func:`write_truth` writes for the particles of a tomogram."""
    return {
        column: [volume_name(folder, tomogram, number) for number in range(1, count + 1)]
        for column, folder in FOLDERS.items()
    }


def write_truth(
    outdir: Path, angpix: float, tomogram: str, number: int, density: NDArray[np.float32]
) -> None:
    """Write mask and density of one particle.

    Parameters
    ----------
    outdir
        Holds the folders ``Masks`` and ``Densities``.
    angpix
        Pixel size in angstroms.
    tomogram, number
        Which particle; numbers count from 1 within a tomogram.
    density
        The particle alone [z, y, x], as it lies in its box.
    """
    for column, volume in ((MASK_COLUMN, particle_mask(density)), (DENSITY_COLUMN, density)):
        write_volume(outdir / volume_name(FOLDERS[column], tomogram, number), volume, angpix)
