"""DoLa and early exit by hand, and what holds for every layer-wise baseline."""

import math
from functools import partial

import pytest
import torch

from benchmarks.baselines import CALRD, SLED, Confident, DeCo, DoLa, EarlyExit
from mutation_decode import Mutations, Readout

NONE = Mutations(*[torch.zeros(2)] * 5)
METHODS = [
    *(EarlyExit(0.75), DoLa(layers="low"), DoLa(layers="high"), DeCo(), DeCo(alpha=0.0, top_p=1.0)),
    *(SLED(), SLED(scale=3), Confident(), Confident(window=1.0, shift=-1), CALRD(), CALRD(onset=0.5)),
]
every = partial(pytest.mark.parametrize, "method", METHODS, ids=repr)
DEPTH, VOCAB, ROWS = 8, 12, 5


def readout(*layers):
    """Layers of rows of probabilities; the last one is the model's own."""
    probabilities = torch.tensor(layers).transpose(0, 1)
    return Readout(probabilities.log(), tuple(range(len(layers))), len(layers) - 1)


def test_candidates_are_the_even_readouts_of_a_half():
    assert DoLa(layers="low").readouts(32) == tuple(range(0, 16, 2))
    assert DoLa(layers="low", first=2).readouts(12) == (2, 4)
    assert DoLa(layers="high").readouts(32) == tuple(range(16, 32, 2))
    assert DoLa(layers="high").readouts(14) == (8, 10, 12)
    assert DoLa(layers=[3, 1]).readouts(4) == (1, 3)


def test_every_row_is_contrasted_with_the_layer_that_differs_most_from_the_final_one():
    far, near, final = [0.1, 0.1, 0.1, 0.7], [0.5, 0.3, 0.1, 0.1], [0.6, 0.3, 0.08, 0.02]
    layers = readout([far, near], [near, far], [final, final])
    scores = torch.tensor([final, final]).log()
    before = scores.clone()
    moved = DoLa(layers=[0, 1], plausibility=0.1)(layers, NONE, scores)
    # By hand: 0.6/0.1 = 6, 0.3/0.1 = 3, 0.08/0.1 = 0.8, normalised; 0.02 is below 0.1 * 0.6. Both rows alike,
    # though their farthest layers differ.
    expected = torch.tensor([6, 3, 0.8]) / 9.8
    for row in moved:
        torch.testing.assert_close(row[:3].exp(), expected)
        assert row[3] == -math.inf
    assert torch.equal(scores, before)


def test_forbidden_tokens_stay_forbidden_and_impossible_ones_make_no_nan():
    layers = readout([[0.5, 0.5, 0.0, 0.0]], [[0.2, 0.7, 0.1, 0.0]])
    scores = torch.tensor([[0.2, 0.7, 0.1, 0.0]]).log()
    scores[0, 1] = -math.inf
    moved = DoLa(layers=[0], plausibility=0.0)(layers, NONE, scores)
    assert moved[0, 1] == -math.inf
    assert not moved.isnan().any()
    assert moved.exp().sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"layers": "middle"}, "low, high or a list"),
        ({"plausibility": 1.5}, "between 0 and 1; got 1.5"),
        ({"always": False}, "acts on every token"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        DoLa(**knobs)


@pytest.mark.parametrize("layers", [[4], [-1], []])
def test_layers_that_a_model_does_not_have_are_refused(layers):
    with pytest.raises(ValueError, match=r"no candidates in 0\.\.3 of a model of 4 blocks"):
        DoLa(layers=layers).readouts(4)


def test_what_other_processors_did_to_the_scores_counts():
    layers = readout([[0.1, 0.1, 0.1, 0.7]], [[0.6, 0.3, 0.08, 0.02]])
    scores = layers.logits[:, 1].clone()
    penalised = scores - torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    method = DoLa(layers=[0], plausibility=0.0)
    plain, moved = (method(layers, NONE, s).log_softmax(-1) for s in (scores, penalised))
    torch.testing.assert_close(moved[0, 0] - moved[0, 1], plain[0, 0] - plain[0, 1] - 2.0)


def test_early_exit_gives_the_earlier_distribution_and_what_others_did_to_the_final_one():
    layers = readout([[0.1, 0.2, 0.3, 0.4]], [[0.7, 0.1, 0.1, 0.1]])
    scores = layers.logits_at(1)
    moved = EarlyExit(0)(layers, NONE, scores)
    torch.testing.assert_close(moved.exp(), torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    scores = scores - torch.tensor([[0.0, 0.0, 0.0, math.log(4)]])
    scores[0, 0] = -math.inf
    moved = EarlyExit(0)(layers, NONE, scores)
    torch.testing.assert_close(moved.exp(), torch.tensor([[0, 2 / 6, 3 / 6, 1 / 6]]))


@pytest.mark.parametrize(
    ("place", "depth", "found"), [(3, 8, 3), (0.75, 32, 24), (0.95, 4, 3), (0.99, 12, 11), (0, 8, 0)]
)
def test_a_fraction_of_the_depth_is_an_earlier_readout(place, depth, found):
    assert EarlyExit(place).readouts(depth) == (found,)


@pytest.mark.parametrize("place", [8, -1, 1.0, -0.5, math.nan])
def test_a_place_outside_of_the_model_is_refused(place):
    with pytest.raises(ValueError, match=r"layer=.* of 8 blocks; choose one in 0\.\.7, or a fraction"):
        EarlyExit(place).readouts(8)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (DeCo(first=6, last=5), "first=6 lies behind last=5 with 8 blocks"),
        (DeCo(last=8), "last=8 is no earlier readout of a model of 8"),
        (SLED(first=9), "first=9 is no earlier readout"),
        (CALRD(onset=1.5), r"onset=1\.5 is no earlier readout"),
        (Confident(window=9), r"window=9 does not fit a model of 8 blocks; choose 2\.\.8"),
        (Confident(window=1), "window=1 does not fit"),
        (Confident(window=0.0), r"window=0\.0 does not fit"),
    ],
)
def test_layers_that_do_not_fit_the_depth_are_refused(method, message):
    with pytest.raises(ValueError, match=message):
        method.readouts(8)


