"""One answer as a table of colours: its tokens downwards, layers to the right."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .axes import COLOURS, JS, SMALL, WIDE, new_axes, whole_numbers
from .labels import labels, one_row, recorded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..trace import Trace


def js_heatmap(tokens: Sequence[str], js: ArrayLike, ax: "Axes | None" = None, *, label: str = JS) -> "Axes":
    """The change that each block makes at each token (the paper's fig. 4): dark where it is large.

    Args:
        tokens: the T tokens as text; see `labels`.
        js: `[T, L]`, nats, as one row of `Trace.js`.
        ax: axes to draw on; new ones, as high as the answer needs, if None.
        label: what the colours mean, if it is not js in nats.

    Raises:
        ValueError: if there is not one row of js for each token.
        ImportError: without matplotlib.
    """
    table = np.asarray(js, dtype=float)
    if table.ndim != 2 or len(tokens) != len(table):
        raise ValueError(f"js_heatmap expects js [{len(tokens)} tokens, L], got shape {table.shape}.")
    return _heat(tokens, table, ax, across="block", label=label, most=None)


def token_probabilities(trace: "Trace", tokens: range | None = None, ax: "Axes | None" = None) -> "Axes":
    """What every readout gives the token that was emitted (the paper's fig. 2).

    Args:
        trace: of one row, T tokens, made with a `Record`.
        tokens: those of the T to draw, of a long answer; None for all.
        ax: axes to draw on; new ones, as high as the answer needs, if None.

    Raises:
        ValueError: if the trace has several rows, or was made without a Record, or has no such tokens.
        ImportError: without matplotlib.
    """
    one_row(trace, "token_probabilities")
    recorded(trace, "token_probabilities")
    assert trace.prob is not None
    told, table = labels(trace), trace.prob[0, trace.generated[0]].double().numpy()
    if tokens is not None:
        if tokens and not 0 <= tokens[0] <= tokens[-1] < len(told):
            raise ValueError(f"tokens {tokens} are not all among the {len(told)} of this answer.")
        told, table = [told[at] for at in tokens], table[list(tokens)]
    return _heat(told, table, ax, across="readout", label="probability of the emitted token", most=1.0)


def mark(axes: "Axes", tokens: Collection[int]) -> None:
    """Marks rows of a table, such as hallucinated words: a star before the token, in bold and in colour.

    Args:
        tokens: rows, counted from 0 at the top.
    """
    for at, tick in enumerate(axes.get_yticklabels()):
        if at in tokens:
            tick.set(color=COLOURS[1], fontweight="bold")
    told = [tick.get_text() for tick in axes.get_yticklabels()]
    axes.yaxis.set_ticklabels([f"* {text}" if at in tokens else text for at, text in enumerate(told)])


def _heat(
    tokens: Sequence[str],
    table: np.ndarray,
    ax: "Axes | None",
    *,
    across: str,
    label: str,
    most: float | None,
) -> "Axes":
    width = min(1.9 + 0.25 * table.shape[1], WIDE)
    axes = ax if ax is not None else new_axes(width, 0.9 + 0.15 * max(len(tokens), 4))
    axes.set_xlabel(across)
    if not len(tokens):
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no tokens", ha="center", va="center", transform=axes.transAxes)
        return axes
    image = axes.imshow(table, aspect="auto", cmap="Blues", vmin=0, vmax=most, interpolation="nearest")
    shown = [token.strip() or repr(token) for token in tokens]
    axes.set_yticks(range(len(tokens)), shown, fontsize=SMALL, parse_math=False)
    whole_numbers(axes, table.shape[1] - 1)
    axes.tick_params(length=0)
    axes.figure.colorbar(image, ax=axes, label=label, fraction=0.05, pad=0.03)
    return axes
