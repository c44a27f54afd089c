"""Clusters of an embedding: what is said of them, and the file that holds what was measured."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cryoclass.clustering import WARD_MOST
from cryoclass.embedding import Vectors
from cryoclass.files import write_text
from cryoclass.progress import Listener
from cryoclass.report.content import ClusterCurve, ClusterRow, ClusterSheet
from cryoclass.settings import Mapping2d
from cryoclass.steadiness import Study, Tried, agreement, study

HEADER = (
    *("method", "number", "stability", "stability_deviation", "resamples", "particles", "silhouette"),
    *("silhouette_of_one_cloud", "agreement", "agreement_low", "agreement_high", "chosen", "suggested"),
)
NOT_GROUPED = " All particles stay in one cluster; --clusters N groups them all the same."


def study_clusters(features: Vectors, layout: Mapping2d, listener: Listener) -> Study | None:
    """Group particles (m, E) as asked, and say what is found and what speaks against it; None where nothing is asked."""
    if not layout.grouped:
        return None
    found = study(features, layout, listener.track)
    if len(features) > WARD_MOST:
        listener.note(
            f"ward and hdbscan grouped {WARD_MOST} of {len(features)} particles, drawn at random; the others went to the nearest centre, "
            "with hdbscan where their nearest neighbour is. k-means of either kind began with the centres of ward"
        )
    if found.suggested is None:
        own = isinstance(layout.clusters, int) or layout.cluster_by == "hdbscan"
        listener.warn(found.reason + ("" if own else NOT_GROUPED))
    else:
        listener.note(found.reason)
    if left := int((found.chosen < 0).sum()):
        listener.note(f"{left} of {len(features)} particles are in no cluster (cryoclassCluster is -1)")
    for doubt in found.doubts:
        listener.warn(doubt)
    return found


def write_clusters(path: Path, clusters: Study) -> None:
    """Write what was measured of each method, and of the chosen one at each number that was tried."""
    chosen, seed = clusters.measured[clusters.method], 0
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(HEADER)
    others = [tried for method, tried in clusters.measured.items() if method != clusters.method]
    own = clusters.scanned or [chosen]
    for tried in (*own, *others):
        alike = agreement(chosen.labels, tried.labels, seed)
        stability = tried.stability
        again = (
            ("", "", "")
            if stability is None
            else (_number(stability.mean), _number(stability.deviation), stability.resamples)
        )
        table.writerow(
            [
                *(tried.method, tried.number, *again, clusters.particles),
                *(_number(tried.silhouette), _number(tried.cloud)),
                *map(_number, (alike.index, alike.low, alike.high)),
                "yes" if tried is chosen else "",
                "yes" if tried.method == clusters.method and tried.number == clusters.suggested else "",
            ]
        )
    write_text(path, out.getvalue())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def sheet_of(clusters: Study) -> ClusterSheet:
    """Return what the page shows of clusters."""
    return ClusterSheet(
        method=clusters.method,
        particles=clusters.particles,
        reason=clusters.reason,
        doubts=clusters.doubts,
        rows=[
            ClusterRow(
                method=method,
                number=tried.number,
                stability="not told" if tried.stability is None else str(tried.stability),
                silhouette="none" if tried.silhouette is None else f"{tried.silhouette:.2f}",
                agreements=[
                    "" if method == other else str(clusters.agreement(method, other))
                    for other in clusters.labels
                ],
            )
            for method, tried in clusters.measured.items()
        ],
        curve=_curve([tried for tried in clusters.scanned if tried.cloud is not None]),
    )


def _curve(scanned: Sequence[Tried]) -> ClusterCurve | None:
    """Return what is drawn by number of clusters; None where fewer than two were tried."""
    if len(scanned) < 2:
        return None

    def line(values: Iterable[float | None]) -> np.ndarray:
        return np.array([np.nan if value is None else value for value in values], float)

    stabilities = [tried.stability for tried in scanned]
    return ClusterCurve(
        numbers=np.array([tried.number for tried in scanned]),
        stability=line(again.mean if again else None for again in stabilities),
        deviation=line(again.deviation if again else None for again in stabilities),
        silhouette=line(tried.silhouette for tried in scanned),
        cloud=line(tried.cloud for tried in scanned),
    )
