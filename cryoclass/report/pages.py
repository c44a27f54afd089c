"""Self-contained HTML pages: one file each, no server, nothing loaded from elsewhere.

Whatever the number of particles, a page stays below 3 MB: pictures shrink as there are more of them, curves are
thinned, long tables are cut with a note, and a large map is sampled.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from cryoclass.files import write_text
from cryoclass.metrics import evaluate
from cryoclass.report import figures, images, scores
from cryoclass.report.content import (
    Classified,
    ClusterSheet,
    EmbedContent,
    Example,
    ExtractContent,
    Gallery,
    Grouping,
    Integers,
    PredictContent,
    Scored,
    Table,
    TomogramTable,
    TrainContent,
    VoxelSheet,
)
from cryoclass.report.style import COLOURS, TURN, lighter, plain, to_jpeg, to_png, to_svg, write_png

_TOMOGRAMS = 24  # shown with examples
_EXAMPLES = 6  # per tomogram, and per end of a class
_MISTAKES = 24
_CLASSES = 40  # as many as a figure or a gallery can show
_TABLE_ROWS = 500
_REASONS = 30
_POINTS = 20_000  # of the map in a page
_RANGE = 4000  # steps of a map's axes: four to a pixel
_FLATTEST = 2.2  # a map wider or higher than this is given empty space


def extract_page(path: Path, content: ExtractContent) -> None:
    """Write the page of ``extract``: the mean box, examples of each tomogram, counts and reasons.

    Raises
    ------
    OutputError
        The page cannot be written (as from every function here).
    """
    mean = None
    if content.mean_box is not None:
        mean = to_svg(figures.slices(content.mean_box, content.angpix), "mean")
    with_examples = [sheet for sheet in content.tomograms if sheet.examples]
    shown = [(sheet.name, sheet.examples[:_EXAMPLES]) for sheet in _spread(with_examples, _TOMOGRAMS)]
    side = images.side_for(sum(len(examples) for _, examples in shown))
    _render(
        path,
        "extract",
        title="Extracted particles",
        mean=mean,
        sheets=[{"name": name, "tiles": _tiles(examples, side)} for name, examples in shown],
        tomograms=content.tomograms,
        table_rows=_TABLE_ROWS,
        written=sum(sheet.written for sheet in content.tomograms),
        skipped=sum(sheet.skipped for sheet in content.tomograms),
        reasons=_most_frequent(content.reasons),
        settings=_rows(content.settings),
    )


def training_page(path: Path, content: TrainContent) -> None:
    """Write the page of ``finetune``: scores and what they were measured on, curves, confusion, ROC, calibration, mistakes."""
    mistakes = content.mistakes[:_MISTAKES]
    _render(
        path,
        "training",
        title="Fine-tuning",
        measured_on=content.measured_on,
        measured=content.scored and _measured(content.scored.known(), content.remarks),
        voxel_scores=content.voxel_scores,
        sheets=_sheets(content.sheets),
        curves=to_svg(figures.training_curves(content.curves), "curves"),
        kind=content.curves.kind,
        mistakes=_tiles(mistakes, images.side_for(len(mistakes))),
        classes=content.classes,
        parts_of_data=content.counts,
        settings=_rows(content.settings),
        versions=_rows(content.versions),
    )


def prediction_page(path: Path, content: PredictContent) -> None:
    """Write the page of ``predict``: class counts, confidence, examples of each class, scores where labels are known; volumes."""
    _render(
        path,
        "prediction",
        title="Predictions" if content.classified is None else "Predicted classes",
        count=content.count,
        classified=content.classified and _classified(content.classified),
        tomograms=content.tomograms and _tomograms(content.tomograms),
        averages=_sheets(content.averages[:_CLASSES]),
        averaged=len(content.averages),
        sheets=_sheets(content.sheets),
        skipped=_most_frequent(content.skipped),
        settings=_rows(content.settings),
        versions=_rows(content.versions),
    )


def _tomograms(content: TomogramTable) -> dict[str, Any]:
    """Return the table, its columns those of the most frequent classes where they are many, and the pictures."""
    total = np.sum([row.counts for row in content.rows], axis=0)
    columns = np.sort(np.argsort(-total, kind="stable")[:_CLASSES]).tolist()
    return {
        "table": content,
        "columns": columns,
        "rows": content.rows[:_TABLE_ROWS],
        "total": total,
        "pictures": [
            {
                "picture": picture,
                "address": images.data_address(
                    to_jpeg(figures.tomogram_section(picture, content.classes)), "jpeg"
                ),
            }
            for picture in content.pictures
        ],
    }


def _classified(content: Classified) -> dict[str, Any]:
    filled = [gallery for gallery in content.galleries if gallery.most]
    return {
        "classes": content.scored.classes,
        "unassigned": int((content.assigned < 0).sum()),
        "counts": _counts_figure(content),
        "histograms": _histograms(content),
        "galleries": _galleries(filled[:_CLASSES]),
        "filled": len(filled),
        "measured": _measured(content.scored.known(), content.remarks),
    }


def embedding_page(path: Path, content: EmbedContent) -> None:
    """Write the page of ``embed``: the map, coloured in every way given, with the particle under the pointer named.

    Beyond 20,000 particles the page draws a random sample and says so.
    """
    chosen = _sample(len(content.points), _POINTS)
    shown = len(chosen)
    _render(
        path,
        "embedding",
        title="Map of the particles",
        method=_METHODS.get(content.method, content.method),
        reading=_READING.get(content.method, ""),
        count=len(content.points),
        shown=shown,
        share=f"{100 * shown / max(len(content.points), 1):.2g} %",
        still=images.data_address(to_png(_map_figure(content), dpi=100)),
        data=_map_data(content, chosen),
        clusters=content.clusters,
        curve=_curve(content.clusters),
        settings=_rows(content.settings),
    )


def _curve(clusters: ClusterSheet | None) -> str | None:
    if clusters is None or clusters.curve is None:
        return None
    return to_svg(figures.cluster_numbers(clusters.curve), "clusters")


def embedding_png(path: Path, content: EmbedContent) -> None:
    """Write the map of all particles as PNG, coloured by the first grouping."""
    write_png(path, _map_figure(content))


# ------------------------------------------------------------------------------------------------- parts

_METHODS = {"pca": "principal components", "tsne": "t-SNE", "umap": "UMAP"}
_NEIGHBOURS = "Only neighbourhoods carry meaning: distances between far groups, and the axes, do not."
_READING = {
    "pca": "The axes are the two directions along which the particles differ most.",
    "tsne": _NEIGHBOURS,
    "umap": _NEIGHBOURS,
}
_COMMANDS = {"training": "finetune", "prediction": "predict", "embedding": "embed"}


def _measured(scored: Scored, remarks: Sequence[str]) -> dict[str, Any] | None:
    """Make the figures and the table of scores; None where there is nothing to measure them on."""
    if not len(scored.labels):
        return None
    metrics = evaluate(scored.probabilities, scored.labels, scored.classes)
    curves = scores.one_vs_rest(scored)
    confusion = None
    if len(scored.classes) <= _CLASSES:
        counts = np.array(metrics.confusion)
        confusion = to_svg(figures.confusion_matrix(counts, scored.classes), "confusion")
    return {
        "count": len(scored.labels),
        "scores": metrics.in_words,
        "caveats": (*metrics.caveats, *remarks),
        "classes": metrics.classes,
        "confusion": confusion,
        "roc": to_svg(figures.roc(curves, scored.classes), "roc"),
        "reliability": to_svg(figures.reliability(metrics), "reliability"),
    }


def _counts_figure(content: Classified) -> str:
    classes = content.scored.classes
    counts = np.bincount(content.assigned[content.assigned >= 0], minlength=len(classes)).tolist()
    bars = list(zip(counts, classes, strict=True))
    if len(bars) > _CLASSES:
        bars.sort(key=lambda bar: -bar[0])
        bars = [
            *bars[:_CLASSES],
            (sum(n for n, _ in bars[_CLASSES:]), f"{len(bars) - _CLASSES} more classes"),
        ]
    unassigned = int((content.assigned < 0).sum())
    if unassigned:
        bars.append((unassigned, "no class"))
    return to_svg(figures.class_counts([n for n, _ in bars], [name for _, name in bars]), "counts")


def _histograms(content: Classified) -> str | None:
    classes = content.scored.classes
    if len(classes) > _CLASSES:
        return None
    confidence = content.scored.probabilities.max(axis=1, initial=0.0)
    return to_svg(figures.confidence_histograms(confidence, content.assigned, classes), "histograms")


def _galleries(galleries: Sequence[Gallery]) -> list[dict[str, Any]]:
    shown = [(g.name, g.most[:_EXAMPLES], g.least[:_EXAMPLES]) for g in galleries]
    side = images.side_for(sum(len(most) + len(least) for _, most, least in shown))
    return [
        {"name": name, "most": _tiles(most, side), "least": _tiles(least, side)}
        for name, most, least in shown
    ]


def _tiles(examples: Iterable[Example], side: int) -> list[dict[str, Any]]:
    return [{"example": example, "address": images.strip(example.box, side)} for example in examples]


def _sheets(sheets: Sequence[VoxelSheet]) -> list[dict[str, Any]]:
    side = images.side_for(sum(len(sheet.volumes) for sheet in sheets))
    return [
        {
            "title": sheet.title,
            "pictures": [
                (name, images.strip(volume, side))
                for name, volume in sheet.volumes.items()
                if np.isfinite(volume).all()
            ],
        }
        for sheet in sheets
    ]


def _map_figure(content: EmbedContent) -> Figure:
    nothing = Grouping(title="group", names=(), index=np.full(len(content.points), -1))
    first = content.groupings[0] if content.groupings else nothing
    return figures.embedding_scatter(content.points, first, content.method)


def _map_data(content: EmbedContent, chosen: Integers) -> dict[str, Any]:
    """Return what the page's script draws: positions in whole steps, names once, indices otherwise."""
    steps, aspect = _steps(content.points[chosen])
    names, tomo = np.unique([content.tomograms[i] for i in chosen], return_inverse=True)
    groups = [
        {
            "title": plain(group.title),
            "names": [plain(name, 60) for name in group.names],
            "index": group.index[chosen].tolist(),
        }
        for group in content.groupings
    ]
    return {
        "x": steps[:, 0].tolist(),
        "y": steps[:, 1].tolist(),
        "range": _RANGE,
        "aspect": aspect,
        "row": content.rows[chosen].tolist(),
        "tomo": tomo.tolist(),
        "tomos": [plain(str(name), 60) for name in names],
        "prob": None if content.probability is None else _probabilities(content.probability[chosen]),
        "groups": groups or [{"title": "group", "names": [], "index": [-1] * len(chosen)}],
        "palettes": {"light": COLOURS, "dark": [lighter(colour) for colour in COLOURS]},
        "turn": TURN,
    }


