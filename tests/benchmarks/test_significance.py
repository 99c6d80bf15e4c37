import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.significance import mcnemar, over_seeds
from benchmarks.statistics import ratio


def share(outcomes):
    return {"CHAIR_s": ratio(list(map(float, outcomes)), [1] * len(outcomes), outcomes=outcomes)}


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_the_p_of_mcnemar_is_that_of_a_fair_coin_over_the_disagreements(pairs):
    own, other = zip(*pairs, strict=True)
    found = mcnemar({"skip": share(own)}, share(other))["skip"]["CHAIR_s"]
    only, against = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    assert (found.only_this, found.only_reference) == (only, against)
    expected = stats.binomtest(only, only + against).pvalue if only + against else 1.0
    assert found.p == pytest.approx(expected)
    assert found.holm == found.p, "one method needs no correction"


def test_holm_multiplies_the_smallest_p_by_the_number_of_methods():
    reference = share([True] * 20)
    methods = {
        "strong": share([False] * 15 + [True] * 5),
        "weak": share([False] * 6 + [True] * 14),
        "none": share([True] * 20),
    }
    found = {name: tests["CHAIR_s"] for name, tests in mcnemar(methods, reference).items()}
    strong, weak = 2 * 0.5**15, 2 * 0.5**6
    assert found["strong"].p == pytest.approx(strong)
    assert found["strong"].holm == pytest.approx(3 * strong)
    assert found["weak"].holm == pytest.approx(2 * weak)
    assert found["none"].holm == 1


def test_figures_that_are_no_shares_are_not_tested():
    plain = {"CHAIR_i": ratio([1, 2], [3, 4]), **share([True, False])}
    assert set(mcnemar({"skip": plain}, plain)["skip"]) == {"CHAIR_s"}
    assert mcnemar({"skip": {"recall": ratio([1], [2])}}, plain) == {"skip": {}}


def test_outcomes_of_other_items_are_refused():
    with pytest.raises(ValueError, match=r"the same items, got \(2,\) and \(3,\)"):
        mcnemar({"skip": share([True, False])}, share([True, False, True]))


def test_the_spread_over_seeds():
    found = over_seeds([{"CHAIR_i": 10.0, "x": 1.0}, {"CHAIR_i": 12.0}, {"CHAIR_i": 17.0}])
    assert found == {"CHAIR_i": (13.0, pytest.approx(math.sqrt(13)))}
    assert found["CHAIR_i"][1] == pytest.approx(np.std([10, 12, 17], ddof=1))
    with pytest.raises(ValueError, match="at least two seeds, got 1"):
        over_seeds([{"CHAIR_i": 10.0}])
