import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from mutation_decode import Detector

NAN = math.nan


def test_blocks_above_the_threshold_from_the_critical_readout_on() -> None:
    js = torch.tensor(
        [[0.6, 0.6, 0.01, 0.2, 0.01, 0.3, 0.01, 0.6], [0.6, 0.6, 0.01, 0.0, 0.0, 0.0, 0.04, 0.6]]
    )
    found = Detector(threshold=0.05, critical=0.25)(js)
    assert found.critical.tolist() == [2, 2]
    assert found.mutated.nonzero().tolist() == [[0, 3], [0, 5]]
    assert found.fired.tolist() == [True, False]
    assert found.pre_mutation.tolist() == [3, 8]


def test_the_block_at_the_critical_readout_counts_and_the_one_before_does_not() -> None:
    js = torch.tensor([[0.0, 0.3, 0.3, 0.0]])
    assert Detector(critical=2)(js).mutated.nonzero().tolist() == [[0, 2]]
    assert Detector(critical=1)(js).pre_mutation.tolist() == [1]


def test_the_last_block_only_on_request() -> None:
    js = torch.tensor([[0.0, 0.0, 0.0, 0.5]])
    assert not Detector(critical=1)(js).fired.item()
    assert Detector(critical=1, include_last=True)(js).pre_mutation.item() == 3


def test_a_js_equal_to_the_threshold_is_not_above_it() -> None:
    assert not Detector(threshold=0.25, critical=0)(torch.tensor([[0.25, 0.25, 0.25]])).fired.item()
    assert not Detector(threshold=math.log(2), critical=0)(torch.full((1, 3), math.log(2))).fired.item()


def test_largest_keeps_one_block_and_the_lower_of_equals() -> None:
    js = torch.tensor([[0.9, 0.1, 0.2, 0.2, 0.9], [0.9, 0.0, 0.0, 0.0, 0.9]])
    found = Detector(critical=1, largest=True)(js)
    assert found.mutated.nonzero().tolist() == [[0, 2]]
    assert found.fired.tolist() == [True, False]


def test_the_settle_rule_takes_the_first_of_two_calm_blocks_row_by_row() -> None:
    js = torch.tensor([[0.3, 0.01, 0.3, 0.01, 0.01, 0.4, 0.1], [0.3, 0.2, 0.3, 0.01, 0.2, 0.01, 0.1]])
    found = Detector(critical=None, settle=0.02)(js)
    assert found.critical.tolist() == [3, 7]
    assert found.mutated.nonzero().tolist() == [[0, 5]]
    assert found.pre_mutation.tolist() == [5, 7]


def test_the_search_ends_where_it_is_told_to() -> None:
    js = torch.full((1, 12), 0.3)
    assert Detector(critical=3, until=6)(js).mutated.nonzero()[:, 1].tolist() == [3, 4, 5]
    # 0.25 and 0.75 of 12 blocks
    assert Detector(critical=0.25, until=0.75)(js).mutated.nonzero()[:, 1].tolist() == [3, 4, 5, 6, 7, 8]
    assert Detector(critical=3, until=6)(
        torch.tensor([[0.3] * 3 + [0.0] * 3 + [0.3] * 6])
    ).fired.tolist() == [False]
    js[0, 8] = 0.6
    found = Detector(critical=3, until=6, largest=True)(js)
    assert found.mutated.nonzero()[:, 1].tolist() == [3], "the largest of those that are watched"


def test_the_end_of_the_search_does_not_bring_the_last_block_in() -> None:
    assert Detector(critical=3, until=1.0).blocks(12) == range(3, 11)
    assert Detector(critical=3, until=12).blocks(12) == range(3, 11)
    assert Detector(critical=3, until=12, include_last=True).blocks(12) == range(3, 12)
    assert Detector(critical=3, until=5, include_last=True).blocks(12) == range(3, 5)
    assert Detector(critical=None, until=5).blocks(12) == range(5)


def test_a_row_that_settles_after_the_end_of_the_search_does_not_settle() -> None:
    js = torch.tensor([[0.3, 0.3, 0.01, 0.01, 0.3, 0.3], [0.3, 0.3, 0.3, 0.01, 0.01, 0.3]])
    found = Detector(critical=None, until=4)(js)
    assert found.critical.tolist() == [2, 6]


def test_thresholds_of_other_divergences() -> None:
    change = torch.tensor([[0.0, 2.5, math.inf, 0.0]])
    assert Detector(threshold=2.0, critical=0, divergence="kl")(change).pre_mutation.item() == 1
    assert Detector(threshold=3.0, critical=0, divergence="kl")(change).pre_mutation.item() == 2
    assert Detector(critical=0, divergence="kl", largest=True)(change).pre_mutation.item() == 2
    Detector(threshold=1.0, divergence="tv")
    Detector(threshold=1.0, divergence="hellinger", settle=1.0)


def test_nothing_found_but_in_some_rows() -> None:
    found = Detector(critical=1)(torch.tensor([[0.0, 0.3, 0.3, 0.0]] * 3))
    only = found.only(torch.tensor([True, False, True]))
    assert only.fired.tolist() == [True, False, True]
    assert only.mutated.tolist() == [[False, True, True, False], [False] * 4, [False, True, True, False]]
    assert only.pre_mutation.tolist() == [1, 4, 1]
    assert torch.equal(only.js, found.js)
    assert torch.equal(only.critical, found.critical)
    assert found.fired.all(), "what it was made from is as before"


