"""How sure a figure is: intervals by drawing images again, never words, as those of one image depend."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
RESAMPLES = 1000


Plain = list[float | None]
"""Numbers as JSON takes them, rounded; None for NaN."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the two ends of its 95 % interval; NaN where there is nothing to measure it on."""

    value: float
    low: float
    high: float

    def plain(self) -> Plain:
        """Value, low, high."""
        return plain([self.value, self.low, self.high])


def plain(values: Iterable[float]) -> Plain:
    """Numbers for a report."""
    return [None if math.isnan(value) else round(float(value), 4) for value in values]


def draws(images: int, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each image is drawn, `[1 + resamples, images]`; the first row is the sample itself."""
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
    return np.concatenate([np.ones((1, images)), drawn])


def ratio(numerator: np.ndarray, denominator: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """A ratio of sums over images, for each draw `[draws]`; NaN where it divides by nothing."""
    above, below = drawn @ numerator.astype(float), drawn @ denominator.astype(float)
    return _divided(above, below)


def auroc(scores: np.ndarray, positive: np.ndarray, image: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """How often a positive word scores above a negative one (equals count half), for each draw `[draws]`.

    Args:
        scores: `[words]`.
        positive: `[words]` bool.
        image: `[words]` the image that each is of.
        drawn: see `draws`.

    Returns:
        In [0, 1], NaN where there is not a word of either kind.
    """
    if not len(scores):
        return np.full(len(drawn), np.nan)
    order = np.argsort(scores, kind="stable")
    weight = drawn[:, image[order]]
    good, bad = weight * positive[order], weight * ~positive[order]
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    good, bad = (np.add.reduceat(part, starts, axis=1) for part in (good, bad))
    below = np.cumsum(bad, axis=1) - bad / 2
    pairs = good.sum(axis=1) * bad.sum(axis=1)
    return _divided((good * below).sum(axis=1), pairs)


def interval(values: np.ndarray) -> Interval:
    """From a figure for each draw, the first of which is the sample's own; draws without one are left out."""
    known = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or not len(known):
        return Interval(float(values[0]), float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values[0]), float(low), float(high))


def _divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return found
