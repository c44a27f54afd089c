"""Who is who: which rows show one and the same particle, however its image, tomogram or position is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from cryoclass.checks.findings import Finding, error, ok, plural, warning
from cryoclass.checks.neighbours import unit_of
from cryoclass.cutting import TomogramSource
from cryoclass.particles import Particles, tomogram_keys
from cryoclass.sources import JoinedSource, Source
from cryoclass.star.frames import Frame

# Far above what rounding and a change of units do to a position, far below the distance of two particles.
SAME_ANGSTROMS = 1.0
SAME_PIXELS = 0.05  # of unknown size
SAME_FRACTION = 1e-4  # of a tomogram

Integers = NDArray[np.integer]
Pairs = list[tuple[Integers, Integers]]  # of rows that show one particle


def same_particles(tables: Sequence[Particles], source: Source | None = None) -> Integers:
    """Give a number to the particle that each row shows, of several tables one after the other.

    A particle is its image, with links followed and its number in a stack. A row whose image is not there is tomogram and
    position, within 1 angstrom, or where no unit is known within a twentieth of a pixel.

    Parameters
    ----------
    tables
        The particles.
    source
        Their boxes; of those that are cut out of tomograms, volumes and angstroms are known whatever the tables say.

    Returns
    -------
    array
        A number for each row (n,); equal for rows of one particle.
    """
    starts = np.cumsum([0, *map(len, tables)])
    pairs, lacking = _by_image(tables)
    if lacking.any():
        for places in _places(tables, starts, source):
            pairs += [_some(pair, lacking) for pair in places.pairs()]
    count = int(starts[-1])
    one, other = (
        np.concatenate([pair[side] for pair in pairs]) if pairs else np.zeros(0, int) for side in (0, 1)
    )
    linked = coo_array((np.ones(len(one)), (one, other)), shape=(count, count))
    return np.asarray(connected_components(linked, directed=False)[1])


def check_identity(
    tables: Sequence[Particles], same: Integers, labels: Integers | None = None, classes: Sequence[str] = ()
) -> Iterator[Finding]:
    """Hold that no particle has two classes, and count those that stand in several rows.

    Parameters
    ----------
    tables
        The particles.
    same
        From :func:`same_particles`.
    labels
        Class number of each row (n,), -1 for none; only rows that have one are looked at. All are where left out.
    classes
        Names of the classes.
    """
    rows = np.arange(len(same)) if labels is None else np.flatnonzero(labels >= 0)
    _, first, number = np.unique(same[rows], return_index=True, return_inverse=True)
    earlier = rows[first][number]  # of each row, the first one that shows its particle
    if labels is not None:
        torn = np.flatnonzero(labels[rows] != labels[earlier])
        if len(torn):
            yield _torn(tables, (int(earlier[torn[0]]), int(rows[torn[0]])), labels, classes, len(torn))
            return
    doubles = np.flatnonzero(rows != earlier)
    if len(doubles):
        pair = " and ".join(_place(tables, int(row)) for row in (earlier[doubles[0]], rows[doubles[0]]))
        yield warning(
            "identity",
            f"{len(doubles)} of {plural(len(rows), 'row')} show a particle that an earlier row shows; the first is in "
            f"{pair}",
            "A split keeps the rows of one particle together; take doubles out where each shall count once.",
        )
    else:
        yield ok("identity", f"{plural(len(rows), 'row')}, each another particle")


def _torn(
    tables: Sequence[Particles], pair: tuple[int, int], labels: Integers, classes: Sequence[str], count: int
) -> Finding:
    said = " and ".join(f"{classes[labels[row]]} ({_place(tables, row)})" for row in pair)
    table, row = _row_of(tables, pair[1])
    return error(
        "identity",
        f"{plural(count, 'row')} give a particle another class than an earlier row does; the first is "
        f"{table.named(row)}: {said}",
        "A particle has one class: take it out of the other.",
    )


def _place(tables: Sequence[Particles], row: int) -> str:
    table, own = _row_of(tables, row)
    return f"{table.path}, line {table.line(own)}"


def _row_of(tables: Sequence[Particles], row: int) -> tuple[Particles, int]:
    for table in tables:
        if row < len(table):
            return table, row
        row -= len(table)
    raise IndexError(row)


# ---------------------------------------------------------------------------------------------- image


def _by_image(tables: Sequence[Particles]) -> tuple[Pairs, NDArray[np.bool_]]:
    """Return the rows of one image, and which rows (n,) have none that is there but a position."""
    keys: dict[tuple[str, int], int] = {}
    earlier: list[int] = []
    lacking: list[bool] = []
    for table in tables:
        for row, found in enumerate(table.image_keys()):
            # without image and position, a name in a folder is all there is
            named = table.has_images and table.frame is None
            key = found or ((f"{table.path.parent} {table.images[row]}", 0) if named else None)
            earlier.append(len(earlier) if key is None else keys.setdefault(key, len(earlier)))
            lacking.append(found is None)
    return [(np.arange(len(earlier)), np.array(earlier))], np.array(lacking)


def _some(pair: tuple[Integers, Integers], lacking: NDArray[np.bool_]) -> tuple[Integers, Integers]:
    """Return the pairs in which a row has no image: two images are told apart by themselves."""
    chosen = lacking[pair[0]] | lacking[pair[1]]
    return pair[0][chosen], pair[1][chosen]


# ------------------------------------------------------------------------------- tomogram and position


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Positions that can be compared: row numbers (m,), tomograms (m,), points (m, 3), and how near is the same."""

    rows: Integers
    tomograms: Sequence[str]
    points: NDArray[np.float64]
    tolerance: float

    def pairs(self) -> Pairs:
        """Return the rows whose points are the same, as chains of pairs."""
        pairs: Pairs = []
        _, codes = np.unique(np.array(self.tomograms), return_inverse=True)
        order, ends = np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))
        for members in np.split(order, ends[:-1]):
            # A million rows at one point, such as 0 0 0, are a million pairs here and not their square.
            points, first, which = np.unique(
                self.points[members], axis=0, return_index=True, return_inverse=True
            )
            rows = self.rows[members]
            pairs.append((rows, rows[first][which.ravel()]))
            near = cKDTree(points).query_pairs(self.tolerance, output_type="ndarray")
            pairs.append((rows[first][near[:, 0]], rows[first][near[:, 1]]))
        return pairs


