"""Pictures of what layers do: js by layer for groups of tokens, and one answer's js token by token.

Needs matplotlib (`pip install 'mutation-decode[plots]'`), imported when a picture is drawn. Nothing is shown
or saved: each function draws on the axes it is given, or on new ones, and returns them.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito 2008: told apart with every common colour vision, and as greys."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
JS = "Jensen-Shannon divergence (nats)"


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
    axes = ax if ax is not None else _axes(6.0, 3.6)
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
    axes.locator_params(axis="x", integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return axes


def js_heatmap(tokens: Sequence[str], js: ArrayLike, ax: "Axes | None" = None) -> "Axes":
    """One answer: its tokens downwards, the blocks to the right, dark where a block changes much.

    Args:
        tokens: the T tokens as text.
        js: `[T, L]`, nats, as one row of `Trace.js`.
        ax: axes to draw on; new ones, as high as the answer needs, if None.

    Raises:
        ValueError: if there is not one row of js for each token.
        ImportError: without matplotlib.
    """
    table = np.asarray(js, dtype=float)
    if table.ndim != 2 or len(tokens) != len(table):
        raise ValueError(f"js_heatmap expects js [{len(tokens)} tokens, L], got shape {table.shape}.")
    axes = ax if ax is not None else _axes(1.6 + 0.28 * table.shape[1], 1.0 + 0.19 * len(tokens))
    image = axes.imshow(table, aspect="auto", cmap="Blues", vmin=0, interpolation="nearest")
    axes.set_xlabel("block")
    axes.set_yticks(range(len(tokens)), [token.strip() or repr(token) for token in tokens], fontsize=8)
    axes.locator_params(axis="x", integer=True)
    axes.tick_params(length=0)
    axes.figure.colorbar(image, ax=axes, label=JS, fraction=0.05, pad=0.03)
    return axes


def _axes(width: float, height: float) -> "Axes":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib; pip install 'mutation-decode[plots]'.") from error
    # A Figure of its own: no display, and nothing for pyplot to keep open.
    return Figure(figsize=(width, height), dpi=150, layout="constrained").add_subplot()
