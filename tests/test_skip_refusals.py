"""What Skip cannot do is refused before a token is made, with the way out; the model stays usable."""

from typing import Any

import pytest
import torch
import transformers
from families import TEXT, Family, build, ours_on
from more_families import chameleon
from test_refusals import Counts
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from benchmarks.conformance import subject
from benchmarks.conformance.types import KINDS
from mutation_decode import Anatomy, Contrast, Detector, MutationLogitsProcessor, Skip, trial

ALWAYS = Detector(threshold=0.0, critical=0, include_last=True)


class KeepsItsOwnWay(DynamicLayer):
    """A cache layer that a model might bring along."""


def strange_cache() -> DynamicCache:
    cache = DynamicCache()
    cache.layer_class_to_replicate = KeepsItsOwnWay
    return cache


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"use_cache": False},
            r"without a KV cache \(use_cache=False\).*pass use_cache=True, or use Contrast",
        ),
        ({"generation_config": GenerationConfig(use_cache=False)}, "without a KV cache"),
        ({"prefill_chunk_size": 4}, "prompts in pieces.*leave prefill_chunk_size out"),
        (
            {"cache_implementation": "offloaded"},
            "an offloaded cache moves a block.s keys away.*leave cache_implementation",
        ),
        (
            {"past_key_values": strange_cache},
            "a cache layer of class KeepsItsOwnWay; it can in DynamicLayer, ",
        ),
    ],
)
def test_law_9_what_skip_cannot_do(one: Family, arguments: dict[str, Any], message: str) -> None:
    strategy = Skip(layers=[3], gated=True)
    made = {name: value() if callable(value) else value for name, value in arguments.items()}
    with MutationLogitsProcessor(one.model, strategy, detector=ALWAYS) as processor:
        want, counts = one.answers(0, 1, logits_processor=[processor]), Counts()
        with pytest.raises(ValueError, match=message):
            one.generate(0, 1, logits_processor=[processor], stopping_criteria=[counts], **made)
        assert counts.tokens == 0
        assert ours_on(one.model) == []
        assert torch.equal(one.answers(0, 1, logits_processor=[processor]), want)


def test_law_9_an_offloaded_cache_of_the_users_own(one: Family) -> None:
    cache, counts = DynamicCache(), Counts()
    cache.offloading = True  # what DynamicCache(offloading=True) sets, which needs an accelerator
    with (
        MutationLogitsProcessor(one.model, Skip(layers=[0], gated=True), detector=ALWAYS) as processor,
        pytest.raises(ValueError, match=r"an offloaded cache.*pass another cache"),
    ):
        one.generate(0, logits_processor=[processor], past_key_values=cache, stopping_criteria=[counts])
    assert counts.tokens == 0


def test_law_9_contrast_can_do_without_a_cache(one: Family) -> None:
    with MutationLogitsProcessor(one.model, Contrast(), detector=one.detector) as processor:
        use: Any = {"logits_processor": [processor]}
        assert torch.equal(one.answers(0, 1, use_cache=False, **use), one.answers(0, 1, **use))


def test_law_9_what_a_set_known_beforehand_can_do(one: Family) -> None:
    """At every token, it needs a cache and a prompt in one piece; left out everywhere, it does not."""
    with MutationLogitsProcessor(one.model, Skip(layers=[3])) as processor:
        use: Any = {"logits_processor": [processor]}
        one.generate(0, 1, past_key_values=strange_cache(), **use)
        for arguments in ({"use_cache": False}, {"prefill_chunk_size": 4}):
            with pytest.raises(ValueError, match=r"without a KV cache|prompts in pieces"):
                one.generate(0, 1, **arguments, **use)
    with MutationLogitsProcessor(one.model, Skip(layers=[3], prompt=True)) as processor:
        use = {"logits_processor": [processor]}
        want = one.answers(0, 1, **use)
        assert torch.equal(one.answers(0, 1, use_cache=False, **use), want)
        assert torch.equal(one.answers(0, 1, past_key_values=strange_cache(), **use), want)


def test_law_9_beside_another_processor_of_ours(one: Family) -> None:
    plain = one.answers(0, 1)
    with (
        MutationLogitsProcessor(one.model, Contrast(), detector=one.detector) as contrast,
        MutationLogitsProcessor(one.model, Skip(layers=[3])) as skip,
    ):
        counts = Counts()
        with pytest.raises(
            ValueError, match="Skip changes the forward that the other MutationLogitsProcessors"
        ):
            one.generate(0, 1, logits_processor=[contrast, skip], stopping_criteria=[counts])
        assert counts.tokens == 0
        assert ours_on(one.model) == []
        for processor in (contrast, skip):
            assert not torch.equal(one.answers(0, 1, logits_processor=[processor]), plain)


def test_law_9_blocks_that_give_something_else_when_they_run_again(one: Family) -> None:
    block = one.model.model.language_model.layers[5]
    plain = block.forward
    block.forward = lambda *args, **kwargs: plain(*args, **kwargs) + torch.rand(())  # as dropout would
    try:
        with pytest.raises(
            ValueError,
            match=r"run a second time at the last position of a prompt.*away from its own.*Use Contrast",
        ):
            MutationLogitsProcessor(one.model, Skip())
    finally:
        del block.forward
    MutationLogitsProcessor(one.model, Skip()).close()


def test_law_9_blocks_that_cannot_run_again(one: Family) -> None:
    block = one.model.model.language_model.layers[5]
    plain, calls = block.forward, {"n": 0}

    def every_other_time(*args: Any, **kwargs: Any) -> Any:
        calls["n"] += 1
        if calls["n"] == 3:  # the lens looks once, the first prompt is the second time
            raise RuntimeError("not twice")
        return plain(*args, **kwargs)

    parts = Anatomy.of(one.model)
    block.forward = every_other_time
    try:
        with pytest.raises(ValueError, match=r"run a second time.*RuntimeError: not twice.*Use Contrast"):
            MutationLogitsProcessor(one.model, Skip(), anatomy=parts)
    finally:
        del block.forward


