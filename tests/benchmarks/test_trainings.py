"""Figures over trainings, and the exchange test: against scipy's own and cases worked by hand."""

import numpy as np
import pytest
from scipy.stats import permutation_test

from benchmarks.evidence.trainings import exchanged, holm, pooled
from benchmarks.statistics import intervals, ratio


def figures(seed, n=80, rate=0.3):
    random = np.random.default_rng(seed)
    said = random.integers(1, 7, n)
    return {
        "CHAIR_i": ratio(random.binomial(said, rate), said),
        "length": ratio(said * 7, np.ones(n), scale=1),
    }


def test_one_training_has_the_figures_and_nearly_the_intervals_of_the_bootstrap_over_images():
    one, other = figures(1), figures(2)
    own, differences = pooled([one], [other])
    expected, gaps = intervals(one, other)
    for name in one:
        assert own[name].value == pytest.approx(expected[name].value)
        assert differences[name].value == pytest.approx(gaps[name].value)
        for end in ("low", "high"):
            width = expected[name].high - expected[name].low
            assert getattr(own[name], end) == pytest.approx(getattr(expected[name], end), abs=0.08 * width)
            assert getattr(differences[name], end) == pytest.approx(
                getattr(gaps[name], end), abs=0.15 * width
            )


def test_the_mean_over_trainings_is_of_their_figures_and_differing_trainings_widen_the_interval():
    same = [figures(1), figures(1), figures(1)]
    apart = [figures(1, rate=rate) for rate in (0.1, 0.3, 0.5)]
    alike, spread = pooled(same)[0]["CHAIR_i"], pooled(apart)[0]["CHAIR_i"]
    assert spread.value == pytest.approx(np.mean([each["CHAIR_i"].value for each in apart]))
    assert alike.value == pytest.approx(same[0]["CHAIR_i"].value)
    assert spread.high - spread.low > 2 * (alike.high - alike.low)


def test_differences_are_paired_by_image_and_by_training():
    """A method that is better by one word of each image differs by exactly that, however images are drawn."""
    base = [{"words": ratio(np.arange(20.0) * k, np.ones(20), scale=1)} for k in (1, 5)]
    more = [{"words": ratio(np.arange(20.0) * k + 1, np.ones(20), scale=1)} for k in (1, 5)]
    difference = pooled(more, base)[1]["words"]
    assert (difference.value, difference.low, difference.high) == pytest.approx((1, 1, 1))


def test_other_images_or_trainings_are_refused():
    with pytest.raises(ValueError, match="expected the same images"):
        pooled([figures(1)], [figures(2, n=79)])
    with pytest.raises(ValueError, match="1 trainings against 2"):
        pooled([figures(1)], [figures(2), figures(3)])
    with pytest.raises(ValueError, match="same images in all trainings"):
        exchanged([figures(1)["CHAIR_i"], figures(1, n=9)["CHAIR_i"]], [figures(1)["CHAIR_i"]] * 2)


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.2])
def test_the_exchange_test_is_scipys_permutation_test_of_pairs(gap):
    one, other = figures(3, rate=0.3)["CHAIR_i"], figures(4, rate=0.3 + gap)["CHAIR_i"]

    def statistic(index_one, index_other, axis=-1):
        pick = lambda column, index: np.take(np.concatenate(column), index.astype(int)).sum(axis)  # noqa: E731
        numerators, denominators = (one.numerator, other.numerator), (one.denominator, other.denominator)
        return pick(numerators, index_one) / pick(denominators, index_one) - pick(
            numerators, index_other
        ) / pick(denominators, index_other)

    n = len(one.numerator)
    theirs = permutation_test(
        (np.arange(n), n + np.arange(n)),
        statistic,
        permutation_type="samples",
        n_resamples=9999,
        rng=np.random.default_rng(1),
    )
    assert exchanged([one], [other]) == pytest.approx(theirs.pvalue, abs=0.015)


def test_the_exchange_test_by_hand():
    """Two images, one hallucinated mention against none in both: of the 4 exchanges 2 are as far apart."""
    ours, theirs = ratio([0, 0], [1, 1]), ratio([1, 1], [1, 1])
    assert exchanged([ours], [theirs]) == pytest.approx(0.5, abs=0.02)
    assert exchanged([ours], [ours]) == 1.0


def test_an_undefined_figure_differs_from_nothing():
    nothing = ratio([0, 0], [0, 0])
    assert exchanged([nothing], [ratio([1, 1], [1, 1])]) == 1.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
