"""Tokens as they stand beside an axis."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..trace import Trace

LONGEST = 16
"""Letters of a token beside an axis."""


def labels(trace: "Trace", row: int = 0) -> list[str]:
    """The generated tokens of one row in a few letters each; of a trace that is not `named`, their ids.

    A token that adds no text to the answer (the end of the text, a part of a letter) has its own name; blanks
    and line breaks are shown as Python writes them.
    """
    ids = trace.tokens[row, trace.generated[row]].tolist()
    if trace.texts is None:
        return [f"#{each}" for each in ids]
    return [short(text or name(trace, each)) for each, text in zip(ids, trace.texts[row], strict=True)]


def name(trace: "Trace", token: int) -> str:
    """The text of an id alone; `#17` where the trace knows none."""
    return (trace.names or {}).get(token) or f"#{token}"


def short(text: str) -> str:
    """Text in one line of a few letters."""
    bare = text.strip()
    shown = repr(text) if not bare or not bare.isprintable() else bare
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}\u2026"


def one_row(trace: "Trace", function: str) -> None:
    """Raises: ValueError if it is a trace of several rows."""
    if len(trace.tokens) != 1:
        raise ValueError(f"{function} draws one answer, got {len(trace.tokens)} rows; pass trace.row(i).")


def recorded(trace: "Trace", function: str) -> None:
    """Raises: ValueError if the trace was made without a Record."""
    if trace.prob is None or trace.top_ids is None or trace.top_probs is None:
        raise ValueError(
            f"{function} needs the probabilities of every readout; record the trace with trace=Record()."
        )
