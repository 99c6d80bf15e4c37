"""Hidden states in the plane: t-SNE of one answer's tokens, and of many images' first tokens."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .axes import new_axes
from .labels import one_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from ..trace import Trace

PERPLEXITY = 40.0
"""The paper's; with fewer than 121 points a third of their number."""
FEWEST = 5
"""Points that a picture needs."""
MARKERS = "o^sDvPX*"


def states_of_answer(
    trace: "Trace",
    tokens: Sequence[int] | None = None,
    places: ArrayLike | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Every token of one answer at every readout, a point each, coloured by readout (the paper's fig. 6).

    Args:
        trace: of one row, T tokens, made with `Record(states=True)`.
        tokens: those to draw; None for all. t-SNE of 5,000 points takes a minute of one core, of 10,000 two.
        places: `[tokens, L+1, 2]`, as `embedded` makes them of their states; None has it done here.
        ax: axes to draw on; new ones if None.

    Raises:
        ValueError: if the trace has several rows, no states, or fewer than 5 points.
        ImportError: without matplotlib or scikit-learn.
    """
    one_row(trace, "states_of_answer")
    states = _states(trace, "states_of_answer")[0, trace.generated[0]]
    chosen = states if tokens is None else states[list(tokens)]
    at = embedded(chosen) if places is None else np.asarray(places, dtype=float)
    return _scatter(at, ax, {"": range(len(at))})


def states_of_images(
    trace: "Trace",
    answers: Sequence[str] | None = None,
    places: ArrayLike | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """The first token of each answer to one question about many images, by readout (the paper's fig. 7).

    Args:
        trace: one row an image, each with a token at least, made with `Record(states=True)`.
        answers: a word for each row, which chooses the form of its points; None: all alike.
        places: `[rows, L+1, 2]`, as `embedded` makes them of the states; None has it done here.
        ax: axes to draw on; new ones if None.

    Raises:
        ValueError: if the trace has no states, an empty answer, or fewer than 5 points.
        ImportError: without matplotlib or scikit-learn.
    """
    states = _states(trace, "states_of_images")
    if not (trace.tokens.shape[1] and bool(trace.generated[:, 0].all())):
        raise ValueError("states_of_images draws the first token of every answer, and one of them has none.")
    if answers is not None and len(answers) != len(states):
        raise ValueError(
            f"states_of_images expects an answer for each of {len(states)} rows, got {len(answers)}."
        )
    at = embedded(states[:, 0]) if places is None else np.asarray(places, dtype=float)
    kinds = (
        {"": list(range(len(states)))}
        if answers is None
        else {
            word: [row for row, told in enumerate(answers) if told == word] for word in dict.fromkeys(answers)
        }
    )
    return _scatter(at, ax, kinds)


def embedded(states: ArrayLike) -> np.ndarray:
    """Points in the plane that are near each other where states are: MaxAbs scaling, then t-SNE.

    The same states give the same points: the seed is fixed, and one thread adds them up.

    Args:
        states: `[items, L+1, hidden]` of any float dtype, as in `Trace.states`.

    Returns:
        `[items, L+1, 2]`; no unit: only who is near whom means something.

    Raises:
        ValueError: with fewer than 5 points, or with states that are not finite.
        ImportError: without scikit-learn.
    """
    try:
        from sklearn.manifold import TSNE
        from sklearn.preprocessing import MaxAbsScaler
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ImportError("t-SNE needs scikit-learn; pip install 'mutation-decode[plots]'.") from error
    table = np.asarray(states.float() if hasattr(states, "float") else states, dtype=np.float32)
    if table.ndim != 3 or (count := table.shape[0] * table.shape[1]) < FEWEST:
        raise ValueError(
            f"expected states [items, readouts, hidden] of {FEWEST} points at least, got {table.shape}."
        )
    if not np.isfinite(table).all():
        raise ValueError("the states hold values that are not finite, which have no place; use float32.")
    if not np.ptp(table.reshape(count, -1), axis=0).any():
        raise ValueError("all states are the same, so there is nothing to see in a picture of them.")
    points = MaxAbsScaler().fit_transform(table.reshape(count, -1))
    perplexity = min(PERPLEXITY, (count - 1) / 3)
    with threadpool_limits(1):
        found = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=0).fit_transform(
            points
        )
    return np.asarray(found, dtype=float).reshape(*table.shape[:2], 2)


def _states(trace: "Trace", function: str) -> "Tensor":
    if trace.states is None:
        raise ValueError(f"{function} needs states; record the trace with trace=Record(states=True).")
    return trace.states


def _scatter(places: np.ndarray, ax: "Axes | None", kinds: Mapping[str, Sequence[int]]) -> "Axes":
    """Points `[items, L+1, 2]`, coloured by readout; items of different kinds have different forms."""
    axes = ax if ax is not None else new_axes(4.4, 3.6)
    depth = places.shape[1] - 1
    for place, (kind, items) in enumerate(kinds.items()):
        mine = places[list(items)]
        drawn = axes.scatter(
            mine[..., 0],
            mine[..., 1],
            c=np.broadcast_to(np.arange(depth + 1), mine.shape[:2]),
            cmap="viridis",
            vmin=0,
            vmax=depth,
            s=14 if len(places) < 200 else 6,
            marker=MARKERS[place % len(MARKERS)],
            linewidths=0.25,
            edgecolors="0.3",  # the last readouts are pale
            label=kind,
        )
    axes.set_xlabel("t-SNE, first axis (no unit)")
    axes.set_ylabel("t-SNE, second axis (no unit)")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.figure.colorbar(drawn, ax=axes, label="readout", fraction=0.05, pad=0.03)
    if any(kinds):
        legend = axes.legend(loc="best")
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            handle.set(array=None, facecolor="0.6")  # type: ignore[union-attr]
            text.set_parse_math(False)
    return axes
