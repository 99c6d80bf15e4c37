"""The released scripts' divergence, against torch's own kl_div used as they use it, and by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks.released import LateGate, Watching, released_js
from mutation_decode import Gate, Mutations, js_divergence
from mutation_decode.readout import Readout


def test_it_is_what_their_call_of_kl_div_gives():
    logits = torch.randn(2, 5, 300, generator=torch.Generator().manual_seed(0)) * 3
    p, q = logits.softmax(-1)
    middle = (p + q) / 2
    for row in range(5):
        theirs = (
            F.kl_div(p[row].log(), middle[row], reduction="none").mean()
            + F.kl_div(q[row].log(), middle[row], reduction="none").mean()
        ) / 2
        assert released_js(p[row].log(), q[row].log()) == pytest.approx(float(theirs), rel=1e-4)


def test_by_hand_over_two_words():
    """p = (3/4, 1/4), q = (1/4, 3/4), M = (1/2, 1/2): both KL(M||.) are ln(2/sqrt(3)), halved by the mean."""
    p, q = torch.tensor([0.75, 0.25]).log(), torch.tensor([0.25, 0.75]).log()
    assert released_js(p, q) == pytest.approx(math.log(2 / math.sqrt(3)) / 2)
    assert released_js(p, p) == pytest.approx(0, abs=1e-7)


def test_it_is_thousands_of_times_smaller_than_the_true_one_on_a_real_vocabulary():
    logits = torch.randn(2, 32_000, generator=torch.Generator().manual_seed(0)) * 8
    p, q = logits.log_softmax(-1)
    true, theirs = float(js_divergence(logits[0], logits[1])), float(released_js(p, q))
    assert true > 0.5
    assert theirs < true / 1000


def test_it_watches_every_block_and_changes_nothing():
    watching = Watching()
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    scores = torch.randn(3, 7)
    assert watching(Readout(logits, tuple(range(5)), 4), None, scores) is scores
    (step,) = watching.steps
    assert step.shape == (3, 4)
    told = logits.log_softmax(-1)
    assert torch.allclose(step[:, 2], released_js(told[:, 2], told[:, 3]))
    assert list(watching.readouts(4)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("released", "measure"), [(False, js_divergence), (True, released_js)])
def test_the_gate_opens_where_a_late_divergence_is_above_its_bound(released, measure):
    logits = 3 * torch.randn(40, 9, 7, generator=torch.Generator().manual_seed(1))
    told = logits.log_softmax(-1)
    late = torch.stack([measure(told[:, j], told[:, j + 1]) for j in (6, 7)]).amax(dim=0)
    bound = float(late.median())
    readout, nothing = Readout(logits, tuple(range(9)), 8), Mutations.none(torch.zeros(40, 8))
    found = LateGate(released=released, above=bound)(readout, nothing)
    assert torch.equal(found, late > bound)
    assert 0 < int(found.sum()) < 40
    doubtful = Gate(max_prob=0.8)(readout, nothing)
    both = LateGate(released=released, above=bound, max_prob=0.8)(readout, nothing)
    assert torch.equal(both, found & doubtful)
    assert 0 < int(both.sum()) < int(found.sum()), "the knobs of every gate hold here too"
