import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.spatial.distance import jensenshannon
from torch import Tensor

import mutation_decode.divergence as divergence
from mutation_decode import adjacent_js, js_divergence


def logits(rows: int = 2) -> st.SearchStrategy[Tensor]:
    values = st.floats(-80, 80, width=32)
    return npst.arrays("float32", (rows, 6), elements=values).map(torch.from_numpy)


def test_hand_computed_pair() -> None:
    # p = (1/2, 1/2, 0, 0), q = (0, 1/2, 1/2, 0), m = (1/4, 1/2, 1/4, 0): each KL to m is 1/2 ln 2.
    p = torch.tensor([0.5, 0.5, 0.0, 0.0]).log()
    q = torch.tensor([0.0, 0.5, 0.5, 0.0]).log()
    assert js_divergence(p, q).item() == pytest.approx(0.5 * math.log(2), abs=1e-6)


def test_disjoint_distributions_are_ln_2_apart_and_equal_ones_0() -> None:
    p = torch.tensor([[0.0, -math.inf, -math.inf, -math.inf]])
    q = torch.tensor([[-math.inf, 0.0, -math.inf, -math.inf]])
    assert js_divergence(p, q).item() == pytest.approx(math.log(2), abs=1e-7)
    assert js_divergence(p, p).item() == 0.0


@given(logits(1), logits(1))
def test_is_the_square_of_scipys_distance(p: Tensor, q: Tensor) -> None:
    with np.errstate(invalid="ignore"):  # scipy takes the root of -1e-17 where the two are nearly equal
        oracle = jensenshannon(p[0].double().softmax(-1).numpy(), q[0].double().softmax(-1).numpy()) ** 2
    assert js_divergence(p, q).item() == pytest.approx(np.nan_to_num(oracle), abs=1e-6)


def test_agrees_with_torch_distributions_on_a_real_vocabulary() -> None:
    p, q = torch.randn(2, 4, 32000, generator=torch.Generator().manual_seed(0)).unbind(0)
    a, b = (torch.distributions.Categorical(logits=x.double()) for x in (3 * p, 3 * q))
    middle = torch.distributions.Categorical(probs=(a.probs + b.probs) / 2)
    kl = torch.distributions.kl_divergence
    expected = (kl(a, middle) + kl(b, middle)) / 2
    torch.testing.assert_close(js_divergence(3 * p, 3 * q).double(), expected, atol=1e-6, rtol=0)


@given(logits(), logits(), st.floats(-20, 20, width=32))
def test_symmetric_bounded_finite_and_blind_to_constants(p: Tensor, q: Tensor, constant: float) -> None:
    js = js_divergence(p, q)
    assert bool(((js >= 0) & (js <= math.log(2) + 1e-7)).all())
    torch.testing.assert_close(js, js_divergence(q, p), atol=1e-6, rtol=0)
    torch.testing.assert_close(js, js_divergence(p + constant, q), atol=2e-5, rtol=0)


@given(logits(), logits(), logits())
def test_its_root_obeys_the_triangle_inequality(p: Tensor, q: Tensor, r: Tensor) -> None:
    root = [js_divergence(a, b).double().sqrt() for a, b in ((p, r), (p, q), (q, r))]
    assert bool((root[0] <= root[1] + root[2] + 4e-3).all())


def test_near_identical_pairs_lose_no_digits() -> None:
    p = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    q = p + 1e-3 * torch.randn(1000, generator=torch.Generator().manual_seed(1))
    oracle = jensenshannon(p.double().softmax(-1).numpy(), q.double().softmax(-1).numpy()) ** 2
    assert js_divergence(p, q).item() == pytest.approx(float(oracle), abs=1e-6)


def test_peaked_and_forbidden_logits_give_numbers_in_every_dtype() -> None:
    p = torch.tensor([[1e4, 0.0, -math.inf, -1e4]])
    q = torch.tensor([[0.0, 1e4, -math.inf, -math.inf]])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        js = js_divergence(p.to(dtype), q.to(dtype))
        assert js.dtype == torch.float32
        assert js.item() == pytest.approx(math.log(2), abs=1e-6)


def test_adjacent_is_pairwise_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = torch.randn(5, 4, 50, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([js_divergence(stack[:, i], stack[:, i + 1]) for i in range(3)], dim=1)
    torch.testing.assert_close(adjacent_js(stack), expected, atol=1e-7, rtol=0)
    monkeypatch.setattr(divergence, "CHUNK_BYTES", 2 * 4 * 4 * 50)
    torch.testing.assert_close(adjacent_js(stack), expected, atol=1e-7, rtol=0)
    assert adjacent_js(stack[:0]).shape == (0, 3)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(2, 5\)"):
        js_divergence(torch.zeros(2, 4), torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"\[rows, readouts, vocab\].*\(3, 1, 4\)"):
        adjacent_js(torch.zeros(3, 1, 4))
