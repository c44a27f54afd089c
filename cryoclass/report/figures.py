"""Figures from plain arrays. Each function returns a matplotlib Figure and touches no global state.

Widths are in inches for a page about ten inches wide, so no text is ever scaled below a readable size.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from cryoclass.metrics import Metrics, interval, score_in_words
from cryoclass.report.content import Array, ClusterCurve, Curves, Grouping, Integers, TomogramPicture
from cryoclass.report.images import central_slices, stretch
from cryoclass.report.scores import Roc, macro
from cryoclass.report.style import (
    ACCENT,
    INK,
    LINE,
    MUTED,
    blank,
    grid,
    in_style,
    look,
    plain,
)

_SHADE = "#1d5a9a"  # of the confusion matrix: the same on light and dark pages, unlike ACCENT
_NAMED = 10  # as many ROC curves as get a name of their own in the legend
_LEGEND = 36  # entries of a legend
_ROC_POINTS = 200
_METHODS = {"pca": "principal component", "tsne": "t-SNE", "umap": "UMAP"}


@in_style
def training_curves(curves: Curves) -> Figure:
    """Draw the losses, and AUC and accuracy on the validation set, by epoch or freedom; the best one is marked."""
    figure = blank(9.4, 3.4)
    left, right = figure.subplots(1, 2)
    _line(left, curves.at, curves.train_loss, "training", 0)
    _line(left, curves.at, curves.val_loss, "validation", 1)
    _line(right, curves.at, curves.val_auc, "AUC", 2)
    _line(right, curves.at, curves.val_accuracy, "accuracy", 3)
    left.set(title="Loss", ylabel=curves.loss)
    right.set(title="Validation scores", ylabel="score (0 to 1)", ylim=(-0.02, 1.02))
    for axes in (left, right):
        grid(axes)
        _scale(axes, curves)
        label = f"best {curves.kind} ({curves.best:g})"
        axes.axvline(curves.best, color=INK, lw=1, ls=(0, (2, 3)), label=label)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, handlelength=1.6)
    return figure


def _scale(axes: Axes, curves: Curves) -> None:
    """Set the axis below: epochs one by one, freedoms by their logarithm."""
    low, high = float(curves.at.min()), float(curves.at.max())
    if curves.kind == "epoch":
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.set_xlim(low - 0.5, high + 0.5)
    else:
        axes.set(xlabel="freedom of the head (C)", xscale="log", xlim=(low / 2, high * 2))
        axes.xaxis.set_major_formatter("{x:g}")  # powers of ten would come as the source of a formula
        axes.xaxis.set_minor_formatter("")


def _line(axes: Axes, at: Array | Integers, values: Array, label: str, index: int) -> None:
    if np.isfinite(values).any():
        marker = "o" if len(at) < 30 else ""
        axes.plot(at, values, color=look(index).colour, lw=1.8, marker=marker, ms=3.5, label=label)


@in_style
def confusion_matrix(counts: Integers, classes: Sequence[str]) -> Figure:
    """Draw counts (K, K) by true class (rows) and predicted class (columns), shaded by their share of the row."""
    number = len(classes)
    cell = float(np.clip(5.6 / number, 0.255, 0.9))
    labels = [plain(name, 24) for name in classes]
    longest = 0.085 * max(map(len, labels))  # inches
    upright = longest > cell
    figure = blank(number * cell + longest + 0.75, number * cell + (longest if upright else 0.15) + 0.65)
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for true, predicted in np.argwhere(counts):
        _cell(axes, (predicted, true), shares[true, predicted], _short(counts[true, predicted]), cell)
    ticks = np.arange(number)
    axes.set_xticks(ticks, labels, rotation=90 if upright else 0)
    axes.set_yticks(ticks, labels)
    axes.set(xlim=(-0.5, number - 0.5), ylim=(number - 0.5, -0.5), aspect="equal")
    axes.set(xlabel="predicted class", ylabel="true class")
    _lattice(axes, number)
    return figure


def _cell(axes: Axes, centre: tuple[int, int], share: float, text: str, side: float) -> None:
    x, y = centre
    axes.fill(*_square(x, y), color=_SHADE, alpha=max(float(share), 0.04), lw=0)
    size = min(9.0, 0.85 * side * 72 / (0.64 * len(text)))  # points; a digit is 0.64 of its height wide
    axes.text(x, y, text, ha="center", va="center", size=size, color="white" if share > 0.75 else INK)


def _square(x: float, y: float) -> tuple[list[float], list[float]]:
    return [x - 0.5, x + 0.5, x + 0.5, x - 0.5], [y - 0.5, y - 0.5, y + 0.5, y + 0.5]


def _lattice(axes: Axes, number: int) -> None:
    between = np.arange(number + 1) - 0.5
    axes.hlines(between, -0.5, number - 0.5, color=LINE, lw=0.7)
    axes.vlines(between, -0.5, number - 0.5, color=LINE, lw=0.7)
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)


def _short(count: int) -> str:
    """Write a count in at most four characters: 9999, then 12k, then 3M."""
    for limit, divisor, unit in ((10_000, 1, ""), (1_000_000, 1000, "k")):
        if count < limit:
            return f"{count // divisor}{unit}"
    return f"{count // 1_000_000}M"


@in_style
def roc(curves: Sequence[Roc], classes: Sequence[str]) -> Figure:
    """Draw one-vs-rest ROC curves and their mean; beyond ten classes only the ten lowest are named."""
    figure = blank(8.6, 4.4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (2, 3)), label="guessing (AUC 0.500)")
    scores = np.array([curve.auc for curve in curves])
    named = {int(i): rank for rank, i in enumerate(np.argsort(scores, kind="stable")[:_NAMED])}
    for index, (curve, name) in enumerate(zip(curves, classes, strict=True)):
        colour = _curve_place(index, len(classes), named)
        _roc_line(axes, curve, plain(name, 26), colour)
    mean = macro(list(curves))
    if len(mean.false_positive):
        axes.plot(
            mean.false_positive,
            mean.true_positive,
            color=INK,
            lw=2.4,
            label=f"mean of the classes (AUC {mean.auc_in_words})",
        )
    axes.set(xlabel="false-positive rate (0 to 1)", ylabel="true-positive rate (0 to 1)", aspect="equal")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), anchor="W")
    grid(axes)
    title = f"the {_NAMED} lowest of {len(classes)} classes" if len(classes) > _NAMED else None
    figure.legend(loc="outside right center", title=title, alignment="left")
    return figure


def _curve_place(index: int, number: int, named: dict[int, int]) -> int | None:
    """Return the place of a curve in the palette, None for one among many good ones, which is grey."""
    return index if number <= _NAMED else named.get(index)


def _roc_line(axes: Axes, curve: Roc, name: str, place: int | None) -> None:
    if not len(curve.false_positive):
        return
    pick = np.unique(np.linspace(0, len(curve.false_positive) - 1, _ROC_POINTS).round().astype(int))
    x, y = curve.false_positive[pick], curve.true_positive[pick]
    if place is None:
        axes.plot(x, y, color=MUTED, lw=0.7, alpha=0.5)
    else:
        style = look(place)
        axes.plot(x, y, color=style.colour, ls=style.dash, lw=1.6, label=f"{name} (AUC {curve.auc_in_words})")


@in_style
def reliability(metrics: Metrics) -> Figure:
    """Draw accuracy against confidence in bins of equal numbers of particles, with the 95 % intervals of the accuracy."""
    figure = blank(9.4, 3.6)
    axes = figure.subplots()
    points = metrics.reliability
    sure, right = [point.confidence for point in points], [point.accuracy for point in points]
    limits = [interval(round(point.accuracy * point.count), point.count) for point in points]
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (2, 3)), label="perfect")
    axes.errorbar(
        sure,
        right,
        xerr=[
            [point.confidence - point.low for point in points],
            [point.high - point.confidence for point in points],
        ],
        yerr=[
            [max(0.0, share - low) for share, (low, _) in zip(right, limits, strict=True)],
            [max(0.0, high - share) for share, (_, high) in zip(right, limits, strict=True)],
        ],
        fmt="o",
        color=ACCENT,
        lw=1.2,
        ms=5,
        label="network",
    )
    each = f"{len(points)} bins of about {points[0].count} particles" if len(points) > 1 else "one bin"
    axes.set(
        title=f"Expected calibration error {score_in_words(metrics.calibration_error, metrics.count)}; {each}",
        xlabel="probability of the predicted class (0 to 1)",
        ylabel="accuracy (0 to 1)",
        xlim=(-0.01, 1.01),
        ylim=(0, 1.03),
    )
    axes.legend(loc="upper left")
    grid(axes)
    return figure


@in_style
def slices(box: Array, angpix: float) -> Figure:
    """Draw the three central slices of a box [z, y, x] of ``angpix`` angstroms per pixel, with axes in angstroms."""
    figure = blank(9.4, 3.3)
    planes = (("x", "y", "across the beam"), ("x", "z", "along the beam"), ("y", "z", "along the beam"))
    for axes, cut, (across, up, view) in zip(
        figure.subplots(1, 3), stretch(central_slices(box)), planes, strict=True
    ):
        axes.imshow(
            cut,
            cmap="gray",
            vmin=0,
            vmax=1,
            origin="lower",
            extent=(*_extent(cut.shape[1], angpix), *_extent(cut.shape[0], angpix)),
            interpolation="none",
        )
        axes.set(title=f"{across}{up}, {view}", xlabel=f"{across} (Å)", ylabel=f"{up} (Å)")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(labelcolor=INK)
    return figure


def _extent(size: int, angpix: float) -> tuple[float, float]:
    """Return where an axis starts and ends in angstroms, with 0 in the middle of voxel ``size // 2``."""
    start = -(size // 2 + 0.5) * angpix
    return start, start + size * angpix


@in_style
def embedding_scatter(points: Array, grouping: Grouping, method: str) -> Figure:
    """Draw a map (n, 2), each group with a colour and marker of its own, particles without a group grey behind."""
    figure = blank(9.4, 6.6)
    axes = figure.subplots()
    size = float(np.clip(30_000 / max(len(points), 1), 2, 30))
    none = grouping.index < 0
    if none.any():
        axes.scatter(
            points[none, 0],
            points[none, 1],
            s=size,
            color="#b4bcc6",
            lw=0,
            alpha=0.6,
            label=_entry(f"no {grouping.title}", none),
        )
    for index, group in enumerate(grouping.names):
        _group(axes, points, grouping.index == index, index, plain(group, 28), size)
    name = _METHODS.get(method, method)
    axes.set(xlabel=f"{name} 1 (no unit)", ylabel=f"{name} 2 (no unit)")
    axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    axes.spines[["top", "right"]].set_visible(True)
    axes.spines[:].set_color(LINE)
    _scatter_legend(figure, axes, grouping)
    return figure


def _group(axes: Axes, points: Array, members: np.ndarray, index: int, name: str, size: float) -> None:
    style = look(index)
    axes.scatter(
        points[members, 0],
        points[members, 1],
        s=size,
        color=style.colour,
        marker=style.marker,
        edgecolors="white",
        lw=0.3 if size > 8 else 0,
        alpha=0.85,
        label=_entry(name, members),
    )


def _entry(name: str, members: np.ndarray) -> str:
    return f"{name} ({int(members.sum()):,})"


def _scatter_legend(figure: Figure, axes: Axes, grouping: Grouping) -> None:
    handles, labels = axes.get_legend_handles_labels()
    title = grouping.title
    if len(labels) > _LEGEND:
        title += f" (first {_LEGEND} of {len(labels)})"
    legend = figure.legend(
        handles[:_LEGEND],
        labels[:_LEGEND],
        loc="outside right upper",
        title=plain(title),
        alignment="left",
        handletextpad=0.3,
        labelspacing=0.35,
    )
    legend.get_title().set_fontweight("bold")
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set(sizes=[36], alpha=1)


@in_style
def cluster_numbers(curve: ClusterCurve) -> Figure:
    """Draw, by number of clusters, how stable they are and how far apart, beside one cloud without groups."""
    figure = blank(9.4, 3.2)
    left, right = figure.subplots(1, 2)
    at, wide = curve.numbers, np.isfinite(curve.stability)
    low, high = curve.stability - curve.deviation, curve.stability + curve.deviation
    left.fill_between(at[wide], low[wide], np.minimum(high[wide], 1), color=ACCENT, alpha=0.2, lw=0)
    left.plot(at, curve.stability, "o-", color=ACCENT, lw=1.6, ms=3.5)
    left.set(title="Do they come back?", ylabel="adjusted Rand index", ylim=(0, 1.04))
    right.plot(at, curve.silhouette, "o-", color=ACCENT, lw=1.6, ms=3.5, label="these particles")
    right.plot(at, curve.cloud, "o--", color=MUTED, lw=1.4, ms=3, label="one cloud without groups")
    right.set(title="How far apart are they?", ylabel="silhouette (-1 to 1)")
    right.legend(loc="best")
    for axes in (left, right):
        grid(axes)
        axes.set_xlabel("clusters")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    return figure


@in_style
def tomogram_section(picture: TomogramPicture, classes: Sequence[str]) -> Figure:
    """Draw a section of a tomogram, y pointing up, with a circle round each particle in it, coloured by class, and a scale bar."""
    width, height = picture.size
    entries = min(len(np.unique(picture.classes)), _LEGEND)
    figure = blank(8.6, max(float(np.clip(6.2 * height / width, 1.5, 9.0)), 0.2 * entries) + 0.2)
    axes = figure.subplots()
    (grey,) = stretch((np.asarray(picture.section, np.float32),))
    axes.imshow(
        grey, cmap="gray", vmin=0, vmax=1, origin="lower", extent=(0, width, 0, height), interpolation="none"
    )
    for number in [*range(len(classes)), -1]:
        members = picture.classes == number
        if members.any():
            name = plain(classes[number], 26) if number >= 0 else "no class"
            _circles(
                axes, picture.places[members], picture.radius, number, f"{name} ({int(members.sum()):,})"
            )
    _scale_bar(axes, width, height)
    axes.set(xlim=(0, width), ylim=(0, height), xticks=[], yticks=[], aspect="equal", anchor="W")
    if len(picture.classes):
        handles, labels = axes.get_legend_handles_labels()
        title = f"first {_LEGEND} of {len(labels)} classes" if len(labels) > _LEGEND else None
        figure.legend(
            handles[:_LEGEND],
            labels[:_LEGEND],
            loc="outside right upper",
            title=title,
            alignment="left",
            handlelength=1.2,
        )
    return figure


def _circles(axes: Axes, places: Array, radius: float, number: int, name: str) -> None:
    colour, dash = ("#d0d0d0", "-") if number < 0 else (look(number).colour, look(number).dash)
    circles = [Circle((x, y), radius) for x, y in places.tolist()]
    axes.add_collection(
        PatchCollection(circles, facecolor="none", edgecolor=colour, linestyle=dash, linewidth=1.6)
    )
    axes.plot([], [], color=colour, ls=dash, lw=2.4, label=name)


def _scale_bar(axes: Axes, width: float, height: float) -> None:
    """Draw a bar of a round number of nanometres, about a fifth of the width."""
    wished = width / 50  # a fifth, in nanometres
    power = 10 ** np.floor(np.log10(wished))
    length = float(max(step * power for step in (1, 2, 5) if step * power <= wished))
    left, low = 0.03 * width, 0.035 * height
    bar = axes.plot([left, left + 10 * length], [low, low], color="white", lw=4, solid_capstyle="butt")
    text = axes.text(left, low + 0.02 * height, f"{length:g} nm", color="white", weight="bold", va="bottom")
    for drawn in (*bar, text):
        drawn.set_path_effects([withStroke(linewidth=6 if drawn is not text else 2.5, foreground="black")])


@in_style
def class_counts(counts: Sequence[int], names: Sequence[str]) -> Figure:
    """Draw how many particles each class has, as bars with their number and share."""
    figure = blank(7.6, 0.75 + 0.27 * len(names))
    axes = figure.subplots()
    places = np.arange(len(names))
    bars = axes.barh(places, counts, height=0.68, color=ACCENT)
    total = max(sum(counts), 1)
    axes.bar_label(bars, [f"{n:,} ({100 * n / total:.1f} %)" for n in counts], padding=4, fontsize=9)
    axes.set_yticks(places, [plain(name, 32) for name in names])
    axes.set(xlabel="particles", ylim=(len(names) - 0.5, -0.5), xlim=(0, max(*counts, 1) * 1.22))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    grid(axes, "x")
    axes.spines["left"].set_visible(False)
    return figure


@in_style
def confidence_histograms(confidence: Array, assigned: Integers, classes: Sequence[str]) -> Figure:
    """Draw, for each class, a histogram of the probability with which its particles were given to it.

    Parameters
    ----------
    confidence
        Probability of the predicted class (n,).
    assigned
        Class given (n,), -1 for none.
    classes
        Names of the classes.
    """
    columns = min(4, len(classes))
    rows = -(-len(classes) // columns)
    figure = blank(max(2.35 * columns, 4.7), 0.4 + 1.55 * rows)
    edges = np.linspace(0, 1, 21)
    grid_of_axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for index, axes in enumerate(grid_of_axes):
        if index >= len(classes):
            axes.set_visible(False)
            continue
        counts, _ = np.histogram(confidence[assigned == index], edges)
        axes.stairs(counts, edges, fill=True, color=ACCENT, alpha=0.55)
        axes.set_title(plain(classes[index], 22), loc="left", size=9.5)
        axes.set(xlim=(0, 1), ylim=(0, max(int(counts.max()), 1) * 1.08))
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.xaxis.set_ticks([0, 0.5, 1])
        axes.xaxis.set_tick_params(pad=6, labelbottom=index + columns >= len(classes))
        grid(axes)
    figure.supxlabel("probability of the predicted class (0 to 1)", size=9.5)
    figure.supylabel("particles", size=9.5)
    return figure
