"""How far an extraction has come, on the disk: a killed one goes on behind the last box that was counted."""

import json
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryoclass.files import replacing
from cryoclass.sources import Reason

FORMAT = 1
SECONDS = 5.0  # from one note to the next; so much work is done twice at most
SHARE = 50  # as many times as long as a note takes, at least: it costs 2 % of the time at most


@dataclass(kw_only=True)
class SoFar:
    """What was done of the rows of a source, in its order.

    Attributes
    ----------
    done
        How many rows, written or left out.
    total
        Sum of the boxes that were written, ``[z, y, x]``.
    left_out
        Why rows have no box, by row number.
    """

    done: int = 0
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, 0)))
    left_out: dict[int, Reason] = field(default_factory=dict)


class Journal:
    """Keeps a :class:`SoFar` on the disk, now and then.

    Parameters
    ----------
    path
        Its file.
    facts
        What it belongs to; a note of other facts is none.
    """

    def __init__(self, path: Path, facts: str) -> None:
        self.path, self.facts = path, facts
        self._noted, self._took = time.monotonic(), 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for a note."""
        return time.monotonic() - self._noted > max(SECONDS, SHARE * self._took)

    def note(self, so_far: SoFar) -> None:
        """Replace the last note.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        began = time.monotonic()
        left_out = [(row, reason, reason.by_rule) for row, reason in so_far.left_out.items()]
        words = json.dumps({"format": FORMAT, "facts": self.facts, "done": so_far.done, "left_out": left_out})
        with replacing(self.path) as temporary, temporary.open("wb") as out:
            np.savez(out, words=np.array(words), total=so_far.total)
        self._noted = time.monotonic()
        self._took = self._noted - began

    def read(self) -> SoFar:
        """Return the last note; nothing done where there is none, or one of other facts, or a damaged one."""
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                said, total = json.loads(str(content["words"])), content["total"]
            if (said["format"], said["facts"]) != (FORMAT, self.facts):
                return SoFar()
            left_out = {int(row): Reason(words, by_rule=rule) for row, words, rule in said["left_out"]}
            return SoFar(done=int(said["done"]), total=np.array(total, np.float64), left_out=left_out)
        except (OSError, EOFError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
            return SoFar()