def _places(tables: Sequence[Particles], starts: Integers, source: Source | None) -> Iterator[_Places]:
    """Yield the positions of those tables that have some, put together as far as they can be compared."""
    sources = source.sources if isinstance(source, JoinedSource) else [source]
    cut = [s for s in sources if isinstance(s, TomogramSource)]
    if len(cut) == len(tables):
        yield _in_volumes(cut, starts)
        return
    keys = tomogram_keys(tables)
    with_places = [n for n, table in enumerate(tables) if table.frame is not None]
    for frames in _comparable([tables[n] for n in with_places]):
        chosen = [n for n in with_places if _stated(tables[n]) in frames]
        yield _Places(
            rows=np.concatenate([np.arange(starts[n], starts[n + 1]) for n in chosen]),
            tomograms=[key for n in chosen for key in keys[n]],
            points=np.concatenate([_points(tables[n], known=frames[_stated(tables[n])]) for n in chosen]),
            tolerance=_tolerance(frames),
        )


def _in_volumes(sources: Sequence[TomogramSource], starts: Integers) -> _Places:
    placed = [(p, start) for s, start in zip(sources, starts, strict=False) for p in s.placements]
    return _Places(
        rows=np.concatenate([p.rows + start for p, start in placed]),
        tomograms=[str(p.tomogram.paths[0].resolve()) for p, _ in placed for _ in p.rows],
        points=np.concatenate([p.positions * p.geometry.angpix for p, _ in placed]),
        tolerance=SAME_ANGSTROMS,
    )


def _comparable(tables: Sequence[Particles]) -> list[dict[Frame | None, bool]]:
    """Return the frames that can be compared with each other, and whether their unit is known in angstroms."""
    known: dict[Frame | None, bool] = {}
    for table in tables:
        frame = _stated(table)
        known[frame] = known.get(frame, True) and unit_of(table) is not None
    angstroms: dict[Frame | None, bool] = {
        f: k for f, k in known.items() if k and f and f.starts_at_first_voxel
    }
    return [*filter(None, [angstroms]), *({f: k} for f, k in known.items() if f not in angstroms)]


def _stated(table: Particles) -> Frame | None:
    """Return what coordinates count; ``None`` where only volumes could tell: such tables are compared as they stand."""
    return None if table.rivals else table.frame


def _points(table: Particles, *, known: bool) -> NDArray[np.float64]:
    """Return positions (n, 3) in angstroms where the unit is known, else coordinates in their own unit."""
    unit = unit_of(table) if known else None
    if unit is None:
        return table.coordinates
    points: NDArray[np.float64] = table.coordinates * np.reshape(unit, (-1, 1))
    return points if table.origins is None else points - table.origins


def _tolerance(frames: dict[Frame | None, bool]) -> float:
    if all(frames.values()):
        return SAME_ANGSTROMS
    return SAME_FRACTION if Frame.FRACTION in frames else SAME_PIXELS
