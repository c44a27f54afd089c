"""What RELION would refuse or misread in a particle file, though cryoclass reads it."""

from collections.abc import Iterator

from cryoclass.checks.findings import Finding, ok, warning
from cryoclass.particles import Particles


def check_rules(particles: Particles) -> Iterator[Finding]:
    """Yield a warning for each thing that RELION would refuse or misread; one line of praise where there is none."""
    problems = broken_rules(particles)
    yield from problems
    if not problems:
        yield ok("RELION", "nothing in this file that RELION would refuse")


def broken_rules(particles: Particles) -> list[Finding]:
    """Return a warning for each thing that RELION would refuse or misread."""
    return [warning("RELION", words, way_out) for words, way_out in particles.relion_problems()]
