"""Proposals to try on a model, read off what was measured on it: where to look, how hard, which way.

late    where the late blocks tell, go back before them (contrast), or leave them out (skip)
early   push away from the readout at which hallucinated words lead most over correct ones (contrast), or
        leave out the blocks in which they take that lead (skip), where the model is in as much doubt as it
        is at its hallucinated words
none    a few of both, should one of them help all the same
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, product, zip_longest
from typing import Literal, Protocol

import numpy as np

from .detection import Detector
from .gate import Gate
from .strategy import Contrast, Skip
from .tokens import LATE, Tokens, Verdict

Remedy = Literal["contrast", "skip"]
REMEDIES: tuple[Remedy, ...] = ("contrast", "skip")
BUDGET = 12
REACH = 0.6
"""A threshold lies at least at this quantile of all tokens, so that fewer than half of them fire."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A strategy, and the tokens on which it is to act."""

    strategy: Contrast | Skip
    detector: Detector
    gate: Gate | None = None


class Measured(Protocol):
    """What of `Findings` is asked for here."""

    @property
    def depth(self) -> int: ...
    @property
    def tokens(self) -> Tokens: ...
    @property
    def leads(self) -> Mapping[str, np.ndarray]: ...
    @property
    def window(self) -> tuple[int, int]: ...
    @property
    def verdict(self) -> Verdict: ...


def propose(findings: Measured, remedy: str, budget: int = BUDGET) -> list[Proposal]:
    """At most `budget` candidates, the most likely first; the same findings give the same ones.

    Raises:
        ValueError: if there is no such remedy, or the budget is none.
    """
    if remedy not in REMEDIES or budget < 1:
        raise ValueError(
            f"expected {' or '.join(REMEDIES)} and at least one candidate, got {remedy!r} and {budget}."
        )
    ways = {
        ("late", "contrast"): _back,
        ("late", "skip"): _without_late_blocks,
        ("early", "contrast"): _away,
        ("early", "skip"): _without_early_blocks,
    }
    if findings.verdict == "none":
        both = (ways["late", remedy](findings), ways["early", remedy](findings))
        found: Iterable[Proposal | None] = chain.from_iterable(zip_longest(*both))
    else:
        found = ways[findings.verdict, remedy](findings)
    return list(dict.fromkeys(each for each in found if each is not None))[:budget]


def _back(findings: Measured) -> Iterator[Proposal]:
    """To the readout that enters the window that tells, and to its neighbours."""
    here, *beside = _windows(findings)
    sizes = list(product((0.02, 0.1), (1.0, 1.5)))
    for quantile, (beta, alpha) in product((0.9, 0.5), sizes):
        yield Proposal(Contrast(alpha=alpha, beta=beta), _detector(findings, here, quantile))
    for window, (beta, alpha) in product(beside, (sizes[0], sizes[-1])):
        yield Proposal(Contrast(alpha=alpha, beta=beta), _detector(findings, window, 0.9))


def _without_late_blocks(findings: Measured) -> Iterator[Proposal]:
    """Without those that fire, or all of the window."""
    here, *beside = _windows(findings)
    for quantile in (0.9, 0.5, 0.75):
        detector = _detector(findings, here, quantile)
        yield Proposal(Skip(layers=range(*here), gated=True), detector)
        yield Proposal(Skip(), detector)
    for window, quantile in product(beside, (0.9, 0.5)):
        yield Proposal(Skip(layers=range(*window), gated=True), _detector(findings, window, quantile))
        yield Proposal(Skip(), _detector(findings, window, quantile))


