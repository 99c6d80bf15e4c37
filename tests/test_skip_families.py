"""Blocks left out inside generate, over many model families, against one forward from scratch."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from families import FAMILIES, Family, gemma2, gpt2, llava
from more_families import (
    MORE_FAMILIES,
    anatomy,
    chameleon,
    falcon_h1,
    florence2,
    instructblip,
    mild,
    mllama,
    qwen3_next,
    qwen3_vl,
    rwkv,
    zaya,
)
from torch import Tensor

from benchmarks.conformance.reference import Reference, cache_error, leave_out, reference
from benchmarks.conformance.subject import build
from benchmarks.conformance.types import KINDS
from mutation_decode import Anatomy, MutationLogitsProcessor, rerun, rollback, trial

ALL = (*FAMILIES, *MORE_FAMILIES)
ROWS, TOKENS = (0, 1, 2), 10
FULL = {"return_dict_in_generate": True, "output_logits": True}
# The models' own noise, between a prefill and steps with a cache, is 0.3e-6 to 4e-6 (lfm2) on logits up to 5.
NOISE = 1e-5
# The lowest block that can be left out at the first token. A recurrent state that ran over a prompt cannot be
# taken back by its last position, so no such block can run again there. Where the positions of a prompt read
# later ones, leaving a block out at the last one changes all of them from the next but one on.
LOWEST = {"qwen3_next": 6, "bamba": 7, "falcon_h1": 7, "lfm2": 7, "paligemma": 6, "zaya": 7}
# Its states are in no cache, so a second run moves them on.
REFUSED = (rwkv,)


class AtRandom:
    """Leaves random blocks out of random rows and tokens."""

    always = True

    def __init__(self, share: float, seed: int) -> None:
        self.share, self.random = share, torch.Generator().manual_seed(seed)

    def readouts(self, depth: int) -> tuple[int, ...]:
        return ()

    def skips(self, readout: Any, mutations: Any) -> Tensor:
        return at_random(readout.logits.shape[0], 1, readout.depth, self.share, self.random)[:, 0]


def at_random(rows: int, tokens: int, depth: int, share: float, random: torch.Generator) -> Tensor:
    """`[rows, tokens, depth]` a share of the blocks at three quarters of the tokens, and never all blocks."""
    skips = torch.rand(rows, tokens, depth, generator=random) < share
    skips &= torch.rand(rows, tokens, 1, generator=random) < 0.75
    skips[..., 0] &= ~skips.all(dim=-1)
    return skips


def over(makes: Iterable[Callable[[], Family]]) -> pytest.MarkDecorator:
    """A test for each of these families."""
    return pytest.mark.parametrize("family", makes, ids=lambda make: make.__name__, indirect=True)


@pytest.fixture(scope="module")
def family(request: pytest.FixtureRequest) -> Family:
    """A model family, mildly weighted."""
    return mild(request.param)


def run(family: Family, rows: Sequence[int] = ROWS, **kwargs: Any) -> tuple[Any, Tensor, Tensor]:
    """What generate returned while blocks were left out at random, its answers, and what was left out."""
    strategy: Any = AtRandom(share=0.3, seed=5)
    with MutationLogitsProcessor(
        family.model, strategy, detector=None, trace=True, anatomy=anatomy(family)
    ) as processor:
        out = family.generate(*rows, logits_processor=[processor], **FULL, **kwargs)
    assert processor.trace is not None
    answers, skipped = processor.trace.tokens, processor.trace.skipped
    assert torch.equal(answers, out.sequences[:, -TOKENS:])
    assert skipped.shape == (len(rows), TOKENS, anatomy(family).depth)
    assert skipped.dtype == torch.bool
    assert skipped[:, 1:].any(dim=(0, 1)).all(), "every block is left out somewhere"
    assert not skipped.any(dim=-1).all(), "there are tokens that have all blocks"
    if family.name in LOWEST:
        assert not skipped[:, 0, : LOWEST[family.name]].any(), "the first token is left alone"
    else:
        assert skipped[:, 0].any()
    return out, answers, skipped


def check(
    family: Family, logits: Tensor, answers: Tensor, skipped: Tensor, rows: Sequence[int] = ROWS
) -> Reference:
    """Compares the logits of generate with the reference, and the reference with nothing left out."""
    want = reference(family, anatomy(family), rows, answers, skipped)
    torch.testing.assert_close(logits, want.logits, atol=NOISE, rtol=0)
    plain = reference(family, anatomy(family), rows, answers, torch.zeros_like(skipped))
    changed = (want.logits - plain.logits).abs().amax(dim=-1)
    assert changed[skipped.any(dim=-1)].min() > 1e-2, "leaving blocks out does nothing, so it was not tested"
    return want


def best(family: Family, logits: Tensor) -> Tensor:
    """The tokens that greedy decoding takes."""
    suppressed = torch.tensor(family.model.generation_config.suppress_tokens)
    return logits.index_fill(-1, suppressed, -torch.inf).argmax(dim=-1)


@over(ALL)
@pytest.mark.parametrize("cache", [None, "static"], ids=["dynamic", "static"])
def test_blocks_left_out_are_the_identity_and_the_cache_is_as_if_they_had_been(
    family: Family, cache: str | None
) -> None:
    out, answers, skipped = run(family, cache_implementation=cache)
    want = check(family, torch.stack(out.logits, dim=1), answers, skipped)
    assert torch.equal(best(family, want.logits), answers)
    assert cache_error(out.past_key_values, want) <= NOISE


@over([llava, gemma2, gpt2, qwen3_vl, mllama, instructblip, qwen3_next, falcon_h1, florence2, chameleon])
def test_beams_keep_what_was_left_out_of_the_beam_that_they_came_from(family: Family) -> None:
    out, answers, skipped = run(family, num_beams=3)
    logits = torch.stack([step[out.beam_indices[:, t]] for t, step in enumerate(out.logits)], dim=1)
    check(family, logits, answers, skipped)
    assert (out.beam_indices != torch.tensor(ROWS)[:, None] * 3).any(), "no beam ever changed its place"


@over([mllama])
def test_a_prompt_with_as_many_positions_as_its_picture_has_keys(family: Family) -> None:
    rows = (2, 1)
    out, answers, skipped = run(family, rows)
    layers = out.past_key_values.layers
    assert layers[2].keys.shape[2] == family.batch(*rows)["input_ids"].shape[1]
    want = check(family, torch.stack(out.logits, dim=1), answers, skipped, rows)
    assert cache_error(out.past_key_values, want) <= NOISE


@over(REFUSED)
def test_what_cannot_be_left_out_exactly_is_refused_and_the_model_is_as_before(family: Family) -> None:
    before = family.generate(*ROWS, **FULL)
    with pytest.raises(ValueError, match="Skip cannot leave any out"):
        run(family)
    after = family.generate(*ROWS, **FULL)
    assert all(torch.equal(x, y) for x, y in zip(before.logits, after.logits, strict=True))


# The reference itself, without the library.


class Steps:
    """Counts the forwards of a model, to know which token is being predicted."""

    def __init__(self, owner: Any) -> None:
        self.now, self._owner = -1, owner

    def __enter__(self) -> "Steps":
        self._handle = self._owner.register_forward_pre_hook(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _count(self, *_: Any) -> None:
        self.now += 1


@over(ALL)
@pytest.mark.parametrize("share", [0.0, 0.3], ids=["nothing", "some"])
def test_the_reference_is_generate_with_the_same_blocks_hooked_out_step_by_step(
    family: Family, share: float
) -> None:
    parts = anatomy(family)
    planned = at_random(len(ROWS), TOKENS, parts.depth, share, torch.Generator().manual_seed(3))
    with Steps(parts.owner) as steps, leave_out(parts, lambda block: planned[:, steps.now, None, block]):
        out = family.generate(*ROWS, **FULL)
    answers = out.sequences[:, -TOKENS:]
    want = reference(family, anatomy(family), ROWS, answers, planned)
    torch.testing.assert_close(torch.stack(out.logits, dim=1), want.logits, atol=NOISE, rtol=0)
    assert torch.equal(best(family, want.logits), answers)
    assert cache_error(out.past_key_values, want) <= NOISE


# That the equality tests can fail.

NEEDS = {
    "DynamicLayer": (llava, {}),
    "DynamicSlidingWindowLayer": (gemma2, {}),
    "StaticLayer": (llava, {"cache_implementation": "static"}),
    "StaticSlidingWindowLayer": (gemma2, {"cache_implementation": "static"}),
    "LinearAttentionLayer": (qwen3_next, {}),
    "LinearAttentionAndFullAttentionLayer": (falcon_h1, {}),
    "LinearAttentionAndStaticFullAttentionLayer": (falcon_h1, {"cache_implementation": "static"}),
}
"""A family and arguments of generate that use a cache layer of this class."""


@pytest.mark.parametrize("layer", NEEDS)
def test_without_the_way_back_of_a_cache_layer_the_equality_is_lost(
    layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, arguments = NEEDS[layer]
    family = mild(make)
    out, answers, skipped = run(family, **arguments)
    assert layer in {type(each).__name__ for each in out.past_key_values.layers}
    check(family, torch.stack(out.logits, dim=1), answers, skipped)
    for part in range(len(rollback.WAYS_BACK[layer])):
        ways = list(rollback.WAYS_BACK[layer])
        ways[part] = lambda *_: lambda: None
        with monkeypatch.context() as patch:
            patch.setitem(rollback.WAYS_BACK, layer, tuple(ways))
            # The library compares before it leaves anything out; that is taken out as well.
            patch.setattr(rerun.Rerun, "_compare", lambda *_: None)
            patch.setattr(trial, "_without_every_other", lambda *_: None)
            try:
                out, answers, skipped = run(family, **arguments)
            except (RuntimeError, IndexError):
                continue  # masks and keys of different lengths, or a cache that overflows
        with pytest.raises(AssertionError, match="Tensor-likes are not close"):
            check(family, torch.stack(out.logits, dim=1), answers, skipped)


def test_what_blocks_hand_on_beside_their_states_is_handed_on_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    family = mild(zaya)
    out, answers, skipped = run(family)
    check(family, torch.stack(out.logits, dim=1), answers, skipped)
    monkeypatch.setattr(rerun, "_beside_the_states", lambda *_: [])
    with pytest.raises(ValueError, match="left out of a token by running those above them again"):
        run(family)
    monkeypatch.setattr(trial, "_without_every_other", lambda *_: None)
    out, answers, skipped = run(family)
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        check(family, torch.stack(out.logits, dim=1), answers, skipped)


@pytest.mark.parametrize("layer", NEEDS)
def test_without_the_way_back_of_a_cache_layer_the_library_refuses(
    layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, arguments = NEEDS[layer]
    monkeypatch.setitem(rollback.WAYS_BACK, layer, (lambda *_: lambda: None,))
    with pytest.raises(ValueError, match="run a second time"):
        run(mild(make), **arguments)


def test_every_known_way_back_is_tested() -> None:
    """Those without a model here are made of parts that are, or have nothing to take back."""
    untested = {name: ways for name, ways in rollback.WAYS_BACK.items() if name not in NEEDS}
    parts = {way for name in NEEDS for way in rollback.WAYS_BACK[name]}
    assert all(set(ways) <= parts for ways in untested.values())
    assert set(untested) == {
        *("DynamicIndexedLayer", "StaticIndexedLayer", "DummyLayer"),
        *("MiniMaxM3VLSparseCacheLayer", "MiniMaxM3VLSparseStaticCacheLayer"),
        "UnlimitedOcrDynamicReferenceSlidingWindowLayer",
        *(
            "LinearAttentionAndSlidingWindowAttentionLayer",
            "LinearAttentionAndStaticSlidingWindowAttentionLayer",
        ),
    }


def test_five_thousand_tokens_agree_with_the_reference_token_for_token() -> None:
    """Long answers of several families, with random blocks left out of random rows all the way."""
    tokens = 0
    for make, rows, length in (
        (llava, ROWS, 230),
        (gemma2, ROWS, 230),
        (qwen3_next, ROWS, 230),
        (gpt2, ROWS, 240),
    ):
        family = mild(make)
        for seed in range(2):
            strategy: Any = AtRandom(share=0.3, seed=seed)
            with MutationLogitsProcessor(family.model, strategy, detector=None, trace=True) as processor:
                out = family.generate(*rows, logits_processor=[processor], **FULL, max_new_tokens=length)
            trace = processor.trace
            assert trace is not None
            want = reference(family, anatomy(family), rows, trace.tokens, trace.skipped)
            assert torch.equal(best(family, want.logits), trace.tokens)
            assert cache_error(out.past_key_values, want) <= 1e-4
            tokens += trace.tokens.numel()
    assert tokens >= 5000


def test_what_passed_with_one_kind_of_cache_is_tried_again_with_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family, strategy = mild(llava), AtRandom(share=0.3, seed=5)
    monkeypatch.setitem(rollback.WAYS_BACK, "StaticLayer", (lambda *_: lambda: None,))
    with MutationLogitsProcessor(family.model, strategy, detector=None) as processor:  # type: ignore[arg-type]
        family.generate(*ROWS, logits_processor=[processor])
        with pytest.raises(ValueError, match="run a second time"):
            family.generate(*ROWS, logits_processor=[processor], cache_implementation="static")


def test_a_block_takes_back_what_the_attentions_inside_of_it_wrote() -> None:
    """LongCat's blocks have a number too, which is no layer of the cache; their attentions have theirs."""
    longcat = build("longcat_flash", KINDS["longcat_flash"])
    parts = Anatomy.of(longcat.model)
    strategy: Any = AtRandom(share=0.3, seed=5)
    with MutationLogitsProcessor(longcat.model, strategy, detector=None, trace=True) as processor:
        out = longcat.generate(*ROWS, logits_processor=[processor], cache_implementation="static")
    assert processor.trace is not None
    want = reference(longcat, parts, ROWS, processor.trace.tokens, processor.trace.skipped)
    torch.testing.assert_close(torch.stack(out.logits, dim=1), want.logits, atol=NOISE, rtol=0)
