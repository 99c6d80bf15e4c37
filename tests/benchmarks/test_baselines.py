import math

import pytest
import torch

from benchmarks.baselines import DoLa
from mutation_decode import Mutations, Readout

NONE = Mutations(*[torch.zeros(2)] * 5)


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
