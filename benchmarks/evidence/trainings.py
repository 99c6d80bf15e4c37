"""Figures over several trainings of one model: their mean, its interval, and whether two methods differ."""

from collections.abc import Mapping, Sequence

import numpy as np
from statsmodels.stats.multitest import multipletests

from benchmarks.statistics import Interval, Ratio

Figures = Mapping[str, Ratio]


def pooled(
    trainings: Sequence[Figures],
    reference: Sequence[Figures] | None = None,
    *,
    resamples: int = 5000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """The mean over trainings of every figure, and of its difference to the same figure of ``reference``.

    Intervals are percentiles over draws of images and of trainings, both with replacement. All trainings
    answer about the same images in the same order, and one draw of them serves all, methods too: differences
    are paired by image and by training.

    Returns: (figure -> interval, figure -> interval of the difference); the latter empty without a reference.

    Raises: ValueError when the trainings are not over the same number of images.
    """
    names = [*trainings[0]]
    own = [_columns(trainings, name) for name in names]
    shared = [name for name in names if reference and all(name in figures for figures in reference)]
    other = [_columns(reference or (), name) for name in shared]
    images = {numerator.shape[-1] for numerator, _, _ in (*own, *other)}
    if len(images) != 1 or (reference is not None and len(reference) != len(trainings)):
        raise ValueError(
            f"expected the same images and trainings everywhere, got {sorted(images)} images and "
            f"{len(trainings)} trainings against {len(reference or ())}"
        )
    n, random = images.pop(), np.random.default_rng(seed)
    weights = random.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    drawn = random.integers(len(trainings), size=(resamples, len(trainings)))

    def interval(columns: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> Interval:
        """The mean of the first, less that of the second if there is one."""
        whole = [
            _mean(_values(column, np.ones((1, n))), np.arange(len(trainings))[None]) for column in columns
        ]
        draws = [_mean(_values(column, weights), drawn) for column in columns]
        value, spread = (part[0] - sum(part[1:]) for part in (whole, draws))
        low, high = np.percentile(spread, [50 * (1 - level), 50 * (1 + level)])
        return Interval(float(value[0]), float(low), float(high))

    values = {name: interval([column]) for name, column in zip(names, own, strict=True)}
    pairs = {name: (own[names.index(name)], column) for name, column in zip(shared, other, strict=True)}
    return values, {name: interval(pair) for name, pair in pairs.items()}


def exchanged(ours: Sequence[Ratio], theirs: Sequence[Ratio], *, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of the mean difference of a figure, were it all the same whose answer is whose.

    In each draw the two methods' answers are exchanged for a random half of the images, in all trainings
    alike; p is the share of draws that differ by as much as the methods do, themselves counted as one. It is
    1 where a figure is undefined.
    """
    first, second = ({"figure": _stack(side)} for side in (ours, theirs))
    (a, b), (c, d) = first["figure"], second["figure"]
    observed = _gap(a, b, c, d, np.zeros((1, a.shape[-1])))[0]
    if np.isnan(observed):
        return 1.0
    random = np.random.default_rng(seed)
    found = 0
    for _ in range(0, draws, 1000):
        swap = random.integers(2, size=(1000, a.shape[-1])).astype(float)
        found += int((np.abs(_gap(a, b, c, d, swap)) >= abs(observed) - 1e-12).sum())
    return (1 + found) / (1 + 1000 * -(-draws // 1000))


def holm(p: Sequence[float]) -> list[float]:
    """The p corrected for their number, in their order."""
    return [float(one) for one in multipletests(list(p), method="holm")[1]] if p else []


def _columns(trainings: Sequence[Figures], name: str) -> tuple[np.ndarray, np.ndarray, float]:
    return (*_stack([figures[name] for figures in trainings]), trainings[0][name].scale)


def _stack(side: Sequence[Ratio]) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators ``[trainings, images]``."""
    if len({len(column.numerator) for column in side}) != 1:
        raise ValueError("expected the same images in all trainings")
    return np.stack([column.numerator for column in side]), np.stack([column.denominator for column in side])


def _values(column: tuple[np.ndarray, np.ndarray, float], weights: np.ndarray) -> np.ndarray:
    """The figure of each training in each draw, ``[draws, trainings]``; NaN where it divides by 0."""
    numerator, denominator, scale = column
    with np.errstate(invalid="ignore", divide="ignore"):
        return scale * (weights @ numerator.T) / (weights @ denominator.T)


def _mean(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    return np.take_along_axis(np.broadcast_to(values, (len(drawn), values.shape[1])), drawn, axis=1).mean(
        axis=1
    )


def _gap(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, swap: np.ndarray) -> np.ndarray:
    """Mean over trainings of ``a/b - c/d`` after the exchange of the images in ``swap [draws, images]``."""
    with np.errstate(invalid="ignore", divide="ignore"):
        one = (a.sum(1) + swap @ (c - a).T) / (b.sum(1) + swap @ (d - b).T)
        two = (c.sum(1) + swap @ (a - c).T) / (d.sum(1) + swap @ (b - d).T)
    return (one - two).mean(axis=1)
