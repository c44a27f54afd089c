"""Which voxels of a clean density belong to the particle."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MASK_SHARE = 0.03
"""Share of its maximum above which a density belongs to the particle.

Measured on the twelve phantoms in random poses, at 5 to 20 angstroms per pixel: the mask holds at least 98.3 % of the mass of
each and is one piece; the ripples of the splines that turn a density reach 1.1 % where nothing should be. Of 400 invented
species, sums of Gaussians whose tails go on for ever, it holds 96 % in the mean and 91 % in the worst; at 0.05 that would
be 93 % and 86 %."""


def particle_mask(density: NDArray[Any]) -> NDArray[np.float32]:
    """Return 1 where a density belongs to the particle, else 0.

    Parameters
    ----------
    density
        One particle without anything else, protein positive, background 0: [z, y, x]; or many, [..., z, y, x], each of which
        has a maximum of its own.
    """
    highest = density.max(axis=(-3, -2, -1), keepdims=True)
    return np.asarray(density > MASK_SHARE * highest, dtype=np.float32)
