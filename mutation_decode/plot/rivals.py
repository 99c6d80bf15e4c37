"""A word that was said against one that was not, by readout."""

from typing import TYPE_CHECKING

import numpy as np

from .axes import COLOURS, DASHES, new_axes, whole_numbers
from .labels import name, one_row, recorded, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..trace import Trace


def rivals(trace: "Trace", token: int, rival: int | None = None, ax: "Axes | None" = None) -> "Axes":
    """The probability of an emitted token and of its rival at every readout (the paper's fig. 3).

    Where the rival is not among the `Record.top` likeliest tokens its line has a gap: it lies below them. A
    dotted line stands at the pre-mutation readout, if the detector found a mutation.

    Args:
        trace: of one row, made with a `Record`.
        token: which token of the answer, from 0.
        rival: the id of another token; None for what led before the mutation, see `rival_of`.
        ax: axes to draw on; new ones if None.

    Raises:
        ValueError: if the trace has several rows, was made without a Record, or has no such token or rival.
        ImportError: without matplotlib.
    """
    other = rival_of(trace, token) if rival is None else rival
    said = int(trace.tokens[0, token])
    axes = ax if ax is not None else new_axes(3.5, 2.4)
    for place, (id_, role) in enumerate(((said, "said"), (other, "not said"))):
        axes.plot(
            probability_of(trace, token, id_),
            marker="os"[place],
            markersize=3.5,
            color=COLOURS[1 - place],
            linestyle=DASHES[place],
            linewidth=1.5,
            label=f"{short(name(trace, id_))} ({role})",
        )
    if bool(trace.fired[0, token]):
        axes.axvline(int(trace.pre_mutation[0, token]), color="0.4", linestyle=":", linewidth=1)
    axes.set_xlabel("readout")
    axes.set_ylabel("probability")
    axes.set_ylim(-0.03, 1.03)
    whole_numbers(axes, trace.depth)
    axes.spines[["top", "right"]].set_visible(False)
    for text in axes.legend(frameon=False, loc="best").get_texts():
        text.set_parse_math(False)
    return axes


def rival_of(trace: "Trace", token: int) -> int:
    """The id of the likeliest other token where the mutation begins; at the model's own readout without one.

    Raises:
        ValueError: as `rivals`, or if the trace holds one token a readout, which is the emitted one.
    """
    _check(trace, token)
    assert trace.top_ids is not None
    said = int(trace.tokens[0, token])
    others = [id_ for id_ in trace.top_ids[0, token, trace.pre_mutation[0, token]].tolist() if id_ != said]
    if not others:
        raise ValueError("no rival: the trace holds only the likeliest token; record it with Record(top=5).")
    return int(others[0])


def probability_of(trace: "Trace", token: int, id_: int) -> np.ndarray:
    """`[L+1]` what every readout gives an id at one token; NaN where it is not among the recorded ones.

    Raises:
        ValueError: as `rivals`.
    """
    _check(trace, token)
    assert trace.prob is not None
    assert trace.top_ids is not None
    assert trace.top_probs is not None
    if id_ == int(trace.tokens[0, token]):
        return trace.prob[0, token].double().numpy()
    ids, probs = trace.top_ids[0, token].numpy(), trace.top_probs[0, token].double().numpy()
    found = np.where(ids == id_, probs, 0.0).sum(axis=-1)
    return np.where((ids == id_).any(axis=-1), found, np.nan)


def _check(trace: "Trace", token: int) -> None:
    one_row(trace, "rivals")
    recorded(trace, "rivals")
    length = int(trace.generated[0].sum())
    if not 0 <= token < length:
        raise ValueError(f"token {token} is none of the {length} of this answer, counted from 0.")
