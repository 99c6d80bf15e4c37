import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from mutation_decode import Contrast, Detector, Mutations, Readout

INF = math.inf


def step(before: Tensor, final: Tensor) -> tuple[Readout, Mutations]:
    """Two readouts of a model of four blocks; every row mutates at block 2."""
    readout = Readout(torch.stack([before, final], dim=1), (2, 4), 4)
    js = torch.zeros(len(final), 4)
    js[:, 2] = 0.5
    return readout, Detector(critical=1)(js)


def one(before: list[float], final: list[float], scores: list[float], contrast: Contrast) -> list[float]:
    readout, mutations = step(torch.tensor([before]).log(), torch.tensor([final]).log())
    return contrast(readout, mutations, torch.tensor([scores]))[0].tolist()


def test_alpha_1_is_the_distribution_before_the_mutation_on_the_plausible_tokens() -> None:
    before, final = [0.6, 0.3, 0.09, 0.01], [0.2, 0.7, 0.04, 0.06]
    out = one(before, final, torch.tensor(final).log().tolist(), Contrast(alpha=1, beta=0.1))
    # token 2 is plausible before (.09 >= .06), token 3 is not plausible at all (.01 < .06, .06 < .07)
    expected = torch.tensor([0.6, 0.3, 0.09]) / 0.99
    torch.testing.assert_close(torch.tensor(out[:3]).exp(), expected, atol=1e-6, rtol=0)
    assert out[3] == -INF


def test_alpha_2_and_minus_1_by_hand() -> None:
    before, final = [0.5, 0.25, 0.25, 0.0], [0.25, 0.5, 0.25, 0.0]
    scores = torch.tensor(final).log().tolist()
    # p_final * (p_before / p_final)^2 = (1, 1/8, 1/4, 0); with the exponent -1: (1/8, 1, 1/4, 0)
    for alpha, weights in ((2, [1, 0.125, 0.25, 0]), (-1, [0.125, 1, 0.25, 0])):
        out = torch.tensor(one(before, final, scores, Contrast(alpha=alpha, beta=0)))
        torch.testing.assert_close(out.exp(), torch.tensor(weights) / 1.375, atol=1e-6, rtol=0)


def test_a_fixed_layer_is_read_instead_of_the_detectors() -> None:
    logits = torch.tensor([[[0.0, 3, 0, 0], [5.0, 0, 0, 0], [0.0, 0, 4, 0]]])
    readout = Readout(logits, (1, 2, 4), 4)
    mutations = Detector(critical=1)(torch.tensor([[0.0, 0, 0.5, 0]]))
    scores = readout.logits_at(4)
    assert Contrast(alpha=1, beta=0)(readout, mutations, scores).argmax() == 0
    assert Contrast(alpha=1, beta=0, layer=1)(readout, mutations, scores).argmax() == 1


def test_each_row_goes_back_to_its_own_layer() -> None:
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    js = torch.tensor([[0.0, 0.5, 0, 0], [0, 0, 0.5, 0], [0, 0, 0, 0]])
    mutations = Detector(critical=1)(js)
    scores = logits[:, -1].clone()
    out = Contrast(beta=0)(Readout(logits, (1, 2, 3, 4), 4), mutations, scores).log_softmax(-1)
    torch.testing.assert_close(out[0], logits[0, 0].log_softmax(-1))
    torch.testing.assert_close(out[1], logits[1, 1].log_softmax(-1))
    torch.testing.assert_close(out[2], logits[2, 3].log_softmax(-1))
    scattered = Readout(logits[:, [0, 1, 3]], (1, 2, 4), 4)
    torch.testing.assert_close(Contrast(beta=0)(scattered, mutations, scores).log_softmax(-1), out)


logits = npst.arrays("float32", (3, 7), elements=st.floats(-30, 30, width=32)).map(torch.from_numpy)
contrasts = st.builds(Contrast, alpha=st.floats(-3, 3), beta=st.floats(0, 1))
forbidden = npst.arrays("bool", (3, 7)).map(torch.from_numpy)


@given(logits, logits, contrasts, forbidden, st.floats(-50, 50, width=32))
def test_law_7(before: Tensor, final: Tensor, contrast: Contrast, mask: Tensor, constant: float) -> None:
    """Nothing is changed in place, -inf stays, and a constant on a row comes out as that constant."""
    readout, mutations = step(before, final)
    scores = final.masked_fill(mask, -INF)
    kept, layers = scores.clone(), readout.logits.clone()
    out = contrast(readout, mutations, scores)
    assert torch.equal(scores, kept)
    assert torch.equal(readout.logits, layers)
    assert bool((out[mask] == -INF).all())
    assert not out.isnan().any()
    assert not (out == INF).any()
    shifted = contrast(readout, mutations, scores + constant)
    torch.testing.assert_close(shifted, out + constant, atol=5e-4, rtol=1e-5)


