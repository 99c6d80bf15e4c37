"""DeCo, SLED, Confident Decoding and CALRD: by hand, and against their published formulas in numpy."""

import math

import numpy as np
import pytest
import torch

from benchmarks.baselines import CALRD, SLED, Confident, DeCo
from mutation_decode import Mutations, Readout

NONE = Mutations(*[torch.zeros(2)] * 5)
ROWS, VOCAB, DEPTH = 6, 40, 8


def of_probabilities(*layers):
    """Layers of one row of probabilities; the last one is the model's own."""
    logits = torch.tensor(layers)[None].log()
    return Readout(logits, tuple(range(len(layers))), len(layers) - 1)


def of_logits(*layers):
    return Readout(torch.tensor(layers)[None], tuple(range(len(layers))), len(layers) - 1)


def asked(method, readout):
    """One row's probabilities."""
    return method(readout, NONE, readout.logits_at(readout.depth))[0].exp()


def test_deco_adds_the_logits_of_the_layer_that_is_surest_of_a_candidate():
    unsure, sure, other = (
        [0.1, 0.2, 0.3, 0.2, 0.2],
        [0.05, 0.5, 0.2, 0.2, 0.05],
        [0.01, 0.01, 0.96, 0.01, 0.01],
    )
    readout = of_probabilities(unsure, sure, other, [0.4, 0.3, 0.2, 0.05, 0.05])
    moved = asked(DeCo(alpha=0.6, top_p=0.6, first=0, last=2), readout)
    # By hand: 0.4 < 0.6 <= 0.4 + 0.3, so tokens 0 and 1 are candidates; the second layer gives one of them
    # 0.5, more than any other does (0.96 is no candidate's): 0.3/0.4 * (0.5/0.05)^(0.6 * 0.5) = 1.49645 to 1.
    torch.testing.assert_close(moved, torch.tensor([1, 1.49645, 0, 0, 0]) / 2.49645, atol=1e-5, rtol=0)


def test_deco_takes_as_many_candidates_as_the_published_cut_also_among_equals():
    equal = of_probabilities([0.25] * 4, [0.25] * 4)
    assert (asked(DeCo(top_p=0.5, first=0, last=0), equal) > 0).sum() == 2, "0.25 + 0.25 reach 0.5"
    readout = of_probabilities([0.2] * 5, [0.4, 0.2, 0.2, 0.1, 0.1])
    moved = asked(DeCo(top_k=2, first=0, last=0), readout)
    assert moved[0] == pytest.approx(2 / 3)
    assert sorted(moved[1:].tolist()) == pytest.approx([0, 0, 0, 1 / 3])


def test_deco_asks_no_layer_about_a_forbidden_token():
    readout = of_probabilities([0.03, 0.03, 0.04, 0.9], [0.2, 0.3, 0.4, 0.1], [0.25] * 4)
    scores = torch.tensor([[1.0, 2.0, 4.0, -math.inf]])  # in fp32 what is allowed sums to 0.99999994
    moved = DeCo(alpha=1.0, top_p=1.0, first=0, last=1)(readout, NONE, scores)[0].exp()
    # The second layer is the surest of what is left: 0.4.
    expected = torch.tensor([1.0, 2.0, 4.0]).exp() * torch.tensor([0.2, 0.3, 0.4]) ** 0.4
    torch.testing.assert_close(moved, torch.cat([expected / expected.sum(), torch.zeros(1)]))


def test_deco_of_alpha_0_only_cuts():
    readout = of_probabilities([0.0, 0.5, 0.5], [0.5, 0.3, 0.2])
    moved = asked(DeCo(alpha=0.0, top_p=0.7, first=0, last=0), readout)
    torch.testing.assert_close(moved, torch.tensor([0.625, 0.375, 0]))


