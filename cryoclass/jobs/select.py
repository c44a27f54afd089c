"""The particles of a class, by the error that is accepted: from what predict wrote, without a second pass."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryoclass.claims import claim_file
from cryoclass.errors import ParticleError, UsageError
from cryoclass.progress import TO_LOG, Listener
from cryoclass.settings import Settings, setting

if TYPE_CHECKING:
    import numpy as np

    from cryoclass.particles import Particles
    from cryoclass.selection import Promise, Ranking

TABLE, CLASSES = "particles.star", "classes.star"
USUAL = 1.0


@dataclass(frozen=True, kw_only=True)
class SelectRequest(Settings):
    """Of which class, how many, and where they go."""

    panel = "Options"

    results: Path = setting(argument=True, unit="dir", help="Folder written by predict.")
    class_name: str = setting(flags=("--class",), unit="name", help="The class to keep.")
    out: Path = setting(Path("selected.star"), flags=("--out", "-o"), unit="file", help="The file to write.")
    max_fdr: float | None = setting(
        None, help="Keep as many as can be kept with at most this share of false ones.", minimum=0, maximum=1
    )
    min_precision: float | None = setting(
        None, help="The same, as the least share of true ones.", minimum=0, maximum=1
    )
    min_recall: float | None = setting(
        None, help="Keep as few as hold this share of all true ones.", minimum=0, maximum=1
    )
    top: int | None = setting(None, help="Keep the most probable N.", unit="N", minimum=1)
    min_probability: float | None = setting(
        None, help="Keep those that are at least so probable.", minimum=0, maximum=1
    )
    max_unknown: float | None = setting(
        None,
        help="Leave out those whose unknown score is higher; 1 where left out, and the table has such a score.",
        above=0,
    )
    overwrite: bool = setting(False, flags=("--overwrite",), help="Replace the file.")

    @property
    def ways(self) -> dict[str, float]:
        """What was typed of the ways to say how many to keep, by option."""
        typed = {
            "--max-fdr": self.max_fdr,
            "--min-precision": self.min_precision,
            "--min-recall": self.min_recall,
            "--top": self.top,
            "--min-probability": self.min_probability,
        }
        return {name: value for name, value in typed.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class SelectResult:
    """What was kept.

    Attributes
    ----------
    file
        The kept rows, as they stood in the table of predict.
    promise
        What is expected of them.
    total, unknown
        Rows that the network spoke of, and those of them that were left out as unlike everything learnt.
    """

    file: Path
    promise: "Promise"
    total: int
    unknown: int


def select(request: SelectRequest, listener: Listener = TO_LOG) -> SelectResult:
    """Keep the particles of a class, by the error that is accepted.

    Raises
    ------
    CryoclassError
        Something that the user can mend; the message says what, and the way out.
    """
    _check(request)
    import numpy as np

    from cryoclass.particles import read_particles
    from cryoclass.results import expected_precision_column

    table = read_particles(request.results / TABLE)
    known, unknown = _known(request, table)
    ranking = _ranking(request, table, known & ~unknown)
    kept = _count(request, ranking)
    if not kept:
        raise ParticleError(
            f"{_typed(request)} cannot be met for class {request.class_name}: {_best(ranking)}.",
            "Accept another figure; thresholds.csv in the folder of predict says what can be had.",
        )
    promise = ranking.at(kept)
    rows = np.sort(ranking.rows[:kept])
    column = expected_precision_column(len(table), ranking)
    with claim_file(request.out):
        table.with_columns(column).select(rows.tolist()).write(request.out)
    if unknown.any():
        limit = USUAL if request.max_unknown is None else request.max_unknown
        listener.note(
            f"left out: {int(unknown.sum())} of {int(known.sum())} particles, whose unknown score is above {limit:g}"
        )
    return SelectResult(file=request.out, promise=promise, total=int(known.sum()), unknown=int(unknown.sum()))


def _check(request: SelectRequest) -> None:
    ways = request.ways
    if len(ways) != 1:
        typed = " and ".join(ways) if ways else "none of them"
        raise UsageError(
            f"one of --max-fdr, --min-precision, --min-recall, --top and --min-probability says how many to keep; typed is {typed}.",
            "Use --max-fdr 0.05, for example.",
        )
    if request.out.exists() and not request.overwrite:
        raise UsageError(f"{request.out} exists.", "Choose another --out, or add --overwrite.")
    if request.out.suffix != ".star":
        raise UsageError(f"--out {request.out} must end in .star.")
    if not (request.results / TABLE).is_file():
        raise UsageError(
            f"{request.results} holds no {TABLE}: it must be a folder that predict has written and finished.",
            "Run cryoclass predict first, or again.",
        )


def _best(ranking: "Ranking") -> str:
    if not len(ranking.rows):
        return "no particle has it as its most probable class"
    first, every = ranking.at(1), ranking.at(len(ranking.rows))
    return (
        f"the most probable particle has a probability of {first.threshold:.3f}, and all {every.kept} that have it as their most "
        f"probable class hold an expected {every.recall:.3f} of the true ones"
    )


def _typed(request: SelectRequest) -> str:
    ((name, value),) = request.ways.items()
    return f"{name} {value:g}"


def _known(request: SelectRequest, table: "Particles") -> "tuple[np.ndarray, np.ndarray]":
    """Return which rows the network has spoken of, and which of them are unlike everything learnt, both (n,)."""
    import numpy as np

    status = np.array(table.cells("cryoclassStatus")) if table.has("cryoclassStatus") else None
    if status is None:
        raise UsageError(
            f"{table.path} has no column cryoclassStatus.",
            "Run cryoclass predict again with this version; its stored outputs are used.",
        )
    known = np.isin(status, ["done", "unsure", "unknown"])
    if not table.has("cryoclassUnknownScore"):
        if request.max_unknown is not None:
            raise UsageError(
                f"--max-unknown needs an unknown score, and {table.path} has none.", "Leave it out."
            )
        return known, np.zeros(len(table), bool)
    scores = np.array(
        table.cells("cryoclassUnknownScore"), dtype=float
    )  # nan where the network has not spoken
    limit = USUAL if request.max_unknown is None else request.max_unknown
    return known, known & ~(scores <= limit)


def _ranking(request: SelectRequest, table: "Particles", eligible: "np.ndarray") -> "Ranking":
    from cryoclass.results import read_classes
    from cryoclass.selection import ranked

    classes = read_classes(request.results / CLASSES)
    if request.class_name not in classes:
        raise UsageError(
            f"--class is {request.class_name}; it must be one of {', '.join(classes)}.",
            "Names are those of classes.star.",
        )
    columns = [f"cryoclassProbability{number}" for number in range(1, len(classes) + 1)]
    return ranked(table.numbers(columns), classes.index(request.class_name), eligible)


def _count(request: SelectRequest, ranking: "Ranking") -> int:
    from cryoclass.selection import kept_by_precision, kept_by_probability, kept_by_recall

    ((name, value),) = request.ways.items()
    if name == "--top":
        return min(int(value), len(ranking.rows))
    if name == "--min-recall":
        return kept_by_recall(ranking, value)
    if name == "--min-probability":
        return kept_by_probability(ranking, value)
    return kept_by_precision(ranking, 1 - value if name == "--max-fdr" else value)
