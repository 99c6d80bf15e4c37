import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.statistics import intervals, ratio


def test_a_figure_divides_sums():
    assert ratio([1, 0, 2], [4, 1, 5]).value == 30
    assert ratio([3, 5], [1, 1], scale=1).value == 4
    assert math.isnan(ratio([0, 0], [0, 0]).value)


def test_the_interval_of_a_ratio_of_sums_agrees_with_scipys_on_the_same_columns():
    rng = np.random.default_rng(1)
    said = rng.integers(1, 7, 200)
    wrong = rng.binomial(said, 0.2)
    ours = intervals({"CHAIR_i": ratio(wrong, said)}, resamples=20_000)[0]["CHAIR_i"]
    scipys = stats.bootstrap(
        (wrong, said),
        lambda w, s, axis: 100 * w.sum(axis) / s.sum(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert ours.value == pytest.approx(100 * wrong.sum() / said.sum())
    assert (ours.low, ours.high) == pytest.approx((scipys.low, scipys.high), abs=0.25)


def test_differences_are_paired_by_image():
    rng = np.random.default_rng(0)
    base = rng.random(100)
    one = np.ones(100)
    reference = {"x": ratio(base, one)}
    shifted = {"x": ratio(base + 0.01, one)}
    value, difference = intervals(shifted, reference)
    assert value["x"].high - value["x"].low > 5, "the images themselves differ widely"
    assert (difference["x"].low, difference["x"].value, difference["x"].high) == pytest.approx((1, 1, 1))


def test_figures_without_a_counterpart_have_no_difference():
    values, differences = intervals(
        {"x": ratio([1, 0], [1, 1]), "y": ratio([1, 1], [1, 1])}, {"x": ratio([0, 0], [1, 1])}
    )
    assert set(values) == {"x", "y"}
    assert set(differences) == {"x"}


def test_the_same_seed_gives_the_same_interval():
    figures = {"x": ratio(np.sqrt(np.arange(50)), np.ones(50))}
    assert intervals(figures, seed=4) == intervals(figures, seed=4)
    assert intervals(figures, seed=4) != intervals(figures, seed=5)


def test_columns_over_different_images_are_refused():
    with pytest.raises(ValueError, match=r"got lengths \[2, 3\]"):
        intervals({"x": ratio([1, 0], [1, 1]), "y": ratio([1, 0, 1], [1, 1, 1])})


def test_an_undefined_figure_is_nan_without_a_warning():
    found = intervals({"precision": ratio([0, 0], [0, 0]), "x": ratio([1, 2], [1, 1])})[0]
    assert math.isnan(found["precision"].value)
    assert math.isnan(found["precision"].low)
    assert found["x"].low <= 150 <= found["x"].high


def test_one_image_has_figures_and_no_intervals():
    values, differences = intervals({"a": ratio([1], [4])}, {"a": ratio([2], [4])})
    assert values["a"].value == 25
    assert differences["a"].value == -25
    assert math.isnan(values["a"].low)
    assert math.isnan(differences["a"].high)