def test_sled_steps_towards_what_all_layers_say_together():
    readout = of_logits([0.0, 0, 0, 0], [4.0, 4, 0, 0], [4.0, 0, 0, 0])
    moved = SLED(rate=2.0, scale=4)(readout, NONE, readout.logits_at(2))[0]
    # By hand. First layer: p = 1/4 each, z_n - z_L = (-4, 0, 0, 0); cos with p - e_0 is 3 / (sqrt(0.75) * 4),
    # squared 0.75, below 0 for the others. Second layer: p = (.491, .491, .009, .009), difference
    # (0, 4, 0, 0); squares of cos (.48185, 0, .16464, .16464). Together, normalised: the latent distribution.
    latent = torch.tensor([1.23185, 0, 0.16464, 0.16464]) / 1.56113
    final = torch.tensor([54.598, 1, 1, 1]) / 57.598
    expected = torch.tensor([4.0, 0, 0, 0]) - 2 * (final - latent)
    torch.testing.assert_close(moved, expected.log_softmax(-1), atol=2e-4, rtol=0)


def test_sled_lets_as_many_tokens_take_part_as_scale_says_also_among_equals():
    moved = asked(SLED(scale=2), of_probabilities([0.3, 0.3, 0.3, 0.1], [0.25] * 4))
    assert (moved > 0).sum() == 2
    assert (asked(SLED(scale=10), of_probabilities([0.3, 0.3, 0.3, 0.1], [0.25] * 4)) > 0).all()


def test_sled_of_layers_that_say_nothing_only_flattens():
    readout = of_logits([2.0, 1, 0, 0], [2.0, 1, 0, 0])
    final = torch.tensor([2.0, 1, 0, 0])
    moved = asked(SLED(rate=0.5, scale=4), readout)
    torch.testing.assert_close(moved, (final - 0.5 * final.softmax(-1)).softmax(-1))


