"""Sets of blocks that are known beforehand, at every token and of the prompt too, against one forward."""

from typing import Any

import pytest
import torch
from families import FAMILIES, Family, gemma2, llava
from more_families import MORE_FAMILIES, anatomy, idefics, mild, pix2struct, zaya
from test_skip_families import NOISE, best, over
from transformers import DynamicCache

from benchmarks.conformance.reference import cache_error, reference
from benchmarks.conformance.subject import build
from benchmarks.conformance.types import KINDS
from mutation_decode import Anatomy, Detector, MutationLogitsProcessor, Skip

ROWS = (0, 1, 2)
FULL = {"return_dict_in_generate": True, "output_logits": True}
REFUSED = (idefics, pix2struct, zaya)
RUN = [make for make in (*FAMILIES, *MORE_FAMILIES) if make not in REFUSED]


@pytest.fixture(scope="module")
def family(request: pytest.FixtureRequest) -> Family:
    """A model family, mildly weighted."""
    return mild(request.param)


def check(family: Family, layers: tuple[int, ...], **arguments: Any) -> None:
    """Generates without these blocks and compares with a model in which they are the identity everywhere."""
    with MutationLogitsProcessor(
        family.model, Skip(layers=layers, prompt=True), detector=None, trace=True
    ) as processor:
        out = family.generate(*ROWS, logits_processor=[processor], **FULL, **arguments)
    trace = processor.trace
    assert trace is not None
    assert trace.skipped.any(dim=(0, 1)).nonzero().flatten().tolist() == list(layers)
    read = family.batch(*ROWS, suffix=trace.tokens[:, :-1])
    length = read.get("decoder_input_ids", read.get("input_ids")).shape[1]
    everywhere = torch.zeros(len(ROWS), length, trace.js.shape[-1], dtype=torch.bool)
    everywhere[:, :, list(layers)] = True
    want = reference(family, anatomy(family), ROWS, trace.tokens, everywhere).logits
    answer_only = reference(
        family, anatomy(family), ROWS, trace.tokens, everywhere[:, -trace.tokens.shape[1] :]
    ).logits
    plain = reference(family, anatomy(family), ROWS, trace.tokens, everywhere & False).logits
    if "decoder_input_ids" not in read:
        assert (answer_only - want).abs().max() > 1e-3, "the prompt makes no difference, so it was not tested"
    assert (plain - want).abs().amax(dim=-1).min() > 1e-2
    logits = torch.stack(out.logits, dim=1)
    if "num_beams" in arguments:
        logits = torch.stack([step[out.beam_indices[:, t]] for t, step in enumerate(out.logits)], dim=1)
    else:
        assert torch.equal(best(family, want), trace.tokens)
    torch.testing.assert_close(logits, want, atol=NOISE, rtol=0)


@over(RUN)
@pytest.mark.parametrize("cache", [None, "static"], ids=["dynamic", "static"])
def test_blocks_that_do_not_run_are_the_identity_at_every_position(family: Family, cache: str | None) -> None:
    check(family, (1, 3, 6), cache_implementation=cache)


@over(RUN)
def test_the_first_block_tells_a_cache_how_long_it_is_and_can_be_left_out(family: Family) -> None:
    check(family, (0, 4, 7))


@over([llava, gemma2])
def test_with_beams(family: Family) -> None:
    check(family, (0, 3), num_beams=3)


@over((*FAMILIES, *MORE_FAMILIES))
def test_a_set_left_out_at_every_token_is_the_identity_there(family: Family) -> None:
    parts = anatomy(family)
    with MutationLogitsProcessor(
        family.model, Skip(layers=[0, 3, 7]), trace=True, anatomy=parts
    ) as processor:
        out = family.generate(*ROWS, logits_processor=[processor], **FULL)
    trace = processor.trace
    assert trace is not None
    assert trace.skipped.any(-1).all(), "the first token too"
    want = reference(family, anatomy(family), ROWS, trace.tokens, trace.skipped)
    torch.testing.assert_close(torch.stack(out.logits, dim=1), want.logits, atol=NOISE, rtol=0)
    assert cache_error(out.past_key_values, want) <= NOISE
    assert not torch.equal(family.answers(*ROWS), trace.tokens)


@over(REFUSED)
def test_what_cannot_be_left_out_of_the_prompt_is_refused(family: Family) -> None:
    with pytest.raises(ValueError, match=r"hands on more than its states, or does not run on text alone"):
        MutationLogitsProcessor(family.model, Skip(layers=[3], prompt=True), anatomy=anatomy(family))


def test_a_model_goes_from_its_trace_to_a_shorter_one() -> None:
    """The way of the README: find the stable phase on some answers, and leave it out."""
    family = mild(llava)
    with MutationLogitsProcessor(family.model, Skip(layers=[2], prompt=True), trace=True) as processor:
        family.generate(*ROWS, logits_processor=[processor])
        assert processor.trace is not None
        js = processor.trace.js[processor.trace.generated]
    assert js[:, 2].max() < 1e-6, "a block that does not run changes nothing"
    layers = Detector(critical=2, threshold=float(js[:, 3].min()) / 2).stable(js)
    assert layers == (2,)
    with MutationLogitsProcessor(family.model, Skip(layers=layers, prompt=True)) as processor:
        family.generate(*ROWS, logits_processor=[processor])


@pytest.mark.parametrize("name", ["gemma3n_text", "inkling2"])
def test_a_set_is_left_out_where_more_than_one_state_passes_between_blocks(name: str) -> None:
    subject = build(name, KINDS[name])
    parts = Anatomy.of(subject.model)
    with MutationLogitsProcessor(subject.model, Skip(layers=[1, 4]), anatomy=parts) as processor:
        out = subject.generate(*ROWS, logits_processor=[processor])
    answers = out.sequences[:, -6:]
    skipped = torch.zeros(*answers.shape, parts.depth, dtype=torch.bool)
    skipped[:, :, [1, 4]] = True
    want = reference(subject, parts, ROWS, answers, skipped).logits
    torch.testing.assert_close(torch.stack(out.logits, dim=1), want, atol=2e-5, rtol=0)
    assert (reference(subject, parts, ROWS, answers, skipped & False).logits - want).abs().max() > 1e-2


def test_blocks_whose_keys_later_ones_share_are_not_left_out_of_the_prompt() -> None:
    model = build("gemma3n_text", KINDS["gemma3n_text"]).model
    with pytest.raises(ValueError, match=r"does not run without blocks 2, 5, .* choose others"):
        MutationLogitsProcessor(model, Skip(layers=[2, 5], prompt=True))


def test_law_9_a_cache_that_was_begun_without_it() -> None:
    family = mild(llava)
    cache = DynamicCache()
    begun = family.generate(0, past_key_values=cache)
    more = {"input_ids": torch.cat([begun, begun[:, -1:]], dim=1), "max_new_tokens": 2, "do_sample": False}
    with (
        MutationLogitsProcessor(family.model, Skip(layers=[3], prompt=True)) as processor,
        pytest.raises(ValueError, match=r"begun without this Skip.*begin a new one with it"),
    ):
        family.model.generate(**more, past_key_values=cache, logits_processor=[processor])
