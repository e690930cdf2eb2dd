"""The style of all figures, and their files. Without pyplot: no window, no global state, safe in any thread."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

import matplotlib
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font, get_font_names
from matplotlib.image import imsave
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from cifar_lightning.report.names import shortened_apart

# Okabe and Ito's palette: colour-blind readers can tell the colours apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", GREY)
DPI = 120
STYLE: Any = {"axes.spines.top": False, "axes.spines.right": False, "grid.alpha": 0.25, "legend.frameon": False}
LONGEST_NAME = 24  # characters; class folders can carry any name
# Fonts of Linux, macOS and Windows, for letters that matplotlib's own font lacks.
OTHER_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "WenQuanYi Zen Hei", "Droid Sans Fallback",
    "Arial Unicode MS", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Noto Sans Devanagari", "Noto Sans Thai",
)  # fmt: skip


@contextmanager
def own_style() -> Iterator[None]:
    """A context with our style in place of the user's, which may need something not installed, such as LaTeX."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | {"font.family": fonts()})
        yield


def fonts() -> list[str]:
    """Returns the font families for figures: as many as are installed, to show names in most scripts."""
    installed = set(get_font_names())
    return ["DejaVu Sans", *(name for name in OTHER_FONTS if name in installed)]


def new_figure(width: float, height: float, laid_out: bool = True) -> Figure:
    """Makes an empty figure, with its size in inches; `laid_out` makes room for labels, titles and legends."""
    layout = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.07) if laid_out else None
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def short(names: Sequence[str]) -> list[str]:
    """Shortens names to the length that a figure has room for."""
    return list(map(shortened_apart(names, LONGEST_NAME).__getitem__, names))


def legend_above(axes: Axes, width: float) -> int:
    """Adds a legend above the axes, where it covers no data; returns its number of lines.

    Args:
        axes: The axes.
        width: Their approximate width in inches.
    """
    labels = axes.get_legend_handles_labels()[1]
    for columns in range(len(labels), 0, -1):
        legend = axes.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1), borderaxespad=0.2, ncols=columns, columnspacing=1.2
        )
        if legend.get_window_extent().width <= width * DPI:
            break
    return math.ceil(len(labels) / columns) + sum(label.count("\n") for label in labels) if labels else 0


def above_legend(lines: int) -> float:
    """Returns the distance, in points, of a title from axes with a legend of that many lines in between."""
    return 6.0 + 18 * lines


def name_rows(axes: Axes, names: Sequence[str], points: float, rows: int) -> None:
    """Writes names beside the rows of a chart of accuracies, from the top, in which there is room for `rows`."""
    axes.set_yticks(range(len(names)), names, fontsize=points, parse_math=False)
    axes.set(ylim=(rows - 0.4, -0.6), xlabel="accuracy, %")
    axes.tick_params(axis="y", length=0)


def as_percentages(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Limits an axis to about 0 to 100, as there is nothing beyond, and labels its ticks with full values."""
    low, high = axes.get_xlim() if axis == "x" else axes.get_ylim()
    margin = 0.02 * (high - low)  # room for markers at the ends, less than to the next tick
    axes.set(**{f"{axis}lim": (max(low, -margin), min(high, 100 + margin))})
    axes.ticklabel_format(axis=axis, style="plain", useOffset=False)


def without_a_font(figure: Figure) -> set[str]:
    """Returns the letters of a figure that no installed font has, and that appear as boxes."""
    letters = {letter for text in figure.findobj(Text) for letter in text.get_text() if letter.isprintable()}
    for font in fonts():
        if letters:
            letters -= set(map(chr, get_font(findfont(font)).get_charmap()))
    return letters


def drawn(figure: Figure) -> memoryview:
    """Draws a figure and returns its pixels. `savefig` would draw a figure with a layout twice, to lay it out."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels: memoryview = canvas.buffer_rgba()
    return pixels


def write_png(pixels: memoryview, file: BinaryIO) -> None:
    """Writes a figure's pixels."""
    imsave(file, pixels, format="png", origin="upper", dpi=DPI)


def as_svg(figure: Figure, name: str) -> str:
    """Converts a figure that was drawn before to SVG for a page, with the page's text colour, font and background.

    `name` must differ between the figures of a page, because it makes their ids differ.
    """
    figure.set_layout_engine("none")  # it is laid out already
    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(stream, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = stream.getvalue()
    text = re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', "", text[text.index("<svg") :])  # no other id is used
    text = re.sub(r' (width|height)="[\d.]+pt"| xmlns(:xlink)?="[^"]*"', "", text)
    width = figure.get_figwidth()  # inches; below half its size it is illegible: it scrolls instead
    text = text.replace("<svg", f'<svg style="max-width:{100 * width:.0f}px;min-width:{50 * width:.0f}px"', 1)
    text = re.sub(r"font: [^;\"]*?([\d.]+px) [^;\"]*", r"font-size: \1", text)
    return text.replace("#000000", "currentColor").replace("#ffffff", "none")
