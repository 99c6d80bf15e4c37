"""Parts that are found, parts that are passed by hand, and what is said of those that are neither."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from families import TEXT, Family, gemma2
from more_families import idefics, mild
from test_skip_families import AtRandom
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast

from benchmarks.conformance.conform import of_kind
from benchmarks.conformance.reference import leave_out, reference
from benchmarks.conformance.subject import build
from benchmarks.conformance.types import KINDS
from mutation_decode import Anatomy, LogitLens, MutationLogitsProcessor

PROMPTS = [[1, 5, 6, 7, 8, 9, 10], [1, 40, 41], [1, 70, 71, 72, 73]]


class Squashed(transformers.LlamaForCausalLM):
    """Does something between its last norm and its head that is no module."""

    def forward(self, input_ids: Any = None, **kwargs: Any) -> Any:
        kwargs.pop("logits_to_keep", None)
        body = self.model(input_ids, **kwargs)
        logits = self.lm_head(torch.tanh(body.last_hidden_state))
        return CausalLMOutputWithPast(logits=logits, past_key_values=body.past_key_values)


@pytest.fixture(scope="module")
def squashed() -> Family:
    return mild(
        lambda: Family("squashed", Squashed(transformers.LlamaConfig(**TEXT)), PROMPTS),
    )


def by_hand(model: Any, *tail: Any) -> Anatomy:
    return Anatomy(blocks=tuple(model.model.layers), tail=tail, head=model.lm_head, owner=model)


def test_a_refusal_names_what_was_found_by_how_much_it_misses_and_the_way_out(squashed: Family) -> None:
    with pytest.raises(ValueError, match=r"^Squashed: its last block, finished, misses .* by 0\.\d+") as told:
        MutationLogitsProcessor(squashed.model)
    assert "Found: blocks=model.layers (8), tail=(model.norm), head=lm_head." in str(told.value)
    assert "anatomy=Anatomy(blocks=the decoder blocks in order, tail=what runs between" in str(told.value)


def test_what_it_says_helps_parts_passed_by_hand_are_verified_and_read(squashed: Family) -> None:
    model = squashed.model
    with pytest.raises(ValueError, match="differs from the model's own logits by"):
        LogitLens(model, anatomy=by_hand(model, model.model.norm))
    parts = by_hand(model, model.model.norm, torch.tanh)
    with torch.no_grad(), LogitLens(model, anatomy=parts) as lens:
        model(**squashed.batch(0, 1, 2))
    without = torch.arange(8)[None, None].expand(3, 1, -1) >= 5
    with torch.no_grad(), leave_out(parts, lambda block: without[:, :, block]):
        want = model(**squashed.batch(0, 1, 2)).logits[:, -1]
    torch.testing.assert_close(lens.take().logits[:, 5], want, atol=1e-5, rtol=0)


def test_blocks_are_left_out_of_a_model_whose_parts_were_passed_by_hand(squashed: Family) -> None:
    parts = by_hand(squashed.model, squashed.model.model.norm, torch.tanh)
    strategy: Any = AtRandom(share=0.3, seed=5)
    with MutationLogitsProcessor(
        squashed.model, strategy, detector=None, trace=True, anatomy=parts
    ) as processor:
        out = squashed.generate(
            0, 1, 2, logits_processor=[processor], output_logits=True, return_dict_in_generate=True
        )
    assert processor.trace is not None
    want = reference(squashed, parts, (0, 1, 2), processor.trace.tokens, processor.trace.skipped)
    torch.testing.assert_close(torch.stack(out.logits, dim=1), want.logits, atol=1e-5, rtol=0)


def test_a_model_that_needs_a_picture_says_so_and_is_found_with_one() -> None:
    family = mild(idefics)
    with pytest.raises(ValueError, match="Exactly 1 of pixel_values") as told:
        MutationLogitsProcessor(family.model)
    assert "the inputs of one of your generate calls: anatomy=Anatomy.of(model, inputs)" in str(told.value)
    with MutationLogitsProcessor(
        family.model, anatomy=Anatomy.of(family.model, family.batch(0))
    ) as processor:
        family.generate(0, 1, logits_processor=[processor])


@pytest.mark.parametrize("name", ["udop", "pp_formulanet"])
def test_a_model_with_an_encoder_is_found_with_what_generate_takes(name: str) -> None:
    """That has nothing for the decoder, which generate starts; pp_formulanet's embeddings are not known."""
    subject = build(name, KINDS[name])
    with pytest.raises(ValueError, match="give it the inputs of one of your generate calls"):
        Anatomy.of(subject.model)
    inputs = subject.batch(0, 1)
    parts = Anatomy.of(subject.model, inputs)
    assert parts.depth == 8
    with LogitLens(subject.model, anatomy=parts, inputs=inputs) as lens, torch.no_grad():
        subject.generate(0, 1, max_new_tokens=1)
    assert lens.take().logits.shape[:2] == (2, 9)


