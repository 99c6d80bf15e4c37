"""The picture of a sweep: one figure against another, a panel for each group of comparable rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from benchmarks.comparable import FIRST, Group, Line

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which the colour-blind can tell apart; the markers say the same."""

MARKERS = "osD^vPX<>hp"

NAMED = 8
"""Points of a panel that are named; of more, those on the frontier alone."""

ACROSS = 3
"""Panels in a row."""


def draw(groups: Sequence[Group], figure: str, against: str, path: Path | IO[bytes]) -> bool:
    """``figure`` upwards (less is better) over ``against`` (more is better), greedy as a star with its lines.

    Returns: False, and no file, when no group has both figures.
    """
    shown = [(group, points) for group in groups if (points := _points(group, figure, against))]
    if not shown:
        return False
    columns = min(len(shown), ACROSS)
    rows = -(-len(shown) // columns)
    picture = Figure(figsize=(5.5 * columns, 4.6 * rows), dpi=150, layout="constrained")
    named: list[tuple[Axes, Mapping[tuple[float, float], str]]] = []
    panels = picture.subplots(rows, columns, squeeze=False).flat
    methods = list(dict.fromkeys(line.method for _, points in shown for line in points))
    for (group, points), axes in zip(shown, panels, strict=False):  # in this order no panel is lost
        named.append((axes, _panel(axes, points, figure, against, methods)))
        axes.set_title(group.name, fontsize=10)
        axes.set_xlabel(f"{against} (more is better)")
        axes.set_ylabel(f"{figure} (less is better)")
    for axes in list(panels):
        axes.set_axis_off()
    picture.draw_without_rendering()  # so that it is known what is where
    for axes, names in named:
        _name(axes, names)
    picture.savefig(path)
    return True


def _points(group: Group, figure: str, against: str) -> list[Line]:
    """The lines that have both figures."""
    return [
        line
        for line in group.lines()
        if all(line.figures.get(name, {}).get("value") is not None for name in (figure, against))
    ]


def _panel(
    axes: Axes, points: Sequence[Line], figure: str, against: str, methods: Sequence[str]
) -> dict[tuple[float, float], str]:
    """Draws the points. Returns: the names of those that should have one."""
    at = [(line.figures[against]["value"], line.figures[figure]["value"]) for line in points]
    front, names = best(at), dict[tuple[float, float], str]()
    axes.plot(*zip(*front, strict=True), color="0.6", linewidth=1, linestyle="--", zorder=1, label="frontier")
    for method in methods:
        own = [number for number, line in enumerate(points) if line.method == method]
        if not own:
            continue
        place = methods.index(method)
        look: dict[str, Any] = {
            "color": "#000000" if method == FIRST else COLOURS[place % (len(COLOURS) - 1)],
            "marker": "*" if method == FIRST else MARKERS[place % len(MARKERS)],
            "markersize": 14 if method == FIRST else 7,
        }
        ends = [[_ends(points[number].figures[name]) for number in own] for name in (against, figure)]
        axes.errorbar(
            [at[number][0] for number in own],
            [at[number][1] for number in own],
            xerr=list(zip(*ends[0], strict=True)),
            yerr=list(zip(*ends[1], strict=True)),
            linestyle="none",
            elinewidth=0.6,
            markeredgecolor="white",
            label=method,
            zorder=2,
            **look,
        )
    for x, y in dict.fromkeys(at):
        here = [line for line, place in zip(points, at, strict=True) if place == (x, y)]
        if any(line.method == FIRST for line in here):
            axes.axvline(x, color="0.85", linewidth=0.8, zorder=0)
            axes.axhline(y, color="0.85", linewidth=0.8, zorder=0)
        knobs = [line.knobs for line in here if line.knobs]
        if knobs and (len(set(at)) <= NAMED or (x, y) in front):
            told = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in knobs[0].items())
            told += f" and {len(knobs) - 1} more" if len(knobs) > 1 else ""
            names[x, y] = told
    axes.margins(0.15)
    axes.legend(fontsize=8, framealpha=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return names


def _name(axes: Axes, names: Mapping[tuple[float, float], str]) -> None:
    """Writes each point's name beside it where there is room, and else not at all."""
    taken: list[Bbox] = []
    for point, name in names.items():
        for offset, aligned in (((6, -9), "left"), ((6, 4), "left"), ((-6, 4), "right"), ((-6, -9), "right")):
            text = axes.annotate(name, point, offset, textcoords="offset points", ha=aligned, fontsize=7)
            place = text.get_window_extent()
            if (
                axes.bbox.containsx(place.x0)
                and axes.bbox.containsx(place.x1)
                and not place.count_overlaps(taken)
            ):
                taken.append(place)
                break
            text.remove()


def best(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one has at least as much x and no more y than; from left to right."""
    return sorted(
        {(x, y) for x, y in points if not any(a >= x and b <= y and (a, b) != (x, y) for a, b in points)}
    )


def _ends(figure: Mapping[str, Any]) -> tuple[float, float]:
    """How far the interval, or the sd over seeds, goes down and up."""
    if figure.get("sd") is not None:
        return figure["sd"], figure["sd"]
    if figure.get("low") is None or figure.get("high") is None:
        return 0.0, 0.0
    return max(0.0, figure["value"] - figure["low"]), max(0.0, figure["high"] - figure["value"])