def test_one_block_leaves_nothing_to_compare():
    with pytest.raises(ValueError, match="a model of one block has none"):
        CALRD().readouts(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(DeCo, alpha=-1.0), r"alpha is 0 or more.* got DeCo\(alpha=-1\.0"),
        (partial(DeCo, top_k=0), "top_k 1 or more"),
        (partial(DeCo, top_p=0.0), r"top_p in \(0, 1\]"),
        (partial(SLED, rate=0.0), "rate is above 0"),
        (partial(SLED, scale=0), "scale 1 or more"),
        (partial(CALRD, strength=-0.5), r"strength is 0 or more; got -0\.5"),
    ],
)
def test_knobs_of_the_others_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def drawn(dtype=torch.float32):
    """Random layers, of which token 11 is impossible everywhere, and the scores that go with them."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(ROWS, DEPTH + 1, VOCAB)
    logits[..., 11] = -math.inf
    layers = Readout(logits.to(dtype), tuple(range(DEPTH + 1)), DEPTH)
    return layers, layers.logits_at(DEPTH)


@every()
def test_log_probabilities_come_out_and_forbidden_tokens_stay_forbidden(method):
    layers, scores = drawn()
    scores[:, :2] = -math.inf
    scores[0, 1:] = -math.inf
    scores[0, 0] = 0.0  # a forced token
    moved = method(layers, NONE, scores)
    assert (moved[scores == -math.inf] == -math.inf).all()
    assert not moved.isnan().any()
    torch.testing.assert_close(moved.exp().sum(dim=-1), torch.ones(ROWS))
    assert moved[0, 0] == 0


@every()
@pytest.mark.parametrize(
    "at", [slice(0, DEPTH), slice(DEPTH, None), slice(None)], ids=["early", "end", "all"]
)
def test_a_token_that_others_force_comes_out_where_the_model_rules_it_out(method, at):
    layers, scores = drawn()
    layers.logits[:, at, 3] = -math.inf
    scores = torch.full_like(scores, -math.inf)
    scores[:, 3] = 0.0
    moved = method(layers, NONE, scores)
    assert (moved[:, 3] == 0).all()
    assert (moved[:, torch.arange(VOCAB) != 3] == -math.inf).all()


@every()
def test_a_row_that_allows_nothing_comes_back(method):
    layers, scores = drawn()
    scores[1] = -math.inf
    moved = method(layers, NONE, scores)
    assert torch.equal(moved[1], scores[1])
    assert not moved.isnan().any()


@every()
def test_what_is_handed_in_is_not_changed(method):
    layers, scores = drawn()
    before, logits = scores.clone(), layers.logits.clone()
    method(layers, NONE, scores)
    assert torch.equal(scores, before)
    assert torch.equal(layers.logits, logits)


@every()
def test_rows_are_decoded_as_if_alone(method):
    layers, scores = drawn()
    moved = method(layers, NONE, scores)
    for row in range(ROWS):
        one = Readout(layers.logits[row : row + 1], layers.indices, DEPTH)
        torch.testing.assert_close(moved[row : row + 1], method(one, NONE, scores[row : row + 1]))


@every()
def test_a_constant_on_the_scores_of_a_row_changes_nothing(method):
    layers, scores = drawn()
    moved = method(layers, NONE, scores)
    shifted = method(layers, NONE, scores + torch.linspace(-9, 9, ROWS)[:, None])
    torch.testing.assert_close(shifted.log_softmax(dim=-1), moved.log_softmax(dim=-1), atol=1e-4, rtol=1e-4)


@every()
def test_a_token_that_others_made_hopeless_stays_so(method):
    layers, scores = drawn()
    best = method(layers, NONE, scores).argmax(dim=-1, keepdim=True)
    hopeless = scores.scatter_add(-1, best, torch.full((ROWS, 1), -60.0))
    assert (method(layers, NONE, hopeless).gather(-1, best).exp() < 1e-6).all()


@every()
def test_a_model_in_half_precision_is_read_in_fp32(method):
    layers, scores = drawn(torch.bfloat16)
    assert method(layers, NONE, scores).dtype == torch.float32
