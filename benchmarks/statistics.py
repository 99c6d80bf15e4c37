"""Figures as ratios of sums over images, and bootstrap intervals that resample those images.

CHAIR_i divides all hallucinated mentions by all mentions, F1 divides 2 tp by 2 tp + fp + fn: every figure
of this field is a sum over images divided by another one. So a figure is two columns, and its uncertainty
comes from drawing images, never mentions or questions: those of one image are not independent.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap

DRAWN_AT_ONCE = 4_000_000
"""Images drawn in one go, over all resamples of it: 32 MB for each of the two arrays that they fill."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """``scale * sum(numerator) / sum(denominator)``; both ``[images]``; NaN where the denominator is 0.

    ``outcomes`` ``[captions or answers]`` bool, where the figure is the share of those of which something
    holds; None for other figures.
    """

    numerator: np.ndarray
    denominator: np.ndarray
    scale: float = 100.0
    outcomes: np.ndarray | None = None

    @property
    def value(self) -> float:
        return float(_divide(self.numerator.sum(), self.denominator.sum(), self.scale))


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its two-sided interval, all three in the figure's own unit."""

    value: float
    low: float
    high: float


def ratio(
    numerator: Sequence[float],
    denominator: Sequence[float],
    scale: float = 100.0,
    outcomes: Sequence[bool] | None = None,
) -> Ratio:
    """Columns ``[images]`` as a figure; percent unless ``scale`` says otherwise."""
    given = None if outcomes is None else np.asarray(outcomes, bool)
    return Ratio(np.asarray(numerator, float), np.asarray(denominator, float), scale, given)


def intervals(
    figures: Mapping[str, Ratio],
    reference: Mapping[str, Ratio] | None = None,
    *,
    resamples: int = 5000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Percentile bootstrap of every figure, and of every difference to the same figure of ``reference``.

    All columns must stand for the same images in the same order. One draw of images serves every column, of
    the reference too, so that differences are paired by image.

    The ends of an interval are NaN where the figure is undefined in some resample, and over one image.

    Returns: (figure -> interval, figure -> interval of its difference); the latter empty without a reference.

    Raises: ValueError when the columns differ in length or hold no image.
    """
    reference = reference or {}
    shared = [name for name in figures if name in reference]
    columns = [*figures.values(), *(reference[name] for name in shared)]
    lengths = {len(part) for column in columns for part in (column.numerator, column.denominator)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"expected columns over the same images, at least one; got lengths {sorted(lengths)}"
        )
    n = lengths.pop()
    numerators, denominators = (
        np.stack([getattr(column, part) for column in columns]) for part in ("numerator", "denominator")
    )
    scales = np.array([[column.scale] for column in columns])
    position = {name: index for index, name in enumerate(figures)}

    def statistic(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        """Images drawn ``[..., n]`` -> figures, then differences ``[figures, ...]``."""
        weights = _multiplicities(drawn.reshape(-1, n), n)
        values = _divide(numerators @ weights.T, denominators @ weights.T, scales)
        differences = [values[position[name]] - values[len(figures) + k] for k, name in enumerate(shared)]
        rows = np.stack([*values[: len(figures)], *differences])
        return rows.reshape(len(rows), *drawn.shape[:-1])

    whole = statistic(np.arange(n))
    if n == 1:
        undefined = np.full(len(whole), np.nan)
        return _named(figures, shared, whole, undefined, undefined)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # the NaN of an undefined figure says it
        result = bootstrap(
            (np.arange(n),),
            statistic,
            n_resamples=resamples,
            batch=max(1, DRAWN_AT_ONCE // n),
            confidence_level=level,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    low, high = (np.atleast_1d(end) for end in result.confidence_interval)
    return _named(figures, shared, whole, low, high)


def _named(
    figures: Iterable[str], shared: Iterable[str], whole: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    found = iter([Interval(*map(float, triple)) for triple in zip(whole, low, high, strict=True)])
    return {name: next(found) for name in figures}, {name: next(found) for name in shared}


def _multiplicities(drawn: np.ndarray, n: int) -> np.ndarray:
    """How often each image was drawn, ``[resamples, n]``: sums over a resample become one matrix product."""
    resamples = len(drawn)
    flat = (drawn + n * np.arange(resamples)[:, None]).ravel()
    return np.bincount(flat, minlength=resamples * n).reshape(resamples, n).astype(float)


def _divide(numerator: np.ndarray, denominator: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    empty = denominator == 0
    return np.where(empty, np.nan, scale * numerator / np.where(empty, 1, denominator))