def _away(findings: Measured) -> Iterator[Proposal]:
    """From the readout at which hallucinated words are furthest ahead of correct ones, or one like it."""
    ahead = _ahead(findings)
    best = int(ahead.argmax())
    near = np.flatnonzero(ahead >= 0.9 * ahead[best]) if ahead[best] > 0 else np.array([best])
    layers = list(dict.fromkeys([int(near[len(near) // 2]), best]))
    gate, open_ = _doubts(findings)
    for alpha, beta, layer in product((-4.0, -2.0, -1.0), (0.02, 0.1), layers):
        yield Proposal(Contrast(alpha=alpha, beta=beta, layer=layer), _everywhere(findings), gate)
    for alpha, layer in product((-4.0, -2.0), layers):
        yield Proposal(Contrast(alpha=alpha, beta=0.02, layer=layer), _everywhere(findings), open_)


def _without_early_blocks(findings: Measured) -> Iterator[Proposal]:
    """Without the blocks in which hallucinated words take the lead, or the paper's skip.1."""
    doubts = _doubts(findings)
    for blocks, gate in product(_takeovers(findings), doubts):
        yield Proposal(Skip(layers=blocks, gated=True), _everywhere(findings), gate)
    for start, unsure in product((round(LATE * findings.depth), findings.depth // 3), (None, doubts[1])):
        window = (min(start, findings.depth - 1), findings.depth)
        yield Proposal(Skip.stable(), _detector(findings, window, 0.5), unsure)


def _windows(findings: Measured) -> list[tuple[int, int]]:
    """The window that tells best, first one block shorter, then one longer."""
    start, end = findings.window
    around = ((start + 1, end), (start - 1, end))
    return [(start, end), *((first, last) for first, last in around if 0 < first < last)]


def _detector(findings: Measured, window: tuple[int, int], quantile: float) -> Detector:
    """Fires at a window where its largest js is above that of most correct words, on the fewer tokens."""
    start, end = window
    largest, kind = findings.tokens.js[:, start:end].max(axis=1), findings.tokens.kind
    correct = largest[kind == "correct"]
    least = float(np.quantile(largest, REACH))
    threshold = max(least, float(np.quantile(correct, quantile)) if len(correct) else least)
    return Detector(
        threshold=float(np.ceil(min(threshold, 0.69) * 1e4) / 1e4),
        critical=start,
        include_last=end == findings.depth,  # a window ends there, or one block before
    )


def _everywhere(findings: Measured) -> Detector:
    """Fires wherever the last block does anything: a gate chooses then, and one block has to be read."""
    return Detector(threshold=0.0, critical=findings.depth - 1, include_last=True)


def _doubts(findings: Measured) -> tuple[Gate, Gate]:
    """Open where the model is as unsure as at most of its hallucinated words; and a little wider."""
    tokens = findings.tokens
    bad = tokens.max_prob[tokens.kind == "hallucinated"]
    most = float(np.quantile(tokens.max_prob, 1 - REACH))
    narrow = min(float(np.quantile(bad, 0.95)) if len(bad) else most, most)
    wide = min(1 - (1 - narrow) / 4, most)
    return Gate(max_prob=_rounded(narrow)), Gate(max_prob=_rounded(wide))


def _rounded(probability: float) -> float:
    return max(round(probability, 4), 1e-4)


def _ahead(findings: Measured) -> np.ndarray:
    """`[L]`: by how much more often hallucinated words lead at each readout before the last than correct."""
    difference = findings.leads["hallucinated"] - findings.leads["correct"]
    found: np.ndarray = np.nan_to_num(difference[:-1])
    return found


def _takeovers(findings: Measured) -> list[tuple[int, ...]]:
    """Runs of blocks in which hallucinated words win that lead: all of it, more, and less of it."""
    ahead = _ahead(findings)
    most = ahead.max()
    end = int(np.flatnonzero(ahead >= 0.9 * most)[0]) if most > 0 else 0
    if end == 0:  # no lead, or one that the embeddings have and no block wins
        return []
    start = int(max(np.flatnonzero(ahead[:end] <= most / 4), default=0))
    runs = ((start, end), (max(start - 1, 1), end), (max(start, end - 2), end), (end - 1, end))
    named = (tuple(range(first, last)) for first, last in runs)
    return list(dict.fromkeys(blocks for blocks in named if 0 < len(blocks) < findings.depth))
