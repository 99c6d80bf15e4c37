"""Models inside peft's wrappers: adapters on, off, exchanged and merged, and prefixes that were learned."""

import copy
import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from families import Family, ours_on
from oracles import ALWAYS, bare, hooked_out
from torch import Tensor, nn

from mutation_decode import Anatomy, Contrast, MutationDecoder, MutationLogitsProcessor, Skip

peft = pytest.importorskip("peft")
# peft asks transformers for a name that it has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

CONTRAST = Contrast(alpha=1.5, beta=0.02)
STRATEGIES = pytest.mark.parametrize(
    "strategy", [CONTRAST, Skip(), Skip(layers=[2, 5])], ids=["contrast", "skip", "skip-set"]
)
LATER = pytest.mark.parametrize(
    "change",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    ],
    ids=["adapter-on-head", "head-of-its-own", "norm-of-its-own"],
)


def adapted(model: Any, **knobs: Any) -> Any:
    """The model with an adapter that changes what it says."""
    torch.manual_seed(1)
    settings = {"target_modules": ["q_proj", "v_proj", "down_proj"], **knobs}
    config = peft.LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    wrapped = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "modules_to_save" in name:
                weight.mul_(1 + 0.2 * torch.randn_like(weight))
    return wrapped


def merged(wrapped: Any) -> Any:
    return copy.deepcopy(wrapped).merge_and_unload()


def said(family: Family, model: Any, **use: Any) -> Tensor:
    """What a model answers to the family's prompts."""
    return replace(family, model=model).generate(0, 1, 2, **use)


def treated(family: Family, model: Any, strategy: Any, **use: Any) -> Tensor:
    """The same, with a processor of its own."""
    with MutationLogitsProcessor(model, strategy, detector=family.detector) as processor:
        return said(family, model, logits_processor=[processor], **use)


@pytest.fixture(params=["one", "other"], ids=["llava", "llama"])
def fresh(request: pytest.FixtureRequest) -> Family:
    """A model with pictures and one without, in turn, for this test alone."""
    return bare(request.getfixturevalue(request.param))


@STRATEGIES
def test_an_adapted_model_answers_as_the_merged_one(fresh: Family, strategy: Any) -> None:
    base = fresh.model
    without = treated(fresh, base, strategy)
    wrapped = adapted(base)
    want, plain = treated(fresh, merged(wrapped), strategy), said(fresh, wrapped)
    assert not torch.equal(want, plain), "the method did nothing, so nothing was tested"
    assert not torch.equal(want, without), "the adapter did nothing, so nothing was tested"
    for built_for in (wrapped, base):
        with MutationLogitsProcessor(built_for, strategy, detector=fresh.detector) as processor:
            for model in (wrapped, base):
                assert torch.equal(said(fresh, model, logits_processor=[processor]), want)
                assert torch.equal(said(fresh, model), plain)
            with wrapped.disable_adapter():
                assert torch.equal(said(fresh, wrapped, logits_processor=[processor]), without)
        assert ours_on(wrapped) == []
        assert not any("generate" in model.__dict__ for model in (wrapped, base))
    with MutationDecoder(wrapped, strategy, detector=fresh.detector) as decoder:
        assert torch.equal(decoder.generate(**fresh.batch(0, 1, 2), max_new_tokens=10), want)
        # The blocks stay where they are, so what was built before goes on.
        one = wrapped.merge_and_unload()
        assert one is base
        assert torch.equal(said(fresh, one, logits_processor=[decoder.processor]), want)


@STRATEGIES
def test_another_adapter_can_be_chosen_at_any_time(fresh: Family, strategy: Any) -> None:
    wrapped = adapted(fresh.model)
    torch.manual_seed(2)
    wrapped.add_adapter("second", wrapped.peft_config["default"])
    with MutationLogitsProcessor(wrapped, strategy, detector=fresh.detector) as processor:
        answers = {}
        for name in ("second", "default", "second"):
            wrapped.set_adapter(name)
            answers[name] = said(fresh, wrapped, logits_processor=[processor])
            assert torch.equal(answers[name], treated(fresh, merged(wrapped), strategy))
    assert not torch.equal(answers["second"], answers["default"])