def test_paper_recipe() -> None:
    paper = Detector.paper()
    # 1-based layers 19..31 of 32 are blocks 18..30.
    assert paper.blocks(32) == range(18, 31)
    js = torch.full((1, 32), 1e-6)
    js[0, [3, 25, 31]] = torch.tensor([0.6, 1e-4, 0.6])
    assert paper(js).mutated.nonzero().tolist() == [[0, 25]]


def test_blocks_that_were_not_read_never_count() -> None:
    js = torch.tensor([[NAN, NAN, 0.1, NAN, 0.2, NAN]])
    for detector in (
        Detector(critical=0),
        Detector(critical=0, largest=True),
        Detector(critical=2, largest=True),
    ):
        found = detector(js)
        assert not found.mutated[0, [0, 1, 3, 5]].any()
        assert found.fired.item()
    nothing = Detector(critical=0, largest=True, threshold=0.0)(torch.full((2, 6), NAN))
    assert nothing.fired.tolist() == [False, False]
    assert nothing.pre_mutation.tolist() == [6, 6]


tables = npst.arrays("float32", (4, 9), elements=st.floats(0, 0.6875, width=32)).map(torch.from_numpy)
detectors = st.builds(
    Detector,
    threshold=st.floats(0, 0.69),
    critical=st.none() | st.integers(0, 7) | st.floats(0, 0.8),
    largest=st.booleans(),
    include_last=st.booleans(),
    until=st.none() | st.integers(8, 9) | st.floats(0.875, 1),
)


@given(tables, detectors)
def test_what_it_says_is_consistent_and_each_row_is_on_its_own(js: Tensor, detector: Detector) -> None:
    before = js.clone()
    found = detector(js)
    assert torch.equal(js, before)
    for row in range(4):
        blocks = found.mutated[row].nonzero().flatten().tolist()
        assert bool(found.fired[row]) == bool(blocks)
        assert int(found.pre_mutation[row]) == (blocks[0] if blocks else 9)
        assert all(
            b >= int(found.critical[row]) and float(js[row, b]) > detector.threshold - 1e-7 for b in blocks
        )
        assert set(blocks) <= set(detector.blocks(9))
        alone = detector(js[row : row + 1])
        assert torch.equal(alone.mutated[0], found.mutated[row])
        assert torch.equal(alone.critical[0], found.critical[row])


@given(tables, detectors)
def test_it_needs_no_more_than_the_blocks_it_names(js: Tensor, detector: Detector) -> None:
    hidden = torch.full_like(js, NAN)
    named = list(detector.blocks(9))
    hidden[:, named] = js[:, named]
    found, seen_all = detector(hidden), detector(js)
    assert torch.equal(found.mutated, seen_all.mutated)
    assert torch.equal(found.critical, seen_all.critical)


def test_watched_blocks() -> None:
    assert Detector().blocks(12) == range(7, 11)
    assert Detector(critical=5, include_last=True).blocks(12) == range(5, 12)
    assert Detector(critical=None).blocks(12) == range(11)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"threshold": -0.1}, r"threshold.*ln 2 = 0.693, got -0.1"),
        ({"threshold": 0.7}, r"threshold.*got 0.7"),
        ({"threshold": math.nan}, r"threshold.*got nan"),
        ({"settle": 0.0}, r"settle.*got 0.0"),
        ({"critical": 1.0}, r"fraction of the depth in \[0, 1\), got 1.0; write an int"),
        ({"critical": -1}, r"readout from 0 on, got -1"),
        ({"critical": True}, r"got True"),
        ({"until": 0.0}, r"fraction of the depth in \(0, 1\], got 0.0; write an int"),
        ({"until": 1.5}, r"fraction of the depth in \(0, 1\], got 1.5"),
        ({"until": 0}, r"until, as an int, is the first block not watched, from 1 on, got 0"),
        ({"until": True}, r"until is a fraction, a block or None, got True"),
        ({"divergence": "cosine"}, "divergence is one of js, kl, reverse_kl, tv, hellinger, got 'cosine'"),
        (
            {"divergence": "tv", "threshold": 1.5},
            "threshold is a total variation distance, at least 0 and at most 1, got 1.5",
        ),
        ({"divergence": "hellinger", "settle": 0.0}, "settle is a Hellinger distance, above 0 and at most 1"),
        (
            {"divergence": "kl", "threshold": math.inf},
            "KL divergence in nats, at least 0 and finite, got inf",
        ),
    ],
)
def test_knobs_out_of_range_are_named(knobs: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Detector(**knobs)  # type: ignore[arg-type]


def test_a_critical_readout_beyond_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"critical=11 leaves no block to watch in a model of 12 blocks"):
        Detector(critical=11).blocks(12)


def test_windows_beyond_the_model_or_without_a_block_are_refused() -> None:
    with pytest.raises(ValueError, match=r"until=13: a model of 12 blocks ends at 12"):
        Detector(until=13).blocks(12)
    with pytest.raises(ValueError, match=r"critical=5 with until=0.4 leaves no block to watch"):
        Detector(critical=5, until=0.4).blocks(12)
