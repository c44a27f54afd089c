"""An embedding on a plane: what the page of ``embed`` shows, and the columns that it adds."""

import numpy as np

from cryoclass.card import ModelCard
from cryoclass.embedding import Vectors, clusters, project
from cryoclass.labels import Labelled
from cryoclass.outputs import Outputs
from cryoclass.particles import Particles
from cryoclass.report.content import EmbedContent, Grouping
from cryoclass.results import decide
from cryoclass.settings import Mapping2d


def lay_out(
    table: Particles,
    outputs: Outputs,
    features: Vectors,
    card: ModelCard,
    labelled: Labelled | None,
    layout: Mapping2d,
) -> tuple[EmbedContent, dict[str, list[str]]]:
    """Lay the particles that are done, with ``features`` (m, E), out on a plane; return what the page shows, and columns."""
    rows = outputs.done
    points = project(features, layout.method, layout.seed)
    place = np.zeros((len(table), 2))
    place[rows] = points
    columns = {f"cryoclassMap{axis}": [f"{v:.6f}" for v in place[:, i]] for i, axis in enumerate("XY")}
    groupings = _known_groups(outputs, card, labelled)
    if layout.clusters is not None or not groupings:
        found = clusters(features, layout.clusters or 1, layout.seed)
        names = [str(number + 1) for number in range(int(found.max()) + 1)]
        groupings.append(Grouping(title="cluster", names=names, index=found))
        numbers = np.zeros(len(table), dtype=int)
        numbers[rows] = found + 1
        columns["cryoclassCluster"] = [str(number) for number in numbers.tolist()]
    content = EmbedContent(
        points=points,
        rows=rows + 1,
        tomograms=[table.tomograms[row] for row in rows.tolist()],
        groupings=groupings,
        probability=decide(outputs).probabilities[rows].max(axis=1) if card.classes else None,
        method=layout.method,
        settings={"map": layout.method, "clusters": layout.clusters or "-", "seed": layout.seed},
    )
    return content, columns


def _known_groups(outputs: Outputs, card: ModelCard, labelled: Labelled | None) -> list[Grouping]:
    """Return the ways to colour that need no clustering: by label, and by predicted class."""
    groupings = []
    if labelled is not None:
        index = labelled.labels[outputs.done]
        groupings.append(Grouping(title="label", names=labelled.classes, index=index))
    if card.classes:
        best = decide(outputs).classes[outputs.done]
        groupings.append(Grouping(title="predicted class", names=card.classes, index=best))
    return groupings
