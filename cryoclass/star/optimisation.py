"""Optimisation sets (RELION 4 and 5, WarpTools): the small file that ties particles to their tomograms."""

from dataclasses import dataclass
from pathlib import Path

from cryoclass.errors import StarError
from cryoclass.star.document import StarFile
from cryoclass.star.names import resolve, respelled, spelled

PARTICLES, TOMOGRAMS = "rlnTomoParticlesFile", "rlnTomoTomogramsFile"
FILES = (PARTICLES, TOMOGRAMS, "rlnTomoTrajectoriesFile", "rlnTomoManifoldsFile")
NAME = "optimisation_set.star"


@dataclass(frozen=True, kw_only=True)
class OptimisationSet:
    """An optimisation set as its file has it."""

    text: StarFile

    @property
    def path(self) -> Path:
        """Its file."""
        return self.text.path

    def write_for(self, particles: Path) -> Path:
        """Write, beside a new particle file, an optimisation set that names it, and return its path.

        The other entries stay as they were, where they are found from the new place too.
        """
        path = particles.with_name(NAME if particles.stem == "particles" else f"{particles.stem}_{NAME}")
        star = self.text
        for label in FILES:
            value = _item(star, label)
            wanted = (
                spelled(particles, path)
                if label == PARTICLES
                else respelled([value], star.path, path).get(value, value)
            )
            if wanted != value:
                star = _with_entry(star, label, wanted)
        star.write(path)
        return path


def read_set(path: Path) -> OptimisationSet | None:
    """Return the optimisation set at ``path``; ``None`` where it is another STAR file, or none at all."""
    if path.suffix != ".star" or not path.is_file():
        return None
    star = StarFile.read(path)
    return OptimisationSet(text=star) if _item(star, PARTICLES) else None


def set_beside(particles: Path) -> OptimisationSet | None:
    """Return the optimisation set beside a particle file that names that very file.

    RELION calls it ``optimisation_set.star``, WarpTools ``<name>_optimisation_set.star``.
    """
    for name in (NAME, f"{particles.stem}_{NAME}"):
        found = read_set(particles.with_name(name))
        target = resolve(_item(found.text, PARTICLES), found.path) if found else None
        if target is not None and target.samefile(particles):
            return found
    return None


def _item(star: StarFile, label: str) -> str:
    """Return an entry of an optimisation set, be it a list block or a loop of one row; empty where there is none."""
    for block in star.blocks:
        if label in block.items:
            return block.items[label]
        if label in block.labels and len(block):
            return star.column(block, label)[0]
    return ""


def listed_file(star: StarFile, label: str) -> StarFile:
    """Return the file that an optimisation set names, or ``star`` itself where it is none.

    Raises
    ------
    StarError
        The named file does not exist.
    """
    listed = _item(star, label)
    if not listed:
        return star
    target = resolve(listed, star.path)
    if target is None:
        raise StarError(f"{star.path} names {listed}, which does not exist.", "Run from the project folder.")
    return StarFile.read(target)


def _with_entry(star: StarFile, label: str, value: str) -> StarFile:
    block = next(block for block in star.blocks if label in block)
    if label in block.items:
        return star.with_item(block, label, value)
    return star.with_columns(block, {label: [value] * len(block)})
