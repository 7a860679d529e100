"""The page's charts: count per window along each thread, and trips for many windows and thresholds."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from bokeh.models.annotations import Legend, LegendItem
from bokeh.models.formatters import NumeralTickFormatter
from bokeh.models.ranges import DataRange1d, FactorRange, Range1d
from bokeh.models.sources import ColumnDataSource
from bokeh.models.tickers import BasicTicker
from bokeh.models.tools import HoverTool
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

from branchmon.driver.config import EventConfig
from branchmon.events import BmEvent
from branchmon.traces.analysis import THRESHOLDS, WINDOWS, HeatMap, ThreadCurves

if TYPE_CHECKING:
    from bokeh.models.glyph import Glyph
    from bokeh.models.renderers import GlyphRenderer

COLOURS: dict[BmEvent, str] = {
    BmEvent.RETS: "#3b82f6",
    BmEvent.CALL_RET: "#14a38b",
    BmEvent.RET_MISP: "#e5484d",
    BmEvent.BRANCH_MISP: "#b8860b",
    BmEvent.INDIRECT_BRANCH_MISP: "#a855d8",
    BmEvent.FAR_BRANCH: "#7c8794",
}
"""Readable on white and on near-black."""
TRIP_COLOUR = "#f04438"


def curves_chart(thread: ThreadCurves, settings: Sequence[tuple[str, EventConfig]]) -> figure:
    """Counts window by window of one thread, the thresholds of `settings`, and the trips."""
    highest = max((max(curve.counts) for curve in thread.curves), default=1)
    thresholds = {config.threshold for _, config in settings}
    # A threshold far above everything would flatten the curves: it is told in words instead.
    top = max(highest, *(t for t in thresholds if t <= 4 * highest + 8), 1)
    plot = figure(
        height=320,
        sizing_mode="stretch_width",
        x_axis_label="instructions retired by the thread",
        y_axis_label="highest count in a window",
        x_range=Range1d(start=0, end=max(1, thread.instructions)),
        y_range=DataRange1d(start=-0.5, only_visible=True),
        tools="xpan,xwheel_zoom,xbox_zoom,reset,save",
        active_scroll=None,
        output_backend="canvas",
    )
    items: list[LegendItem] = []
    for curve in thread.curves:
        source = ColumnDataSource(
            {"at": curve.at, "count": curve.counts, "event": [curve.event.perf_name] * len(curve.at)}
        )
        colour = COLOURS[curve.event]
        line = plot.line("at", "count", source=source, color=colour, line_width=1.4)
        dots = plot.scatter("at", "count", source=source, color=colour, size=4)
        items.append(
            LegendItem(label=curve.event.perf_name, renderers=cast("list[GlyphRenderer[Glyph]]", [line, dots]))
        )
        # Only what was asked for is shown at first: six curves at once are a tangle.
        line.visible = dots.visible = curve.event in {config.event for _, config in settings} or len(thread.curves) == 1
        plot.add_tools(
            HoverTool(
                renderers=[dots], tooltips=[("event", "@event"), ("count", "@count"), ("instruction", "@at{0,0}")]
            )
        )
    for threshold in sorted(t for t in thresholds if t <= top):
        ends = [0, max(1, thread.instructions)]
        plot.line(ends, [threshold, threshold], line_color=TRIP_COLOUR, line_dash="dashed", name="threshold")
    if thread.marks:
        items.append(LegendItem(label="trips", renderers=[_trips(plot, thread)]))
    legend = Legend(items=items, click_policy="hide", orientation="horizontal", ncols=2)
    plot.add_layout(legend, "below")
    _plain(plot)
    plot.xaxis.formatter = NumeralTickFormatter(format="0.[0]a")
    plot.xaxis.ticker = BasicTicker(desired_num_ticks=5)
    return plot


def _trips(plot: figure, thread: ThreadCurves) -> "GlyphRenderer[Glyph]":
    source = ColumnDataSource(
        {
            "at": [mark.at for mark in thread.marks],
            "count": [mark.count for mark in thread.marks],
            "event": [mark.event for mark in thread.marks],
            "place": [mark.place for mark in thread.marks],
            "number": [mark.number for mark in thread.marks],
        }
    )
    marks = plot.scatter(
        "at", "count", source=source, marker="inverted_triangle", size=9, color=TRIP_COLOUR, alpha=0.75
    )
    tooltips = [("trip", "@number"), ("event", "@event"), ("at", "@place"), ("count", "@count")]
    plot.add_tools(HoverTool(renderers=[marks], tooltips=tooltips))
    return cast("GlyphRenderer[Glyph]", marks)


def heat_chart(heat: HeatMap) -> figure:
    """Trips of one event, by window and threshold."""
    windows, thresholds = [str(w) for w in WINDOWS], [str(t) for t in THRESHOLDS]
    most = max(max(row) for row in heat.trips)
    cells = [(w, t, heat.trips[i][j]) for i, t in enumerate(thresholds) for j, w in enumerate(windows)]
    shades = [_shade(trips, most) for _, _, trips in cells]
    source = ColumnDataSource(
        {
            "window": [w for w, _, _ in cells],
            "threshold": [t for _, t, _ in cells],
            "trips": [trips for _, _, trips in cells],
            "text": [_short(trips) if trips else "" for _, _, trips in cells],
            "colour": [
                Viridis256[shade] if trips else "#8080801a" for (_, _, trips), shade in zip(cells, shades, strict=True)
            ],
            "ink": ["#ffffff" if shade < 150 else "#101418" for shade in shades],
        }
    )
    plot = figure(
        height=300,
        sizing_mode="stretch_width",
        title=heat.event.perf_name,
        x_axis_label="window (instructions)",
        y_axis_label="threshold",
        x_range=FactorRange(factors=windows),
        y_range=FactorRange(factors=thresholds),
        tools="",
        toolbar_location=None,
    )
    squares = plot.rect("window", "threshold", 0.94, 0.92, source=source, color="colour", line_color=None)
    plot.text("window", "threshold", text="text", source=source, text_color="ink", text_align="center",
              text_baseline="middle", text_font_size="10px")  # fmt: skip
    tooltips = [("window", "@window"), ("threshold", "@threshold"), ("trips", "@trips{0,0}")]
    plot.add_tools(HoverTool(renderers=[squares], tooltips=tooltips))
    _plain(plot)
    plot.grid.grid_line_color = None
    return plot


def _plain(plot: figure) -> None:
    """Nothing but ink: the page gives the colours of light and dark."""
    plot.background_fill_color = plot.border_fill_color = None
    plot.outline_line_color = None
    plot.toolbar.logo = None
    plot.xgrid.grid_line_color = None
    for legend in plot.legend:
        legend.background_fill_color = None
        legend.border_line_color = None
        legend.inactive_fill_color = None
        legend.inactive_fill_alpha = 0.0


def _shade(trips: int, most: int) -> int:
    """0-255, by the logarithm: one trip differs from none more than a thousand from two thousand."""
    return round(40 + 215 * math.log1p(trips) / math.log1p(most)) if trips and most else 0


def _short(number: int) -> str:
    if number < 10_000:
        return str(number)
    return f"{number / 1000:.0f}k" if number < 1_000_000 else f"{number / 1e6:.0f}M"