def test_law_9_blocks_that_hand_on_more_than_states_stay_in_the_prompt() -> None:
    """Chameleon's return a tuple; a second thing in it would be missing for the blocks that follow."""
    model = build(chameleon).model
    MutationLogitsProcessor(model, Skip(layers=[5], prompt=True)).close()
    block = model.model.layers[5]
    plain = block.forward

    def more(*args: Any, **kwargs: Any) -> Any:
        states = plain(*args, **kwargs)[0]
        return states, states

    block.forward = more
    try:
        with pytest.raises(ValueError, match=r"block 5 hands on more than its states.*without prompt=True"):
            MutationLogitsProcessor(model, Skip(layers=[5], prompt=True))
        MutationLogitsProcessor(model, Skip(layers=[4], prompt=True)).close()
    finally:
        del block.forward


def test_law_9_a_cache_of_the_models_own() -> None:
    """MiniMax keeps running states beside the layers of its cache."""
    with pytest.raises(ValueError, match=r"MiniMaxCache is none of transformers' own caches"):
        MutationLogitsProcessor(subject.build("minimax", KINDS["minimax"]).model, Skip())


def test_law_9_what_blocks_make_of_all_positions_for_later_blocks() -> None:
    """It cannot be made anew of the last position alone; what is made for each position can."""
    model = build(chameleon).model
    first, second = model.model.layers[5], model.model.layers[6]
    made: list[Any] = []
    plain = first.forward, second.forward

    def makes(*args: Any, **kwargs: Any) -> Any:
        (states,) = plain[0](*args, **kwargs)
        made[:] = [states.mean()]
        return states, made[0]

    def uses(states: Any, *args: Any, more: Any, **kwargs: Any) -> Any:
        return plain[1](states * (1 + more), *args, **kwargs)

    handles = [
        second.register_forward_pre_hook(
            lambda _b, args, kw: (args, {**kw, "more": made[0]}), with_kwargs=True
        )
    ]
    first.forward, second.forward = makes, uses
    try:
        with pytest.raises(ValueError, match=r"run a second time at the last position of a prompt.*away"):
            MutationLogitsProcessor(model, Skip())
        # Nothing above block 6 is given it.
        MutationLogitsProcessor(model, Skip(layers=[6], gated=True)).close()
    finally:
        handles[0].remove()
        del first.forward, second.forward


def test_law_9_a_model_that_forbids_tokens_is_compared_on_the_others() -> None:
    """Chameleon writes the lowest number there is over its image tokens; that must not hide a difference."""
    model = build(chameleon).model
    block = model.model.layers[5]
    plain = block.forward
    block.forward = lambda *args, **kwargs: (plain(*args, **kwargs)[0] + torch.rand(()),)
    try:
        with pytest.raises(ValueError, match=r"run a second time.*away from its own"):
            MutationLogitsProcessor(model, Skip())
    finally:
        del block.forward
    bias = model.lm_head.register_forward_hook(
        lambda _h, _a, out: out.index_fill(-1, torch.tensor([7]), -torch.inf)
    )
    try:
        MutationLogitsProcessor(model, Skip()).close()
    finally:
        bias.remove()


def test_law_9_what_was_refused_once_is_refused_again(one: Family) -> None:
    """A block begins to give something else after the processor was built: no generate gets through."""
    block = one.model.model.language_model.layers[5]
    plain = block.forward
    with MutationLogitsProcessor(one.model, Skip(layers=[3], gated=True), detector=ALWAYS) as processor:
        block.forward = lambda *args, **kwargs: plain(*args, **kwargs) + torch.rand(())
        try:
            for _ in range(2):
                with pytest.raises(ValueError, match=r"run a second time.*away from its own"):
                    one.generate(0, logits_processor=[processor])
        finally:
            del block.forward
        one.generate(0, logits_processor=[processor])


class TakesMemory(LlamaDecoderLayer):
    """A block that is given more than its states."""

    def forward(self, hidden_states: Any, memory: Any = None, **kwargs: Any) -> Any:
        return super().forward(hidden_states + memory, **kwargs)


class Remembers(transformers.LlamaModel):
    """Hands each block half of what entered the one before it, made anew between the two."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.layers = torch.nn.ModuleList(TakesMemory(config, i) for i in range(config.num_hidden_layers))

    def forward(self, input_ids: Any = None, past_key_values: Any = None, **_: Any) -> Any:
        states, cache = self.embed_tokens(input_ids), past_key_values or DynamicCache()
        places = torch.arange(states.shape[1])[None] + cache.get_seq_length()
        given = {"position_ids": places, "position_embeddings": self.rotary_emb(states, places)}
        memory = torch.zeros_like(states)
        for layer in self.layers:
            entered = states
            states = layer(states, memory=memory, attention_mask=None, past_key_values=cache, **given)
            memory = 0.5 * entered
        return BaseModelOutputWithPast(self.norm(states), cache)


def test_law_9_a_model_that_remembers_states_between_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no block left out the second run is right, so nothing else finds it."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT)).eval()
    model.model = Remembers(model.config).eval()
    with MutationLogitsProcessor(model, Contrast()):
        pass
    with pytest.raises(
        ValueError, match=r"left out of a prompt .*remembers states between its blocks.*Contrast"
    ):
        MutationLogitsProcessor(model, Skip())
    monkeypatch.setattr(trial, "_without_every_other", lambda *_: None)
    MutationLogitsProcessor(model, Skip()).close()
