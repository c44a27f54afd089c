"""How figures look, and how they become SVG or PNG.

Figures are drawn in a few named colours that an SVG inside a page hands over to the page's style sheet, so that
the same figure reads well on a light and on a dark screen.
"""

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from cryoclass.files import replacing

INK, MUTED, LINE, CARD, ACCENT = "#1c2430", "#5b6675", "#d9dfe7", "#fefefe", "#1d5a99"
_CSS = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    CARD: "var(--card)",
    ACCENT: "var(--accent)",
}
# Okabe & Ito's palette without black (our ink) and yellow (unreadable on white), then six more that lie no closer to any
# other than those do among themselves (CIELAB distance 18, seen plainly and with simulated protanopia and
# deuteranopia). The marker and dash change every six groups, so 36 groups stay apart.
COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#961e1e",
    "#6969ff",
    "#5ad278",
    "#693c5a",
    "#f0a5b4",
    "#4b2db4",
)
TURN = 6
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))

_RC: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "text.parse_math": False,  # a class called "a$b$" is no formula
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "svg.hashsalt": "cryoclass",  # the same figure gives the same bytes
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Look:
    """Colour, marker and dash of a group; the three together are unique for the first 36."""

    colour: str
    marker: str
    dash: str | tuple[int, tuple[int, ...]]


def look(index: int) -> Look:
    """Return how group ``index`` is drawn everywhere."""
    turn = index // TURN
    return Look(
        colour=COLOURS[index % len(COLOURS)],
        marker=MARKERS[turn % len(MARKERS)],
        dash=DASHES[turn % len(DASHES)],
    )


def lighter(colour: str) -> str:
    """Return a colour mixed with three tenths of white, to be drawn on a dark page."""
    red, green, blue = (0.7 * part + 0.3 for part in to_rgb(colour))
    return to_hex((red, green, blue))


@contextmanager
def styled() -> Iterator[None]:
    """Set matplotlib to our style and nothing else, whatever the user's matplotlibrc says; undo it afterwards."""
    with mpl.rc_context(), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes in a PNG, and rightly in a page.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def in_style(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that draws, so that it runs in :func:`styled`."""

    @functools.wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with styled():
            return draw(*args, **kwargs)

    return inner


def blank(width: float, height: float) -> Figure:
    """Return an empty figure of ``width`` by ``height`` inches that makes room for its texts by itself."""
    return Figure(figsize=(width, height), layout="constrained")


def grid(axes: Axes, axis: str = "both") -> None:
    """Draw quiet grid lines and drop the tick marks."""
    axes.grid(visible=True, axis=axis)  # type: ignore[arg-type]
    axes.tick_params(length=0, labelcolor=INK)


def plain(text: str, limit: int = 40) -> str:
    """Return ``text`` fit for a label: no control characters, at most ``limit`` characters, cut in the middle."""
    clean = "".join(_printable(letter) for letter in text)
    if len(clean) <= limit:
        return clean
    tail = (limit - 1) // 2
    return f"{clean[: limit - 1 - tail]}…{clean[len(clean) - tail :]}"


def _printable(letter: str) -> str:
    if letter.isspace():
        return " "
    return letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}"


def to_svg(figure: Figure, key: str) -> str:
    """Return a figure as an ``<svg>`` element to stand inside a page.

    Parameters
    ----------
    figure
        The figure.
    key
        Put in front of every id, so that the figures of a page do not meet.
    """
    buffer = io.StringIO()
    with styled():
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{key}-", text)
    text = re.sub(r"((?:fill|stroke): )(#[0-9a-f]{6})", lambda m: m[1] + _CSS.get(m[2], m[2]), text)
    return text.replace("'DejaVu Sans'", "var(--sans)")


def to_png(figure: Figure, dpi: int = 110) -> bytes:
    """Return a figure as PNG on white."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def to_jpeg(figure: Figure, dpi: int = 85) -> bytes:
    """Return a figure as JPEG on white, for pictures whose noise would make a PNG of them large."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="jpeg", dpi=dpi, facecolor="white", pil_kwargs={"quality": 75})
    return buffer.getvalue()


def write_png(path: Path, figure: Figure, dpi: int = 200) -> None:
    """Write a figure as PNG on white."""
    with replacing(path) as temporary:
        temporary.write_bytes(to_png(figure, dpi))
