"""Draw charts of a measurement as SVG or PNG. This needs matplotlib (extra `plot`)."""

from __future__ import annotations

import importlib.util
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingError, UsageError
from .instance import PARTS

if TYPE_CHECKING:
    from .bench import Figures
    from .instance import Sample
    from .tune import Point

MARK = "mlinfer, matplotlib"  # in the metadata of each chart
_COLD, _WARM = "#3b6fb6", "#d9822b"
_INK, _PALE = "#333333", "#dddddd"
# One colour for each of PARTS: blue for the parts of a cold start, orange for those of every request.
_COLOURS = ("#1b3a5f", "#3b6fb6", "#6fa3dc", "#a9cbee", "#d9822b", "#f2b36f", "#c9c9c9")
_SETTINGS = {
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.hashsalt": "mlinfer",  # the same data gives the same file
}
_LEAST_SHARE = 0.04  # of a bar: a narrower part has no room for its label


def check(path: Path) -> None:
    """Check before the measurement that the chart can be drawn. Raises UsageError, MissingError."""
    if path.suffix.lower() not in (".svg", ".png"):
        raise UsageError("usage", f"--plot needs a file name that ends in .svg or .png (got {path.name!r})")
    if importlib.util.find_spec("matplotlib") is None:
        hint = "Install it with `pip install matplotlib`."
        raise MissingError("missing_extra", "--plot needs matplotlib, which is not installed", hint)


def is_ours(path: Path) -> bool:
    """Return whether a file is empty or a chart of mlinfer."""
    with path.open("rb") as file:
        begin = file.read(4096)
    return not begin or MARK.encode() in begin


def draw_bench(samples: Sequence[Sample], figures: Figures, *, title: str, caption: str, kind: str) -> bytes:
    """Draw the latencies and the time breakdown of the median requests. kind: "svg" or "png"."""
    with _style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.5, 6.2), layout="constrained")
        spread, cold, warm = figure.subplots(3, 1, height_ratios=(2.6, 1, 1))
        _draw_spread(spread, samples)
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        _draw_parts(cold, figures.cold_parts, "Median cold start by step")
        _draw_parts(warm, figures.warm_parts, "Median warm request by step")
        _add_caption(figure, caption, 165)
        return _saved(figure, kind)


def draw_tune(points: Sequence[Point], chosen: Point | None, *, title: str, caption: str, kind: str) -> bytes:
    """Draw latency against cost, with the Pareto frontier and the recommendation. kind: "svg" or "png"."""
    with _style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.5, 5.4), layout="constrained")
        axes = figure.subplots()
        frontier = sorted((p for p in points if p.best), key=lambda p: p.cost)
        axes.plot([p.cost for p in frontier], [p.latency_s * 1000 for p in frontier], color=_COLD, linewidth=1.5)
        for point in (point for point in points if not point.failure):
            colour = _WARM if point is chosen else _COLD if point.best else "#aaaaaa"
            axes.scatter(point.cost, point.latency_s * 1000, s=130 if point is chosen else 55, color=colour, zorder=3)
            label = f"{point.memory:,} MB" + ("  (recommended)" if point is chosen else "")
            place = (point.cost, point.latency_s * 1000)
            axes.plot([point.cost] * 2, [point.low_s * 1000, point.high_s * 1000], color=colour, linewidth=1)
            offset = (4, -18) if point is chosen else (7, 6)  # keeps the labels of similar sizes apart
            axes.annotate(label, place, xytext=offset, textcoords="offset points", color=colour, fontsize=10)
        axes.set_xlabel("US dollars per million predictions")
        axes.set_ylabel("warm latency, p90, ms")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.18)
        axes.grid(color=_PALE, linewidth=0.6)
        axes.set_axisbelow(True)
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        _add_caption(figure, caption, 145)
        return _saved(figure, kind)


def _draw_spread(axes: Any, samples: Sequence[Sample]) -> None:
    """Draw each latency as a dot on a logarithmic axis, and mark the percentiles."""
    from matplotlib.ticker import FuncFormatter

    from .latency import summarize

    for height, (cold, name, colour) in enumerate(((False, "warm", _WARM), (True, "cold", _COLD))):
        own = [sample.seconds * 1000 for sample in samples if sample.cold is cold]
        found = summarize([value / 1000 for value in own])
        if not found:
            continue
        # Spread overlapping dots by the golden ratio, which leaves no visible pattern.
        offsets = [((i * 0.618034) % 1 - 0.5) * 0.42 for i in range(len(own))]
        axes.scatter(own, [height + y for y in offsets], s=13, color=colour, alpha=0.45, linewidths=0)
        marks = {"p50": found.p50_s * 1000, "p90": found.p90_s * 1000, "p99": found.p99_s * 1000}
        for value in marks.values():
            axes.plot([value] * 2, [height - 0.28, height + 0.28], color=_INK, linewidth=1.4)
        said = ",  ".join(f"{name} {_ms(value)}" for name, value in marks.items())
        axes.text(0.0, height + 0.36, f"{name}, {len(own):,}:  {said}", transform=_beside(axes), fontsize=10)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if str(value)[0] in "25" else ""))
    axes.set(ylim=(-0.45, 1.65), yticks=[], xlabel="ms")
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=_PALE, linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_parts(axes: Any, parts: Mapping[str, float], title: str) -> None:
    """Draw the parts of one request as a bar, with a legend."""
    total = sum(parts.values())
    axes.set_title(f"{title}: {_ms(total * 1000)}" if total else f"{title}: not measured", loc="left", fontsize=10)
    axes.set_axis_off()
    left = 0.0
    for (name, words), colour in zip(PARTS.items(), _COLOURS, strict=True):
        width = parts.get(name, 0.0) * 1000
        if width < total * 1000 * 0.001:
            continue
        axes.barh(0, width, left=left, height=0.9, color=colour, edgecolor="white", label=f"{words} {_ms(width)}")
        if width > total * 1000 * _LEAST_SHARE:
            ink = "white" if colour in _COLOURS[:2] else _INK
            axes.text(left + width / 2, 0, f"{width / total / 10:.0f} %", ha="center", va="center", color=ink)
        left += width
    if total:
        axes.set(xlim=(0, left), ylim=(-1.2, 0.5))
        axes.legend(loc="lower left", ncols=4, frameon=False, fontsize=8.5, borderpad=0, handlelength=1)


def _add_caption(figure: Any, text: str, width: int) -> None:
    figure.supxlabel("\n".join(textwrap.wrap(text, width)), x=0.01, ha="left", fontsize=7.5, color="#777777")


def _beside(axes: Any) -> Any:
    """Return a transform with x in axes coordinates and y in data coordinates."""
    return axes.get_yaxis_transform()


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(_SETTINGS)


def _saved(figure: Any, kind: str) -> bytes:
    file = io.BytesIO()
    metadata = {"Date": None, "Creator": MARK} if kind == "svg" else {"Software": MARK}
    figure.savefig(file, format=kind, dpi=160, metadata=metadata)
    return file.getvalue()