def _steps(points: np.ndarray) -> tuple[Integers, float]:
    """Return positions as whole numbers 0 to ``_RANGE`` along each axis, and width over height of the map."""
    if not len(points):
        return np.zeros((0, 2), int), 1.0
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.maximum(high - low, 1e-12)
    span = np.maximum(span, span[::-1] / _FLATTEST)
    steps = (points - (low + high) / 2) / span + 0.5
    return np.round(steps * _RANGE).astype(int), round(float(span[0] / span[1]), 4)


def _probabilities(values: np.ndarray) -> list[float | None]:
    return [round(float(value), 3) if math.isfinite(value) else None for value in values]


def _sample(number: int, limit: int) -> Integers:
    if number <= limit:
        return np.arange(number)
    return np.sort(np.random.default_rng(0).choice(number, limit, replace=False))


def _spread(items: Sequence[Any], limit: int) -> list[Any]:
    """Return at most ``limit`` items, evenly spread from the first to the last."""
    places = np.linspace(0, len(items) - 1, min(limit, len(items))).round().astype(int)
    return [items[place] for place in places]


def _most_frequent(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    head, tail = ordered[:_REASONS], ordered[_REASONS:]
    return [*head, (f"{len(tail)} other reasons", sum(n for _, n in tail))] if tail else head


def _rows(table: Table) -> list[tuple[str, str]]:
    """Flatten nested tables into rows of text."""
    rows = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            rows += [(f"{name}.{inner}", text) for inner, text in _rows(value)]
        else:
            rows.append((str(name), _text(value)))
    return rows[:_TABLE_ROWS]


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return str(value)


# ----------------------------------------------------------------------------------------------- rendering


def _render(path: Path, page: str, **content: Any) -> None:
    template = _environment().get_template(f"{page}.html")
    write_text(path, template.render(command=_COMMANDS.get(page, page), **content))


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cryoclass.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": _score, "count": _count, "brief": plain}
    return environment


def _score(value: float) -> str:
    """Write a probability with three digits."""
    return f"{value:.3f}"


def _count(value: int) -> str:
    return f"{value:,}"
