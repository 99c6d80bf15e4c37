import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.tasks import chair

TRUTH = {"a": {"dog", "frisbee", "person"}, "b": {"cat"}}
nouns = st.lists(st.sampled_from(["dog", "frisbee", "person", "cat", "car"]), max_size=6)


def values(mentions):
    return {name: figure.value for name, figure in chair.score(mentions, TRUTH).figures().items()}


def test_hand_counted_captions():
    found = values({"a": ["dog", "car", "dog", "car", "frisbee"], "b": ["cat"]})
    assert found["CHAIR_s"] == 50
    assert found["CHAIR_i"] == pytest.approx(100 * 2 / 6)
    assert found["recall"] == pytest.approx(100 * 3 / 4)
    assert found["objects"] == 3


def test_a_caption_that_mentions_nothing_counts_in_chair_s_and_recall_only():
    found = values({"a": [], "b": ["dog"]})
    assert (found["CHAIR_s"], found["CHAIR_i"], found["recall"]) == (50, 100, 0)


@given(first=nouns, second=nouns)
def test_an_added_hallucination_never_lowers_chair_i_and_order_changes_nothing(first, second):
    before = values({"a": first, "b": second})
    worse = values({"a": [*first, "car"], "b": second})
    assert not worse["CHAIR_i"] < before["CHAIR_i"]
    assert worse["recall"] == before["recall"]
    assert values({"b": second, "a": first}) == pytest.approx(before, nan_ok=True)


@pytest.mark.parametrize(
    ("mentions", "message"),
    [({}, "at least one caption"), ({"z": ["dog"]}, r"1 image ids, the first of them \['z'\]")],
)
def test_what_cannot_be_scored_is_refused(mentions, message):
    with pytest.raises(ValueError, match=message):
        chair.score(mentions, TRUTH)


def test_the_counting_holds_on_500_real_ground_truths(data: Path):
    """Captions made of the truth plus one absent object each, so that every figure is known."""
    truth = json.loads((data / "chair" / "ground_truth_500.json").read_text())
    mentions = {key: [*objects, "unicorn"] for key, objects in truth.items()}
    figures = chair.score(mentions, {key: set(objects) for key, objects in truth.items()}).figures()
    assert figures["recall"].denominator.sum() == 1524
    assert (figures["recall"].value, figures["CHAIR_s"].value) == (100, 100)
    assert figures["CHAIR_i"].value == pytest.approx(100 * 500 / (1524 + 500))