@LATER
@STRATEGIES
def test_an_adapted_head_or_norm_is_read_with_its_adapter(other: Family, change: Any, strategy: Any) -> None:
    family = bare(other)
    wrapped = adapted(family.model, **change)
    want = treated(family, merged(wrapped), strategy)
    assert not torch.equal(want, treated(family, merged(adapted(bare(other).model)), strategy))
    assert torch.equal(treated(family, wrapped, strategy), want)


@LATER
def test_law_9_parts_that_were_exchanged_since(other: Family, change: Any) -> None:
    family = bare(other)
    name = (
        r"LlamaForCausalLM: (lm_head|model\.norm) is another module than when this was built.*build it anew"
    )
    with MutationLogitsProcessor(family.model, detector=family.detector) as before:
        wrapped = adapted(family.model, **change)
        with pytest.raises(RuntimeError, match=name):
            said(family, wrapped, logits_processor=[before])
    with MutationLogitsProcessor(wrapped, detector=family.detector) as between:
        said(family, wrapped, logits_processor=[between])
        after = wrapped.merge_and_unload()
        with pytest.raises(RuntimeError, match=name):
            said(family, after, logits_processor=[between])
        assert ours_on(after) == []
    treated(family, after, CONTRAST)


def test_arguments_by_position_and_beams(other: Family) -> None:
    family = bare(other)
    wrapped = adapted(family.model)
    inputs = family.batch(0)["input_ids"]
    want = treated(family, wrapped, CONTRAST, num_beams=3)
    with MutationDecoder(wrapped, CONTRAST, detector=family.detector, trace=True) as decoder:
        alone = decoder.generate(inputs, max_new_tokens=10)
        for call in (wrapped.generate, family.model.generate):
            out = call(inputs, max_new_tokens=10, logits_processor=[decoder.processor])
            assert torch.equal(out, alone)
        beams = decoder.generate(**family.batch(0, 1, 2), max_new_tokens=10, num_beams=3)
        assert torch.equal(beams, want)
        assert decoder.trace is not None
        assert torch.equal(decoder.trace.tokens, want[:, -10:])
        right_padded = {"attention_mask": torch.tensor([[1] * 5 + [0] * 2])}
        with pytest.raises(ValueError, match="ends in padding"):
            wrapped.generate(inputs, **right_padded, logits_processor=[decoder.processor])


def test_copies_are_free_and_a_wrapper_that_is_gone_leaves_nothing(other: Family) -> None:
    family = bare(other)
    wrapped = adapted(family.model)
    processor = MutationLogitsProcessor(wrapped, CONTRAST, detector=family.detector)
    copied = copy.deepcopy(wrapped)
    assert torch.equal(said(family, copied), said(family, wrapped))
    with pytest.raises(RuntimeError, match="built for another model"):
        said(family, copied, logits_processor=[processor])
    assert "generate" in family.model.__dict__
    del wrapped, processor
    gc.collect()
    assert {"generate", "generate_batch"} & set(family.model.__dict__) == set()


def prefix(model: Any) -> Any:
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    return peft.get_peft_model(model, config)


def prompt(model: Any) -> Any:
    return peft.get_peft_model(model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
@pytest.mark.parametrize("learned", [prefix, prompt])
def test_learned_prefixes(other: Family, learned: Callable[[Any], Any]) -> None:
    family = bare(other)
    torch.manual_seed(3)
    wrapped = learned(family.model).eval()
    for weight in wrapped.prompt_encoder.parameters():
        nn.init.normal_(weight, std=3.0)
    plain = said(family, wrapped)
    assert not torch.equal(plain[:, -10:], said(family, family.model)[:, -10:])
    blocks = Anatomy.of(wrapped).blocks
    with hooked_out((blocks[2], blocks[5])):
        want = said(family, wrapped)
    assert not torch.equal(want, plain)
    for strategy in (Skip(layers=[2, 5]), Skip(layers=[2, 5], gated=True)):
        always = replace(family, detector=ALWAYS)
        assert torch.equal(treated(always, wrapped, strategy), want)
    assert not torch.equal(treated(family, wrapped, CONTRAST), plain)
    assert torch.equal(treated(family, wrapped, Contrast(alpha=0)), plain)
