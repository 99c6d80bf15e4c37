import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.spatial.distance import cityblock, euclidean, jensenshannon
from scipy.stats import entropy
from torch import Tensor

import mutation_decode.divergence as divergence
from mutation_decode import adjacent_js, js_divergence
from mutation_decode.divergence import MEASURES, Divergence, adjacent, between

EACH = pytest.mark.parametrize("which", get_args(Divergence))
ORACLES = {
    "js": lambda p, q: jensenshannon(p, q) ** 2,
    "kl": lambda p, q: entropy(q, p),
    "reverse_kl": lambda p, q: entropy(p, q),
    "tv": lambda p, q: cityblock(p, q) / 2,
    "hellinger": lambda p, q: euclidean(np.sqrt(p), np.sqrt(q)) / math.sqrt(2),
}


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


@EACH
def test_adjacent_is_pairwise_whatever_the_chunk(which: Divergence, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = torch.randn(5, 4, 50, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([between(stack[:, i], stack[:, i + 1], which) for i in range(3)], dim=1)
    torch.testing.assert_close(adjacent(stack, which), expected, atol=2e-7, rtol=0)
    monkeypatch.setattr(divergence, "CHUNK_BYTES", 2 * 4 * 4 * 50)
    torch.testing.assert_close(adjacent(stack, which), expected, atol=2e-7, rtol=0)
    assert adjacent(stack[:0], which).shape == (0, 3)


def test_the_public_names_are_those_of_js() -> None:
    stack = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(adjacent_js(stack), adjacent(stack, "js"))
    assert torch.equal(js_divergence(stack[0], stack[1]), between(stack[0], stack[1], "js"))


@EACH
def test_hand_computed_pairs(which: Divergence) -> None:
    # before (1/2, 1/2), after (1/4, 3/4)
    expected = {
        "js": (math.log(4 / 3) / 2 + math.log(4 / 5) / 2 + math.log(2 / 3) / 4 + 3 / 4 * math.log(6 / 5)) / 2,
        "kl": math.log(1 / 2) / 4 + 3 / 4 * math.log(3 / 2),
        "reverse_kl": math.log(2) / 2 + math.log(2 / 3) / 2,
        "tv": 1 / 4,
        "hellinger": math.sqrt(1 - math.sqrt(1 / 8) - math.sqrt(3 / 8)),
    }
    before, after = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert between(before, after, which).item() == pytest.approx(expected[which], abs=1e-6)


@EACH
@given(logits(1), logits(1))
def test_each_is_what_scipy_computes(which: Divergence, p: Tensor, q: Tensor) -> None:
    with np.errstate(invalid="ignore"):  # the root of -1e-17 again
        oracle = ORACLES[which](p[0].double().softmax(-1).numpy(), q[0].double().softmax(-1).numpy())
    # Hellinger is a root, so what fp32 loses shows more near 0.
    close = {"hellinger": 4e-4, "kl": 2e-5, "reverse_kl": 2e-5}.get(which, 1e-6)
    assert between(p, q, which).item() == pytest.approx(np.nan_to_num(oracle), abs=close, rel=1e-5)


@EACH
def test_near_identical_pairs_lose_no_digits_with_any(which: Divergence) -> None:
    p = 3 * torch.randn(32000, generator=torch.Generator().manual_seed(0))
    q = p + 1e-2 * torch.randn(32000, generator=torch.Generator().manual_seed(1))
    oracle = float(ORACLES[which](p.double().softmax(-1).numpy(), q.double().softmax(-1).numpy()))
    assert between(p, q, which).item() == pytest.approx(oracle, rel=2e-3, abs=1e-6 if which == "js" else 0)


def test_kl_agrees_with_torch_distributions_in_both_directions() -> None:
    p, q = (3 * torch.randn(2, 4, 32000, generator=torch.Generator().manual_seed(0))).unbind(0)
    before, after = (torch.distributions.Categorical(logits=x.double()) for x in (p, q))
    kl = torch.distributions.kl_divergence
    torch.testing.assert_close(between(p, q, "kl").double(), kl(after, before), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(between(p, q, "reverse_kl").double(), kl(before, after), atol=1e-5, rtol=1e-5)


@given(logits(), logits(), st.floats(-20, 20, width=32))
def test_they_stand_to_each_other_as_they_must(p: Tensor, q: Tensor, constant: float) -> None:
    d = {which: between(p, q, which) for which in get_args(Divergence)}
    for which, values in d.items():
        assert bool(((values >= 0) & (values <= MEASURES[which].largest + 1e-7)).all())
        shifted = between(p + constant, q, which)
        torch.testing.assert_close(shifted, values, atol=1e-3 if which == "hellinger" else 1e-4, rtol=1e-4)
        assert bool((between(p, p, which) <= 1e-6).all())
    assert torch.equal(d["kl"], between(q, p, "reverse_kl"))
    for symmetric in ("tv", "hellinger"):
        torch.testing.assert_close(between(q, p, symmetric), d[symmetric])
    # Pinsker; Le Cam; Lin.
    assert bool((d["tv"].square() <= torch.minimum(d["kl"], d["reverse_kl"]) / 2 + 1e-4).all())
    assert bool((d["hellinger"].square() <= d["tv"] + 1e-5).all())
    assert bool((d["tv"] <= math.sqrt(2) * d["hellinger"] + 1e-5).all())
    assert bool((d["js"] <= math.log(2) * d["tv"] + 1e-5).all())


def test_where_only_one_of_them_can_be_kl_is_infinite_and_nothing_is_nan() -> None:
    wide = torch.tensor([0.5, 0.25, 0.25, 0.0]).log()
    narrow = torch.tensor([0.5, 0.5, 0.0, 0.0]).log()
    assert between(narrow, wide, "kl").item() == math.inf
    assert between(wide, narrow, "kl").item() == pytest.approx(0.5 * math.log(2), abs=1e-6)
    assert between(wide, narrow, "reverse_kl").item() == math.inf
    assert between(narrow, wide, "tv").item() == pytest.approx(0.25, abs=1e-7)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_peaked_and_forbidden_logits_are_as_far_apart_as_can_be(
    which: Divergence, dtype: torch.dtype
) -> None:
    p = torch.tensor([[1e4, 0.0, -math.inf, -1e4]]).to(dtype)
    q = torch.tensor([[0.0, 1e4, -math.inf, -1e4]]).to(dtype)
    apart = between(p, q, which)
    assert apart.dtype == torch.float32
    assert apart.item() == pytest.approx(min(MEASURES[which].largest, float(p[0, 0])), rel=1e-6)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(2, 5\)"):
        js_divergence(torch.zeros(2, 4), torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"\[rows, readouts, vocab\].*\(3, 1, 4\)"):
        adjacent_js(torch.zeros(3, 1, 4))
