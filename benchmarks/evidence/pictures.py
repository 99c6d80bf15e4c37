"""The pictures of the evidence; what they show is in tables or JSON beside them too."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.frontier import COLOURS, MARKERS, best
from benchmarks.statistics import Interval

HARM, HELP = "#D55E00", "#0072B2"
FAR = 25.0
"""Points of CHAIR_i more than greedy's from which on a method is an arrow at the edge, with its number."""


def differences(found: Mapping[str, Mapping[str, tuple[Interval, Sequence[float]]]], path: Path) -> None:
    """CHAIR_i less greedy's: model -> method -> (mean over trainings, the value of each training)."""
    picture = _figure(len(found), height=0.30 * max(map(len, found.values())) + 1.2)
    for axes, (model, methods) in zip(
        picture.subplots(1, len(found), squeeze=False).flat, found.items(), strict=True
    ):
        for place, (interval, each) in enumerate(methods.values()):
            if interval.value > FAR:
                told = f"{interval.value:+.0f} \u2192"
                axes.text(FAR, place, told, ha="right", va="center", color=HARM, fontsize=9)
                continue
            colour = HELP if interval.high < 0 else HARM if interval.low > 0 else "0.4"
            axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2)
            axes.plot(interval.value, place, "o", color=colour, markersize=6)
            axes.plot(each, [place] * len(each), "|", color="black", markersize=9)
        axes.axvline(0, color="0.6", linewidth=0.8)
        far = any(interval.value > FAR for interval, _ in methods.values())
        axes.set_xlim(right=FAR + 1 if far else min(FAR + 1, axes.get_xlim()[1]))
        axes.set_yticks(range(len(methods)), list(methods))
        axes.invert_yaxis()
        axes.set_xlabel("CHAIR_i less greedy's, points (less is better)")
        axes.set_title(model, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    picture.savefig(path)


def frontiers(
    trials: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    greedy: Mapping[str, tuple[float, float]],
    path: Path | IO[bytes],
) -> None:
    """Every setting that was tried on validation: model -> method -> (recall, CHAIR_i)."""
    picture = _figure(len(trials), height=5.8)
    for axes, (model, methods) in zip(
        picture.subplots(1, len(trials), squeeze=False).flat, trials.items(), strict=True
    ):
        everything = [greedy[model], *(point for points in methods.values() for point in points)]
        front = best(everything)
        if len(front) > 1:  # of one setting that is best in both, there is no line
            axes.plot(*zip(*front, strict=True), "--", color="0.6", linewidth=1, label="frontier")
        for place, (method, points) in enumerate(methods.items()):
            filled, colour = place < len(MARKERS), COLOURS[place % (len(COLOURS) - 1)]
            axes.plot(
                *zip(*points, strict=True),
                MARKERS[place % len(MARKERS)],
                color=colour,
                markersize=6 if filled else 10,
                markerfacecolor=colour if filled else "none",
                markeredgecolor="white" if filled else colour,
                markeredgewidth=0.6 if filled else 1.5,
                label=method,
            )
        axes.plot(*greedy[model], "*", color="black", markersize=14, label="greedy")
        axes.set_xlim(left=max(0, min(x for x, _ in front) - 25))
        axes.set_ylim(-2, greedy[model][1] + 12)
        axes.set_xlabel("recall, percent (more is better)")
        axes.set_ylabel("CHAIR_i, percent (less is better)")
        axes.set_title(model, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    names = {
        name: line
        for axes in picture.axes
        for line, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    picture.legend(names.values(), names, loc="outside lower center", fontsize=8, ncols=8)
    picture.savefig(path)


def grids(found: Mapping[str, tuple[Sequence[float], Sequence[int], np.ndarray, float]], path: Path) -> None:
    """CHAIR_i by alpha and readout: model -> (alphas, readouts, ``[alphas, readouts]``, greedy's)."""
    picture = _figure(len(found), height=3.8)
    for axes, (model, (alphas, layers, values, plain)) in zip(
        picture.subplots(1, len(found), squeeze=False).flat, found.items(), strict=True
    ):
        image = axes.imshow(values - plain, cmap="RdBu_r", vmin=-20, vmax=20, aspect="auto", origin="lower")
        for (row, column), value in np.ndenumerate(values):
            strong = abs(value - plain) > 12
            axes.text(
                column,
                row,
                "-" if np.isnan(value) else f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if strong else "black",
            )
        axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
        axes.set_yticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
        axes.set_xlabel("readout that is contrasted with")
        axes.set_ylabel("alpha")
        axes.set_title(f"{model}: CHAIR_i, percent (greedy {plain:.1f})", fontsize=10)
        picture.colorbar(image, ax=axes, label="points less greedy's; beyond 20 clipped")
    picture.savefig(path)


def curves(found: Mapping[str, Mapping[str, Sequence[float]]], path: Path, *, across: str, up: str) -> None:
    """Lines by layer, from layer 0 on: panel -> line -> values; at most two panels in a row."""
    rows = -(-len(found) // 2)
    picture = _figure(min(len(found), 2), height=3.4 * rows)
    panels = picture.subplots(rows, min(len(found), 2), squeeze=False).flat
    for axes, (title, lines) in zip(panels, found.items(), strict=True):
        for place, (name, values) in enumerate(lines.items()):
            axes.plot(values, marker=MARKERS[place], markersize=4, color=COLOURS[place], label=name)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.set_title(title, fontsize=10)
        axes.legend(fontsize=8, framealpha=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    picture.savefig(path)


def _figure(panels: int, *, height: float) -> Any:
    return Figure(figsize=(5.6 * panels, height), dpi=130, layout="constrained")
