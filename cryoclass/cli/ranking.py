"""Ranking particles by likeness to a few examples: what ``embed --like`` and ``--query`` ask for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryoclass.errors import UsageError
from cryoclass.settings import Exemplars

if TYPE_CHECKING:
    import numpy as np

    from cryoclass.inference.engines import Engine
    from cryoclass.inference.pipeline import Flow
    from cryoclass.particles import Particles
    from cryoclass.sources import Source

    Vectors = np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """What was asked for; ``vectors`` (m, E) are the embedded examples of another table."""

    wish: Exemplars
    vectors: "Vectors | None"
    standardise: bool

    def write(
        self, path: Path, table: "Particles", rows: "np.ndarray", everything: Path
    ) -> dict[str, list[str]]:
        """Write the readable rows, those most like the examples first; return the column for the whole table.

        Parameters
        ----------
        path
            The new STAR file.
        table
            All particles.
        rows
            Those that could be read.
        everything
            The ``.npy`` file with the embedding of all.
        """
        import numpy as np

        from cryoclass.inference.likeness import likeness

        embedding = np.load(everything, mmap_mode="r")
        examples = _pointed_at(embedding, self.wish.like or []) if self.vectors is None else self.vectors
        alike = likeness(embedding[rows], examples, standardise=self.standardise)
        column = np.full(len(table), -1.0)
        column[rows] = alike
        cells = {"cryoclassLikeness": [f"{value:.4f}" for value in column]}
        order = rows[np.argsort(-alike, kind="stable")]
        table.with_columns(cells).select(order.tolist()).star.write(path)
        return cells


def prepare_ranking(
    wish: Exemplars,
    open_boxes: "Callable[[Particles], Source]",
    source: "Source",
    engine: "Engine",
    flow: "Flow",
) -> Ranking | None:
    """Embed the examples of another table before all else, so that a wrong one costs no time; None where nothing is asked."""
    from cryoclass.backbones.registry import spec

    standardise = not spec(engine.card.backbone).natural_units
    if wish.query is None:
        return Ranking(wish=wish, vectors=None, standardise=standardise) if wish.like else None
    from cryoclass.inference.compatibility import check_same_boxes
    from cryoclass.inference.likeness import embed_examples
    from cryoclass.particles import read_particles

    examples = open_boxes(read_particles(wish.query))
    check_same_boxes(examples, source)
    vectors = embed_examples(engine, examples, flow)
    return Ranking(wish=wish, vectors=vectors, standardise=standardise)


def check_rows(wish: Exemplars, count: int) -> None:
    """Hold the rows that were pointed at against the table."""
    for row in wish.like or []:
        if row > count:
            raise UsageError(f"--like is {row}; the table has {count} particles, counted from 1.")


def _pointed_at(embedding: "Vectors", like: list[int]) -> "Vectors":
    import numpy as np

    found: np.ndarray = embedding[[row - 1 for row in like]]
    for row, vector in zip(like, found, strict=True):
        if not np.isfinite(vector).all():
            raise UsageError(f"--like {row}: that particle cannot be read.", "Choose another.")
    return found
