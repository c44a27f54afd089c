"""An embedding on a plane: what the page of ``embed`` shows, and the columns that it adds."""

from dataclasses import dataclass

import numpy as np

from cryoclass.card import ModelCard
from cryoclass.clustering import NONE
from cryoclass.embedding import Vectors, project
from cryoclass.jobs.clusters import sheet_of
from cryoclass.labels import Labelled
from cryoclass.outputs import Outputs
from cryoclass.particles import Particles
from cryoclass.report.content import EmbedContent, Grouping
from cryoclass.results import decide
from cryoclass.settings import Mapping2d
from cryoclass.steadiness import Study


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """Particles of a table as the network sees them; ``features`` (m, E) are those of the rows that are done."""

    table: Particles
    outputs: Outputs
    features: Vectors
    card: ModelCard
    labelled: Labelled | None


def lay_out(
    placed: Placed, layout: Mapping2d, clusters: Study | None
) -> tuple[EmbedContent, dict[str, list[str]]]:
    """Lay the particles that are done out on a plane; return what the page shows, and columns."""
    outputs, table, rows = placed.outputs, placed.table, placed.outputs.done
    points = project(placed.features, layout.method, layout.seed)
    place = np.zeros((len(table), 2))
    place[rows] = points
    columns = {f"cryoclassMap{axis}": [f"{v:.6f}" for v in place[:, i]] for i, axis in enumerate("XY")}
    groupings = _known_groups(placed)
    if clusters is not None or not groupings:
        found = clusters.labels if clusters is not None else {"all": np.zeros(len(rows), int)}
        groupings += [_grouping(f"cluster ({how})" if clusters else "cluster", k) for how, k in found.items()]
        numbers = np.zeros(len(table), dtype=int)
        numbers[rows] = [_named(label) for label in next(iter(found.values())).tolist()]
        columns["cryoclassCluster"] = [str(number) for number in numbers.tolist()]
    classes = placed.card.classes
    content = EmbedContent(
        points=points,
        rows=rows + 1,
        tomograms=[table.tomograms[row] for row in rows.tolist()],
        groupings=groupings,
        clusters=None if clusters is None else sheet_of(clusters),
        probability=decide(outputs).probabilities[rows].max(axis=1) if classes else None,
        method=layout.method,
        settings=_settings(layout),
    )
    return content, columns


def _settings(layout: Mapping2d) -> dict[str, object]:
    by = layout.method_of_clusters if layout.grouped else "-"
    return {"map": layout.method, "clusters": layout.clusters or "-", "grouped by": by, "seed": layout.seed}


def _named(label: int) -> int:
    """Return the number of a cluster in the table, from 1; -1 for none, since 0 is that of rows that cannot be read."""
    return label + 1 if label >= 0 else NONE


def _grouping(title: str, labels: np.ndarray) -> Grouping:
    names = [str(number + 1) for number in range(int(labels.max(initial=-1)) + 1)]
    return Grouping(title=title, names=names, index=labels)


def _known_groups(placed: Placed) -> list[Grouping]:
    """Return the ways to colour that need no clustering: by label, and by predicted class."""
    groupings, outputs, labelled, classes = [], placed.outputs, placed.labelled, placed.card.classes
    if labelled is not None:
        index = labelled.labels[outputs.done]
        groupings.append(Grouping(title="label", names=labelled.classes, index=index))
    if classes:
        best = decide(outputs).classes[outputs.done]
        groupings.append(Grouping(title="predicted class", names=classes, index=best))
    return groupings