VALLEY = ([0.25] * 4, [0.97, 0.01, 0.01, 0.01], [0.25] * 4, [0.1, 0.7, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize(
    ("knobs", "taken"),
    [
        ({"window": 4}, 3),  # the nearest valley, not the surest layer
        ({"window": 4, "shift": -1}, 2),
        ({"window": 4, "shift": 1}, 4),
        ({"window": 4, "shift": -5}, 1),  # not out of the window
        ({"window": 0.5}, 3),
        ({"window": 0.6, "shift": -5}, 2),  # 2.4 readouts are 3
        ({"window": 0.1, "shift": -5}, 3),  # and less than 2 are 2
    ],
)
def test_confident_takes_the_entropy_valley_nearest_to_the_end(knobs, taken):
    torch.testing.assert_close(
        asked(Confident(**knobs), of_probabilities(*VALLEY)), torch.tensor(VALLEY[taken])
    )


def test_confident_stays_at_the_end_when_the_layer_before_is_not_surer():
    layers = [VALLEY[1], VALLEY[3], VALLEY[3]]
    moved = asked(Confident(window=1.0), of_probabilities(VALLEY[0], *layers))
    torch.testing.assert_close(moved, torch.tensor(VALLEY[3]))


LOST = ([0.25] * 4, [0.25] * 4, [0.85, 0.05, 0.05, 0.05], [0.8, 0.1, 0.05, 0.05], [0.2, 0.7, 0.05, 0.05])


def test_calrd_restores_what_was_sure_and_lost():
    moved = asked(CALRD(), of_probabilities(*LOST))
    # By hand: entropy falls most into readout 2; from there on the last block changes most, so t = 3;
    # sure .8, retained .2/.8, so the weight is .8 * .75 = .6, and .2^.4 * .8^.6 = .45948, .7^.4 * .1^.6 =
    # .21779, .05 and .05 in the sum of .77727.
    expected = torch.tensor([0.45948, 0.21779, 0.05, 0.05]) / 0.77727
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)


def test_calrd_of_another_strength_and_with_an_onset_of_one_s_own():
    nothing = asked(CALRD(strength=0.0), of_probabilities(*LOST))
    torch.testing.assert_close(nothing, torch.tensor(LOST[4]))
    ruled_out = asked(CALRD(strength=0.0), of_probabilities(*LOST[:3], [0.9, 0.1, 0.0, 0.0], LOST[4]))
    torch.testing.assert_close(ruled_out, torch.tensor(LOST[4]))
    whole = asked(CALRD(strength=5.0), of_probabilities(*LOST))  # at most 1: the layer itself
    torch.testing.assert_close(whole, torch.tensor(LOST[3]))
    # From readout 1 on the greatest change is that of block 1: sure .97 of token 1, retained .7/.97, so the
    # weight is .97 - .7.
    early = asked(CALRD(onset=1), of_probabilities(LOST[0], [0.01, 0.97, 0.01, 0.01], *LOST[2:]))
    mixed = 0.73 * torch.tensor(LOST[4]).log() + 0.27 * torch.tensor([0.01, 0.97, 0.01, 0.01]).log()
    torch.testing.assert_close(early, mixed.softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("last", [LOST[3], [0.97, 0.01, 0.01, 0.01]], ids=["kept", "falls most at the end"])
def test_calrd_leaves_alone_what_was_kept(last):
    settled = [
        LOST[0],
        LOST[0],
        LOST[3] if last is LOST[3] else LOST[0],
        LOST[3] if last is LOST[3] else LOST[0],
    ]
    moved = asked(CALRD(), of_probabilities(*settled, last))
    torch.testing.assert_close(moved, torch.tensor(last))


def soft(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def deco(layers, final, alpha=0.6, k=20, p=0.9):
    order = np.argsort(-final)[:k]
    kept = order[: min(np.searchsorted(np.cumsum(soft(final)[order]), p) + 1, k)]
    table = soft(layers[5:8])[:, kept]  # 20 and 28 of 32 are 5 and 7 of 8
    moved = np.full_like(final, -np.inf)
    moved[kept] = final[kept] + alpha * table.max() * layers[5 + table.argmax() // len(kept)][kept]
    return moved


def sled(layers, final, rate=2.0, k=10):
    kept = np.argsort(-final)[:k]
    each = np.zeros((DEPTH, VOCAB))
    for n, z in enumerate(layers[:DEPTH]):
        for i in kept:
            towards = soft(z) - np.eye(VOCAB)[i]
            cos = towards @ (z - final) / np.linalg.norm(towards) / np.linalg.norm(z - final)
            each[n, i] = max(0, cos) ** 2
    sums = each.sum(1)
    latent = sum(w / sums.sum() * s / w for w, s in zip(sums, each, strict=True) if w > 0)
    moved = np.full_like(final, -np.inf)
    moved[kept] = (final - rate * (soft(final) - latent))[kept]
    return moved


def entropies(layers):
    p = soft(layers)
    return -(p * np.log(p)).sum(-1)


def confident(layers, final, window=3):
    h, at = entropies(layers), DEPTH
    while at - 1 > DEPTH - window and h[at - 1] < h[at]:
        at -= 1
    return layers[at]


def calrd(layers, final):
    h, p = entropies(layers), soft(layers)
    start = max(range(2, DEPTH + 1), key=lambda n: h[n - 1] - h[n])
    if start == DEPTH:
        return final

    def js(n):
        m = (p[n] + p[n + 1]) / 2
        return sum((q * np.log(q / m)).sum() for q in (p[n], p[n + 1])) / 2

    at = max(range(start, DEPTH), key=js)
    sure, best = p[at].max(), p[at].argmax()
    weight = sure * (1 - min(1, p[DEPTH][best] / sure))
    return (1 - weight) * final + weight * layers[at]


@pytest.mark.parametrize("scale", [0.5, 2.0, 4.0])
@pytest.mark.parametrize(
    ("method", "published"),
    [(DeCo(), deco), (SLED(), sled), (Confident(window=3), confident), (CALRD(), calrd)],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_the_published_formula_in_fp64_gives_the_same(method, published, scale):
    for seed in range(20):
        torch.manual_seed(seed)
        # Layers that go on from one another, and a last one that takes much back.
        logits = scale * (
            torch.randn(ROWS, DEPTH + 1, VOCAB).cumsum(dim=1) / 2 + torch.randn(ROWS, DEPTH + 1, 1)
        )
        readout = Readout(logits, tuple(range(DEPTH + 1)), DEPTH)
        moved = method(readout, NONE, readout.logits_at(DEPTH))
        for row, layers in zip(moved, logits.double().numpy(), strict=True):
            expected = torch.from_numpy(published(layers, layers[DEPTH])).log_softmax(-1).float()
            torch.testing.assert_close(row, expected, atol=2e-4, rtol=1e-4)
            assert math.isclose(row.exp().sum(), 1, abs_tol=1e-5)
