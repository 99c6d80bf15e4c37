"""Whether methods differ on what is right or wrong: exact McNemar, Holm over methods; spread over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from statsmodels.stats.contingency_tables import mcnemar as exact_mcnemar
from statsmodels.stats.multitest import multipletests

from benchmarks.statistics import Ratio


@dataclass(frozen=True, slots=True)
class McNemar:
    """Where two methods disagree: how often only the one, only the other has it; two-sided exact p.

    ``holm`` is p after Holm's correction over the methods that were compared with the same reference.
    """

    only_this: int
    only_reference: int
    p: float
    holm: float


def mcnemar(
    methods: Mapping[str, Mapping[str, Ratio]], reference: Mapping[str, Ratio]
) -> dict[str, dict[str, McNemar]]:
    """Method -> figure -> test, for every figure that says yes or no of each caption or answer.

    Args:
        methods: method -> its figures, over the same images (or answers) in the same order.
        reference: the figures that each is compared with.
    """
    found: dict[str, dict[str, McNemar]] = {name: {} for name in methods}
    for figure, plain in reference.items():
        compared = {
            name: figures[figure].outcomes
            for name, figures in methods.items()
            if figure in figures and figures[figure].outcomes is not None
        }
        if plain.outcomes is None or not compared:
            continue
        counts = {
            name: _disagreement(own, plain.outcomes) for name, own in compared.items() if own is not None
        }
        p = {
            name: float(exact_mcnemar([[0, one], [other, 0]], exact=True).pvalue) if one + other else 1.0
            for name, (one, other) in counts.items()
        }
        corrected = multipletests(list(p.values()), method="holm")[1]
        for (name, (one, other)), holm in zip(counts.items(), corrected, strict=True):
            found[name][figure] = McNemar(one, other, p[name], float(holm))
    return found


def over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Figure -> (mean, standard deviation of a sample) over runs that differ in their seed alone.

    Raises: ValueError on fewer than two runs.
    """
    if len(runs) < 2:
        raise ValueError(f"expected runs with at least two seeds, got {len(runs)}")
    return {
        name: (
            float(np.mean([run[name] for run in runs])),
            float(np.std([run[name] for run in runs], ddof=1)),
        )
        for name in runs[0]
        if all(name in run for run in runs)
    }


def _disagreement(own: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    if own.shape != other.shape:
        raise ValueError(f"expected outcomes of the same items, got {own.shape} and {other.shape}")
    return int((own & ~other).sum()), int((other & ~own).sum())