def test_a_block_with_two_attentions_is_one_block() -> None:
    """The configuration counts two layers each."""
    model = build("longcat_flash", KINDS["longcat_flash"]).model
    assert model.config.num_hidden_layers == 16
    assert Anatomy.of(model).blocks == tuple(model.model.layers)


def test_lists_that_are_too_short_are_named() -> None:
    family = mild(gemma2)
    family.model.config.num_hidden_layers = 9
    with pytest.raises(
        ValueError, match=r"none of its lists of at least 9 modules .*, there is no such list"
    ):
        Anatomy.of(family.model)


@pytest.mark.parametrize("name", ["gemma3n_text", "inkling2"])
def test_more_than_one_state_between_blocks_is_read_and_left_out(name: str) -> None:
    outcome = of_kind(name, KINDS[name])
    assert (outcome.contrast, outcome.skip) == ("pass", "pass")


@pytest.mark.parametrize("name", ["gemma3n_text", "inkling2"])
def test_more_than_one_state_is_refused_where_it_is_taken_for_one(name: str) -> None:
    model = build(name, KINDS[name]).model
    right = Anatomy.of(model)
    one: Any = Anatomy.__dataclass_fields__["states"].default
    assert right.states is not one
    with pytest.raises(ValueError, match=r"cannot be read with its own head|differs from the model's own"):
        LogitLens(model, anatomy=replace(right, states=one))


@pytest.mark.parametrize("name", ["gemma3n_text", "inkling2"])
def test_the_embeddings_of_such_models_are_read_too(name: str) -> None:
    subject = build(name, KINDS[name])
    parts = Anatomy.of(subject.model)
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad(), LogitLens(subject.model, readouts=[0], anatomy=parts) as lens:
        subject.model(input_ids=ids)
    with torch.no_grad(), leave_out(parts, _everywhere):
        want = subject.model(input_ids=ids).logits[:, -1]
    torch.testing.assert_close(lens.take().logits[:, 0], want, atol=1e-5, rtol=0)


def _everywhere(block: int) -> Tensor:
    return torch.ones(1, 1, dtype=torch.bool)


def test_slips_in_parts_that_are_passed_by_hand_are_told(squashed: Family) -> None:
    model = squashed.model
    right = by_hand(model, model.model.norm)
    with pytest.raises(
        TypeError, match=r"tail is a tuple of modules, got LlamaRMSNorm.*tail=\(module,\) of one"
    ):
        replace(right, tail=model.model.norm)
    with pytest.raises(
        TypeError, match=r"blocks is a tuple of modules, got ModuleList.*blocks=tuple\(\.\.\.\)"
    ):
        replace(right, blocks=model.model.layers)
    with pytest.raises(
        ValueError, match=r"owner, LlamaModel, .*Linear is not inside of it.*returns the logits"
    ):
        replace(right, owner=model.model)
    with pytest.raises(ValueError, match="there is no block"):
        replace(right, blocks=())
