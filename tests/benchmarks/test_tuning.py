import pytest

from benchmarks.methods import candidates, with_knobs, without_given
from benchmarks.statistics import Interval
from benchmarks.tuning import choose, judge

GREEDY = {
    "CHAIR_i": Interval(20, 17, 23),
    "recall": Interval(80, 78, 82),
    "length": Interval(40, 39, 41),
    "objects": Interval(5, 4.8, 5.2),
}
GOOD = {"CHAIR_i": 15, "recall": 80, "length": 40, "objects": 5, "fired": 30}


def trial(below=50, **changes):
    return judge({"alpha": 1}, {**GOOD, **changes}, GREEDY, below=below)


@pytest.mark.parametrize(
    ("changes", "against"),
    [
        ({}, ()),
        ({"CHAIR_i": 20}, ("CHAIR_i not below greedy's",)),
        ({"recall": 79.9}, ("recall below greedy's",)),
        ({"length": 41.1}, ("length outside greedy's interval",)),
        ({"objects": 4.7}, ("objects outside greedy's interval",)),
        ({"fired": 50}, ("acts on 50 % of the tokens or more",)),
        ({"CHAIR_i": float("nan")}, ("CHAIR_i not below greedy's",)),
    ],
)
def test_a_candidate_must_pay_for_nothing(changes, against):
    assert trial(**changes).against == against


def test_a_method_without_a_gate_may_act_everywhere():
    assert trial(below=None, fired=100).against == ()


def test_the_lowest_chair_i_among_those_that_qualify_is_chosen():
    trials = [trial(CHAIR_i=16), trial(CHAIR_i=12, recall=70), trial(CHAIR_i=14), trial(CHAIR_i=14)]
    chosen = choose(trials)
    assert chosen.knobs is trials[2].knobs
    assert "3 of 4" in chosen.note
    assert chosen.trials == tuple(trials)


def test_where_none_qualifies_the_method_keeps_its_knobs_and_says_why():
    chosen = choose([trial(recall=70), trial(recall=70, CHAIR_i=30)])
    assert chosen.knobs == {}
    assert "none of 2" in chosen.note
    assert "recall below greedy's: 2" in chosen.note


def test_candidates_are_every_combination_and_nested_knobs_are_merged():
    method = {"alpha": 1, "detector": {"threshold": 0.1, "settle": 0.02}}
    method["tune"] = {"alpha": [1, 2], "detector": {"threshold": [0.1, 0.2]}}
    found = candidates(method)
    assert found[0] == {"alpha": 1, "detector": {"threshold": 0.1}}
    assert len(found) == 4
    merged = with_knobs(method, found[3])
    assert (merged["alpha"], merged["detector"]) == (2, {"threshold": 0.2, "settle": 0.02})
    assert method["detector"] == {"threshold": 0.1, "settle": 0.02}


def test_a_knob_that_is_given_is_not_tuned():
    tune = {"alpha": [1, 2], "detector": {"threshold": [0.1, 0.2], "critical": [1]}}
    config = {"method": {"contrast": {"alpha": 3, "tune": tune}, "greedy": {"generate": {}}}}
    given = {"method.contrast.alpha", "method.contrast.detector.threshold", "task"}
    kept = without_given(config, given)["method"]["contrast"]["tune"]
    assert kept == {"detector": {"critical": [1]}}
    assert without_given(config, set()) == config
