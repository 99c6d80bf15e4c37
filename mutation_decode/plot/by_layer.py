"""The mean change that each block makes, for groups of tokens."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .axes import COLOURS, DASHES, JS, new_axes, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..trace import Trace


def js_by_layer(groups: Mapping[str, ArrayLike], ax: "Axes | None" = None) -> "Axes":
    """Mean change that each block makes, for named groups of tokens, with a 95% band of the mean.

    Args:
        groups: name -> js `[tokens, L]`, nats, as in `Trace.js`; every group with the same L. NaN (a block
            that was not read) is left out.
        ax: axes to draw on; new ones if None.

    Raises:
        ValueError: if a group is not of that shape.
        ImportError: without matplotlib.
    """
    tables = {name: np.asarray(js, dtype=float) for name, js in groups.items()}
    depths = {js.shape[-1] if js.ndim == 2 else -1 for js in tables.values()}
    if len(depths) != 1 or -1 in depths:
        shapes = {name: js.shape for name, js in tables.items()}
        raise ValueError(f"js_by_layer expects js [tokens, L] with one L for every group, got {shapes}.")
    axes = ax if ax is not None else new_axes(6.0, 3.6)
    block = np.arange(depths.pop())
    for i, (name, js) in enumerate(tables.items()):
        count = (~np.isnan(js)).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.nansum(js, axis=0) / count
            variance = np.nansum((js - mean) ** 2, axis=0) / (count - 1)
            half = 1.96 * np.sqrt(variance / count)
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
        axes.plot(block, mean, color=colour, linestyle=dash, linewidth=1.8, label=f"{name} (n = {len(js)})")
        axes.fill_between(block, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
    axes.set_xlabel("block")
    axes.set_ylabel(JS)
    axes.set_xlim(block[0] - 0.3, block[-1] + 0.3)
    axes.set_ylim(bottom=0)
    whole_numbers(axes, int(block[-1]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return axes


def with_and_without_image(with_image: "Trace", without: "Trace", ax: "Axes | None" = None) -> "Axes":
    """Mean js over the tokens of answers to images, and of answers without an image (the paper's sec. 6).

    Args:
        with_image, without: answers of one model, of any number of rows; every generated token counts once.
        ax: axes to draw on; new ones if None.

    Raises:
        ValueError: if the two are of different depth, or hold another divergence than js.
        ImportError: without matplotlib.
    """
    for trace in (with_image, without):
        if trace.divergence != "js":
            raise ValueError(f"with_and_without_image draws js, got traces of {trace.divergence}.")
    groups = {"with the image": with_image, "without it": without}
    return js_by_layer({name: each.js[each.generated].numpy() for name, each in groups.items()}, ax)
