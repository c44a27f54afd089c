"""Random orientations and RELION's way of writing them down.

A rotation is a 3x3 matrix in x, y, z that takes a vector of the reference to the same vector in the tomogram. Of such a
matrix RELION stores rot, tilt, psi: ``scipy Rotation.from_euler("ZYZ", [rot, tilt, psi], degrees=True).as_matrix().T``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoclass.errors import UsageError

Matrix = NDArray[np.float64]


def random_rotations(count: int, rng: np.random.Generator) -> Matrix:
    """Return ``count`` rotations (count, 3, 3), uniform over all orientations.

    Four normal numbers, brought to length 1, are a quaternion that is uniform on the sphere in four dimensions.
    """
    quaternions = rng.standard_normal((count, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    w, x, y, z = quaternions.T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.asarray(np.moveaxis(np.array(rows), 2, 0), dtype=np.float64)


def about(axis: tuple[float, float, float], degrees: float) -> Matrix:
    """Return the rotation by ``degrees`` about ``axis`` (x, y, z), counterclockwise seen from its tip (Rodrigues)."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def relion_angles(matrices: Matrix) -> NDArray[Any]:
    """Return rot, tilt, psi in degrees (n, 3) of rotations (n, 3, 3) that take the reference to the tomogram.

    Where tilt is 0 or 180 only a sum of rot and psi is defined, and rot is 0 then, as in RELION.
    """
    sine = np.hypot(matrices[:, 2, 0], matrices[:, 2, 1])
    upright = sine < 1e-9
    rot = np.where(upright, 0.0, np.arctan2(matrices[:, 2, 1], matrices[:, 2, 0]))
    tilt = np.arctan2(sine, matrices[:, 2, 2])
    psi = np.where(
        upright,
        np.arctan2(matrices[:, 0, 1], matrices[:, 1, 1]),
        np.arctan2(matrices[:, 1, 2], -matrices[:, 0, 2]),
    )
    return np.asarray(np.degrees(np.stack([rot, tilt, psi], axis=1)))


def operators(symmetry: str) -> Matrix:
    """Return the rotations (n, 3, 3) of a point group, the identity first.

    Cn and Dn lie about z (twofold along x); T, O and I have twofold axes along x, y and z.

    Raises
    ------
    UsageError
        The symmetry is not one of these.
    """
    kind, order = symmetry[:1], int(symmetry[1:]) if symmetry[1:].isdigit() else 0
    if kind in ("C", "D") and order:
        flip = [about((1, 0, 0), 180)] if kind == "D" else []
        return _closure([about((0, 0, 1), 360 / order), *flip])
    if symmetry in ("T", "O"):
        return _closure([about((0, 0, 1), 180 if symmetry == "T" else 90), about((1, 1, 1), 120)])
    if symmetry == "I":
        golden = (1 + np.sqrt(5)) / 2
        return _closure([about((0, 0, 1), 180), about((1, 1, 1), 120), about((0, 1, golden), 72)])
    raise UsageError(f"symmetry {symmetry!r} is not known; it must be Cn, Dn, T, O or I.")


def _closure(generators: list[Matrix]) -> Matrix:
    """Multiply with the generators until nothing new comes."""
    group = [np.eye(3)]
    for element in group:  # grows while it is walked through
        for generator in generators:
            product = generator @ element
            if not any(np.allclose(product, known) for known in group):
                group.append(product)
    return np.array(group)
