"""The three charts of a page, empty: its script fills them with the word that is looked at.

Needs bokeh. Their names, and those of what is in them, are what the script knows them by. Readouts stand at
whole numbers, and block i between readouts i and i + 1.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from bokeh.core.property.vectorization import Field
from bokeh.embed import json_item
from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    FixedTicker,
    LinearColorMapper,
    Range1d,
)
from bokeh.models.annotations import BoxAnnotation, ColorBar, Span
from bokeh.plotting import figure
from bokeh.resources import Resources

LEVELS = 256
TELLS = (
    "const {event_name: kind, x, y} = cb_obj; dispatchEvent(new CustomEvent('map', {detail: {kind, x, y}}))"
)


@cache
def charts() -> dict[str, Any]:
    """Bokeh's own script, and name -> JSON of each chart."""
    return {
        "bokeh": "\n".join(Resources(mode="inline", components=["bokeh"], log_level="error").js_raw),
        "charts": {name: json_item(made) for name, made in _made().items()},
    }


def _made() -> dict[str, Any]:
    return {"map": _map(), "js": _by_block(), "prob": _by_readout()}


def _map() -> Any:
    """Tokens to the right, blocks upwards, a colour for what each block changes."""
    plot = _plot("map", height=320)
    plot.min_border_bottom = 78
    plot.xaxis.major_label_orientation = 1.2
    plot.yaxis.axis_label = "block"
    colours = LinearColorMapper(
        palette=["#ffffff"] * LEVELS, low=0, high=1, nan_color="#00000000", name="map-colours"
    )
    cells = ColumnDataSource({"x": [], "y": [], "v": []}, name="map-cells")
    plot.rect("x", "y", 1, 1, source=cells, fill_color=Field("v", transform=colours), line_color=None)
    for kind, marker in (("mutated", "circle"), ("skipped", "x")):
        source = ColumnDataSource({"x": [], "y": []}, name=f"map-{kind}")
        plot.scatter(
            "x",
            "y",
            source=source,
            marker=marker,
            size=6,
            fill_color="white",
            line_color="black",
            name=f"{kind}-marks",
        )
    plot.add_layout(
        BoxAnnotation(name="map-chosen", fill_color=None, line_alpha=1, line_width=2, visible=False)
    )
    for end in ("low", "high"):
        plot.add_layout(Span(name=f"map-watched-{end}", dimension="width", line_dash="dashed", location=0))
    bar = ColorBar(
        color_mapper=colours,
        width=10,
        padding=4,
        title=None,
        name="map-bar",
        border_line_color=None,
        background_fill_alpha=0,
    )
    plot.add_layout(bar, "right")
    for event in ("tap", "mousemove", "mouseleave"):
        plot.js_on_event(event, CustomJS(code=TELLS))
    return plot


def _by_block() -> Any:
    """The change that each block makes at one word."""
    plot = _plot("js", height=150)
    plot.xaxis.axis_label = "block"
    columns: dict[str, Sequence[Any]] = {"x": [], "v": [], "fill": [], "hatch": []}
    bars = ColumnDataSource(columns, name="js-bars")
    plot.vbar(
        "x",
        0.8,
        "v",
        source=bars,
        fill_color="fill",
        line_color=None,
        hatch_pattern="hatch",
        hatch_color="white",
        hatch_scale=6,
        hatch_weight=1.5,
    )
    return plot


def _by_readout() -> Any:
    """The probability of the word by readout, and of the word that it competes with."""
    plot = _plot("prob", height=150)
    plot.xaxis.axis_label = "readout"
    plot.y_range = Range1d(start=-0.04, end=1.04, name="prob-y")
    for kind, marker, dash in (("rival", "square", "dashed"), ("word", "circle", "solid")):
        source = ColumnDataSource({"x": [], "v": []}, name=f"prob-{kind}")
        plot.line("x", "v", source=source, line_width=2, line_dash=dash, name=f"{kind}-line")
        plot.scatter("x", "v", source=source, marker=marker, size=4, name=f"{kind}-dots")
    return plot


def _plot(name: str, *, height: int) -> Any:
    """A chart without tools, as wide as there is room."""
    plot = figure(
        name=name,
        height=height,
        sizing_mode="stretch_width",
        tools="",
        toolbar_location=None,
        x_range=Range1d(start=-0.5, end=1, name=f"{name}-x"),
        y_range=Range1d(start=0, end=1, name=f"{name}-y"),
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=None,
        min_border_left=52,
        min_border_right=8,
    )
    plot.xaxis.ticker = FixedTicker(ticks=[], name=f"{name}-ticks")
    plot.xaxis.name, plot.yaxis.name = f"{name}-below", f"{name}-left"
    plot.grid.grid_line_color = None
    for axis in plot.axis:
        axis.axis_line_alpha = 0
        axis.major_tick_in = 0
        axis.major_tick_out = 3
        axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = "system-ui, sans-serif"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "11px"
    if name != "map":
        plot.add_layout(BoxAnnotation(name=f"{name}-watched", line_color=None, left=0, right=0))
        for kind, dash in (("critical", "dashed"), ("before", "dotted")):
            plot.add_layout(Span(name=f"{name}-{kind}", dimension="height", line_dash=dash, line_width=1.5))
    return plot
