"""Poses: what the angles of a table count from."""

from collections.abc import Iterator

from cryoclass.checks.findings import Finding, warning
from cryoclass.particles import Particles
from cryoclass.poses import axes_unknown
from cryoclass.sources import Source


def check_poses(table: Particles, source: Source) -> Iterator[Finding]:
    """Say that averages are not turned where nobody knows along which axes boxes were written."""
    if table.angles is not None and axes_unknown(table, source):
        yield warning(
            "poses",
            f"{table.path} has rotated subtomograms (rlnTomoSubtomogramRot ...), and their files do not say along which axes "
            "they were written; averages are not turned back",
            "Give --tomograms, so that the boxes are cut anew.",
        )
