"""What watched answers with known objects say of a model: where its invented words come from.

late    the late blocks change what is said far more for hallucinated words than for correct ones: going
        back before them may help
early   hallucinated words take the lead before correct ones do, or the late blocks work for the correct
        ones: going back would do harm, pushing away from an early readout may help
none    neither is to be seen, or there are too few words to see it
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .observe import Observation
from .propose import BUDGET, Proposal, propose
from .resampling import RESAMPLES, Interval, auroc, draws, interval, plain
from .tokens import LATE, Tokens, Verdict, begins_of
from .words import KINDS, Answer

MARGIN = 0.05
"""By how much the interval of an AUROC has to clear one half."""
FEWEST = 20
"""Words of either kind, below which nothing is concluded from them: intervals of so few are too narrow."""


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """Measured on the answers to a number of images.

    Attributes:
        depth: L.
        images: how many.
        tokens: every token.
        counts: kind -> tokens.
        js: kind -> `[L]` nats, the mean change that each block makes; NaN without such tokens.
        leads: kind -> `[L+1]`, the share of tokens whose emitted word leads at each readout already.
        shown_leads: the same for any word for an object of the image: what would have been right.
        blocks: for each block, how well its js tells hallucinated from correct object words: AUROC.
        signs: the same for other signs: risk (the largest js over `window`, divided by ln 2, in [0, 1]), late
            js (over the last 14/32 of the blocks), entropy, 1 - p, early lead (how early the word takes the
            lead for good).
        window: the late blocks that tell best, the last block with or without: first, and first not.
        verdict: late, early or none.
        drawn: the draws of images that the intervals come from.
    """

    depth: int
    images: int
    tokens: Tokens
    counts: dict[str, int]
    js: dict[str, np.ndarray]
    leads: dict[str, np.ndarray]
    shown_leads: dict[str, np.ndarray]
    blocks: tuple[Interval, ...]
    signs: dict[str, Interval]
    window: tuple[int, int]
    verdict: Verdict
    drawn: np.ndarray

    def propose(self, remedy: str, budget: int = BUDGET) -> list[Proposal]:
        """At most `budget` proposals of that kind, the most likely first.

        Raises:
            ValueError: if there is no such remedy, or the budget is none.
        """
        return propose(self, remedy, budget)

    def tells(self, scores: np.ndarray) -> Interval:
        """How well a sign tells hallucinated object words from correct ones: AUROC, 95 % interval.

        Args:
            scores: `[N]`, of every token; higher for a hallucinated word.

        Raises:
            ValueError: if there is not one of each token.
        """
        if np.shape(scores) != self.tokens.kind.shape:
            raise ValueError(f"expected scores {self.tokens.kind.shape}, got {np.shape(scores)}.")
        return _tells(self.tokens, scores, self.drawn)

    def risk(self) -> np.ndarray:
        """`[N]` in [0, 1], of every token."""
        risk: np.ndarray = self.tokens.js[:, slice(*self.window)].max(axis=1) / math.log(2)
        return risk

    def to_json(self) -> dict[str, Any]:
        """Everything but the tokens, in plain numbers."""
        return {
            "images": self.images,
            "tokens": dict(self.counts),
            "js": {kind: plain(values) for kind, values in self.js.items()},
            "leads": {kind: plain(values) for kind, values in self.leads.items()},
            "shown_leads": {kind: plain(values) for kind, values in self.shown_leads.items()},
            "auroc": {name: told.plain() for name, told in self.signs.items()},
            "auroc_of_blocks": [told.plain() for told in self.blocks],
            "window": list(self.window),
        }


def find(
    observed: Sequence[Observation],
    answers: Sequence[Answer],
    tokenizer: Any,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Findings:
    """Measures answers, one observation and one reading each; the intervals draw images.

    Args:
        tokenizer: anything with transformers' `encode` and `decode`.

    Raises:
        ValueError: if there is no answer, or not as many of one as of the other.
    """
    if not observed or len(observed) != len(answers):
        raise ValueError(f"expected answers, watched and read, got {len(observed)} and {len(answers)}.")
    tokens = Tokens.of(observed, answers, begins_of(observed, answers, tokenizer))
    drawn, depth = draws(len(observed), resamples=resamples, seed=seed), observed[0].depth
    window = _best_window(tokens, depth)
    signs = {
        "risk": _tells(tokens, tokens.js[:, slice(*window)].max(axis=1), drawn),
        "late js": _tells(tokens, tokens.js[:, min(round(LATE * depth), depth - 1) :].max(axis=1), drawn),
        "entropy": _tells(tokens, tokens.entropy, drawn),
        "1 - p": _tells(tokens, 1 - tokens.max_prob, drawn),
        "early lead": _tells(tokens, -tokens.leads_from.astype(float), drawn),
    }
    of_kind = {kind: tokens.kind == kind for kind in KINDS}
    enough = min(of_kind["hallucinated"].sum(), of_kind["correct"].sum()) >= FEWEST
    return Findings(
        depth=depth,
        images=len(observed),
        tokens=tokens,
        counts={kind: int(rows.sum()) for kind, rows in of_kind.items()},
        js={kind: _mean(tokens.js, rows) for kind, rows in of_kind.items()},
        leads={kind: _mean(tokens.leads, rows) for kind, rows in of_kind.items()},
        shown_leads={kind: _mean(tokens.shown_leads, rows) for kind, rows in of_kind.items()},
        blocks=tuple(_tells(tokens, tokens.js[:, block], drawn) for block in range(depth)),
        signs=signs,
        window=window,
        verdict=_verdict(signs) if enough else "none",
        drawn=drawn,
    )


def _tells(tokens: Tokens, scores: np.ndarray, drawn: np.ndarray) -> Interval:
    """The AUROC of a score among the object words."""
    words = tokens.kind != "other"
    bad = (tokens.kind == "hallucinated")[words]
    return interval(auroc(np.asarray(scores)[words], bad, tokens.image[words], drawn))


def _best_window(tokens: Tokens, depth: int) -> tuple[int, int]:
    """Of the windows that begin in the second half, the one of the best AUROC; the widest of equals."""
    words = tokens.kind != "other"
    js, bad = tokens.js[words], (tokens.kind == "hallucinated")[words]
    one = np.ones((1, 1)), np.zeros(len(js), int)
    windows = [(start, end) for end in (depth, depth - 1) for start in range(depth // 2, end)]
    told = [auroc(js[:, start:end].max(axis=1), bad, one[1], one[0])[0] for start, end in windows]
    return windows[int(np.argmax(np.round(np.nan_to_num(told), 3)))]


def _verdict(signs: dict[str, Interval]) -> Verdict:
    late, early = signs["risk"].low, max(signs["early lead"].low, 1 - signs["late js"].high)
    if late > 0.5 + MARGIN and not early > late:
        return "late"
    return "early" if early > 0.5 + MARGIN else "none"


def _mean(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    mean: np.ndarray = values[rows].mean(axis=0) if rows.any() else np.full(values.shape[1], np.nan)
    return mean