@given(logits, logits, contrasts, forbidden)
def test_rows_keep_their_mass_so_beams_get_log_probabilities(
    before: Tensor, final: Tensor, contrast: Contrast, mask: Tensor
) -> None:
    readout, mutations = step(before, final)
    scores = final.masked_fill(mask, -INF).log_softmax(-1)
    assume(not scores.isnan().any())
    out = contrast(readout, mutations, scores)
    torch.testing.assert_close(out.logsumexp(-1), torch.zeros(3), atol=1e-3, rtol=0)


@given(logits, logits, st.floats(0, 1), forbidden)
def test_alpha_0_hands_the_scores_back(before: Tensor, final: Tensor, beta: float, mask: Tensor) -> None:
    readout, mutations = step(before, final)
    scores = final.masked_fill(mask, -INF)
    assert torch.equal(Contrast(alpha=0, beta=beta)(readout, mutations, scores), scores)


def test_a_row_whose_allowed_tokens_are_all_implausible_is_left_alone() -> None:
    scores = [-INF, -INF, -INF, 1.5]
    assert one([0.9, 0.08, 0.01, 0.01], [0.08, 0.9, 0.01, 0.01], scores, Contrast(beta=0.5)) == scores


def test_zero_probabilities_make_no_nan() -> None:
    out = one([0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, -INF, -INF, -INF], Contrast(alpha=2))
    assert out == [0.0, -INF, -INF, -INF]


def test_half_precision_layers_are_compared_in_fp32() -> None:
    generator = torch.Generator().manual_seed(0)
    before, final = (3 * torch.randn(3, 50, generator=generator)).bfloat16(), torch.randn(3, 50).bfloat16()
    readout, mutations = step(before, final)
    out = Contrast(beta=0)(readout, mutations, final.float())
    expected = before.double().log_softmax(-1)
    torch.testing.assert_close(out.double().log_softmax(-1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"alpha": math.inf}, r"alpha must be a finite number, got inf"),
        ({"alpha": math.nan}, r"alpha must be a finite number, got nan"),
        ({"beta": 1.5}, r"beta.*between 0 and 1, got 1.5"),
        ({"beta": -0.1}, r"beta.*got -0.1"),
        ({"layer": -1}, r"layer is a readout from 0 on.*got -1"),
        ({"layer": 0.5}, r"layer is a readout.*got 0.5"),
        ({"always": True}, r"say which one with layer="),
    ],
)
def test_knobs_out_of_range_are_named(knobs: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Contrast(**knobs)  # type: ignore[arg-type]


def test_it_asks_for_its_layer_and_refuses_one_that_is_not_there() -> None:
    assert Contrast().readouts(12) == ()
    assert Contrast(layer=0).readouts(12) == (0,)
    with pytest.raises(
        ValueError, match=r"layer=12 is no earlier readout of a model of 12 blocks; choose.*0..11"
    ):
        Contrast(layer=12).readouts(12)


def test_a_readout_that_was_not_read_is_named() -> None:
    readout, _ = step(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"readout 3 was not read in this forward, only \(2, 4\) were"):
        readout.log_probs(3)
    with pytest.raises(ValueError, match=r"readout 0 was not read"):
        readout.js()
    with pytest.raises(ValueError, match=r"ascending numbers in 0..4 that end with 4, got \(2, 3\)"):
        Readout(torch.zeros(1, 2, 4), (2, 3), 4)
    with pytest.raises(ValueError, match=r"got shape \(1, 4\) for 1 readouts"):
        Readout(torch.zeros(1, 4), (4,), 4)


def test_js_of_some_blocks_is_nan_elsewhere() -> None:
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    js = Readout(logits, (1, 2, 3, 4), 4).js(range(1, 3))
    assert js.isnan().tolist() == [[True, False, False, True]] * 2
    assert torch.equal(Readout(logits, (1, 2, 3, 4), 4).js(range(1, 4))[:, 1:3], js[:, 1:3])
    assert Readout(logits, (0, 1, 2, 4), 4).js(range(0)).isnan().all()
