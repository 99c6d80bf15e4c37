"""A trace as the page needs it: a line for each token, and everything by layer packed for its script."""

import base64
import bisect
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from torch import Tensor

from ..divergence import MEASURES
from ..trace import Trace

RISKS = (0.07, 0.12, 0.2, 0.4, 0.6)
"""From which risk on a token is shown stronger; the first is the detector's default threshold, 0.05 nats."""
CANDIDATES = 10
"""A page shows so many of a readout's likeliest tokens, of those that were recorded."""


def pieces(row: Trace) -> Sequence[str]:
    """What each token of a named trace of one row adds to its text."""
    assert row.texts is not None
    return row.texts[0]


def facts(row: Trace, texts: Sequence[str], unlike: Sequence[bool], marked: set[int]) -> list[dict[str, Any]]:
    """A line for each token, all that the page shows of it without a script."""
    acts = acted(row)
    runs = list(accumulate((a != b for a, b in pairwise(unlike)), initial=0))
    return [
        {
            "number": token,
            **_spelled(text, _name(row, int(row.tokens[0, token]))),
            "run": runs[token],
            "level": 0 if math.isnan(risk) else bisect.bisect(RISKS, risk),
            "risk": _defined(risk),
            "unlike": unlike[token],
            "marked": token in marked,
            "js": js,
            "block": block,
            "fired": bool(row.fired[0, token]),
            "acted": bool(acts[token]),
            "critical": critical if (critical := int(row.critical[0, token])) < row.depth else None,
            "pre_mutation": int(row.pre_mutation[0, token]) if row.fired[0, token] else None,
            "mutated": _numbers(row.mutated[0, token]),
            "skipped": _numbers(row.skipped[0, token]),
            "probability": None if row.prob is None else _defined(float(row.prob[0, token, -1])),
            "likeliest": _likeliest(row, token),
        }
        for token, (text, risk, (js, block)) in enumerate(
            zip(texts, row.risk[0].tolist(), _largest(row), strict=True)
        )
    ]


def acted(row: Trace) -> Tensor:
    """`[tokens]` where the strategy changed what generate was handed; if unknown, where it was applied."""
    return row.acted[0] if row.moved is None else row.moved[0]


def _spelled(text: str, name: str) -> dict[str, str]:
    """A piece of text as blanks, word and blanks; and a sign for what cannot be seen or is no text at all."""
    word = text.strip()
    lead = text[: len(text) - len(text.lstrip())] if word else ""
    sign = "" if word else "↵" if "\n" in text else "␣" if text else name.strip() or "·"
    return {"lead": lead, "word": word, "tail": text[len(lead) + len(word) :], "sign": sign}


def packed(rows: Mapping[str, Trace]) -> dict[str, Any]:
    """What the script reads: numbers of every token and layer in base64, words once each."""
    ids = sorted({each for row in rows.values() for each in _ids(row)})
    at = np.zeros(ids[-1] + 1 if ids else 1, dtype=np.uint32)
    at[ids] = np.arange(len(ids))
    names: dict[int, str] = {}
    for row in rows.values():
        names |= row.names or {}
    return {
        "names": [names.get(each, f"#{each}") for each in ids],
        "ids": ids,
        "risks": RISKS,
        "answers": [{"name": name, **_packed(row, at)} for name, row in rows.items()],
    }


def _packed(row: Trace, at: np.ndarray) -> dict[str, Any]:
    measure = MEASURES[row.divergence]
    shown = {"top_ids": row.top_ids, "after_ids": row.after_ids}
    narrow = "<u2" if int(at.max()) < 2**16 else "<u4"
    probs = {"top_probs": row.top_probs, "after_probs": row.after_probs}
    return {
        "depth": row.depth,
        "watched": row.watched,
        "measure": {"name": measure.name, "unit": measure.unit.strip()},
        "words": _base64(at[row.tokens[0].numpy()], narrow),
        "wide": narrow == "<u4",
        "top": 0 if row.top_ids is None else min(CANDIDATES, row.top_ids.shape[-1]),
        "texts": pieces(row),
        "critical": row.critical[0].tolist(),
        "pre_mutation": row.pre_mutation[0].tolist(),
        "fired": row.fired[0].int().tolist(),
        "acted": acted(row).int().tolist(),
        "mutated": [_numbers(blocks) for blocks in row.mutated[0]],
        "skipped": [_numbers(blocks) for blocks in row.skipped[0]],
        "risk": _base64(row.risk[0].numpy(), "<f4"),
        "js": _base64(row.js[0].numpy(), "<f4"),
        "prob": None if row.prob is None else _base64(row.prob[0].numpy(), "<f4"),
        **{
            name: None if ids is None else _base64(at[ids[0, ..., :CANDIDATES].numpy()], narrow)
            for name, ids in shown.items()
        },
        **{
            name: None if values is None else _base64(values[0, ..., :CANDIDATES].float().numpy(), "<f4")
            for name, values in probs.items()
        },
    }


def _base64(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode()


def _ids(row: Trace) -> set[int]:
    every = [row.tokens, row.top_ids, row.after_ids]
    return {int(each) for ids in every if ids is not None for each in np.unique(ids.numpy())}


def _name(row: Trace, number: int) -> str:
    return (row.names or {}).get(number, f"#{number}")


def _numbers(chosen: Any) -> list[int]:
    found: list[int] = chosen.nonzero().flatten().tolist()
    return found


def _largest(row: Trace) -> list[tuple[float | None, int | None]]:
    """The largest change of a watched block, and which one it is; None where none was read."""
    first, stop = row.watched
    change = row.js[0, :, first:stop].nan_to_num(-1.0, posinf=math.inf)
    if change.shape[1] == 0:
        return [(None, None)] * len(change)
    most = change.max(dim=1)
    return [
        (js, first + block) if js >= 0 else (None, None)
        for js, block in zip(most.values.tolist(), most.indices.tolist(), strict=True)
    ]


def _likeliest(row: Trace, token: int) -> dict[str, str] | None:
    """The likeliest token before the mutation (where one was found), of the model, and after the strategy."""
    if row.top_ids is None or row.after_ids is None:
        return None
    before = int(row.top_ids[0, token, int(row.pre_mutation[0, token]), 0]) if row.fired[0, token] else None
    return {
        "before": "" if before is None else _name(row, before),
        "model": _name(row, int(row.top_ids[0, token, -1, 0])),
        "after": _name(row, int(row.after_ids[0, token, 0])),
    }


def _defined(number: float) -> float | None:
    return number if math.isfinite(number) else None
