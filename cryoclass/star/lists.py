"""Particle lists that are no STAR files, turned into a STAR table: what their readers have in common.

``position = coordinate + shift`` there, in pixels of the tomogram.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoclass.errors import StarError
from cryoclass.inputs import read_file
from cryoclass.star.document import StarFile
from cryoclass.star.tables import tables_text

LISTED_TAG = "cryoclassTag"


@dataclass(frozen=True, kw_only=True)
class ListedParticles:
    """What such a list says, each (n,) but the position.

    Attributes
    ----------
    tag
        The particle's own number.
    tomogram
        Number of its tomogram; its name where a map of them lies beside the list.
    position
        (n, 3) x, y, z, shifts added.
    class_number
        Its class.
    """

    tag: np.ndarray
    tomogram: np.ndarray | Sequence[str]
    position: np.ndarray
    class_number: np.ndarray

    def as_star(self, path: Path) -> StarFile:
        """Return a STAR file of that path with these particles.

        Name or number of the tomogram stands in ``rlnMicrographName``, the position in ``rlnCoordinateX/Y/Z``, the class in
        ``rlnClassNumber``, the tag in ``cryoclassTag``.

        Raises
        ------
        StarError
            A value is not a finite number.
        """
        numbered = [self.tomogram] if isinstance(self.tomogram, np.ndarray) else []
        for values in (self.tag, *numbered, self.position, self.class_number):
            bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
            if len(bad):
                raise StarError(
                    f"{path}, particle {bad[0] + 1}: a value is not a finite number.", "Mend that row."
                )
        table = {
            "rlnMicrographName": [one if isinstance(one, str) else str(int(one)) for one in self.tomogram],
            **{f"rlnCoordinate{axis}": self.position[:, i] for i, axis in enumerate("XYZ")},
            "rlnClassNumber": self.class_number.astype(int),
            LISTED_TAG: self.tag.astype(int),
        }
        return StarFile.parse(tables_text({"particles": table}).encode(), path)


def read_listed(path: Path) -> bytes:
    """Return the bytes of such a list; StarError where there is no file to read."""
    try:
        return read_file(path)
    except FileNotFoundError:
        raise StarError(f"{path}: no such file.", "Check the path.") from None
    except OSError as error:
        raise StarError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
