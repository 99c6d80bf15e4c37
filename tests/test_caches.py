"""Caches of every kind, made by generate or given by the caller, new or with a conversation in them."""

from typing import Any

import pytest
import torch
from families import Family, build, gemma3, llama
from test_refusals import Counts
from torch import Tensor
from transformers import DynamicCache, QuantizedCache, StaticCache

from benchmarks.conformance.reference import cache_error, reference
from mutation_decode import Anatomy, Contrast, Detector, MutationLogitsProcessor, Skip

NEVER = Detector(threshold=0.693)
CONTRAST, SKIP = Contrast(alpha=1.5, beta=0.02), Skip(layers=[2, 5], gated=True)


def processor_of(family: Family, strategy: Any, **knobs: Any) -> MutationLogitsProcessor:
    return MutationLogitsProcessor(
        family.model, strategy, **{"detector": family.detector, "trace": True} | knobs
    )


def two_turns(family: Family, processor: Any, cache: Any, **settings: Any) -> tuple[Tensor, Any, list[Any]]:
    """An answer, the next prompt, and an answer to it, out of one cache; what was recorded at each."""
    use: Any = {"logits_processor": [processor], "do_sample": False, "past_key_values": cache, **settings}
    inputs, traces = family.batch(0, 1), []
    first = family.model.generate(**inputs, max_new_tokens=4, **use)
    traces.append(processor.trace)
    said = torch.tensor([[20, 21, 22], [23, 24, 25]])
    ids = torch.cat([first, said], dim=1)
    grown = ids.shape[1] - inputs["attention_mask"].shape[1]
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, grown, dtype=torch.long)], dim=1)
    second = family.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4, **use)
    traces.append(processor.trace)
    return second[:, inputs["input_ids"].shape[1] :], mask, traces


def caches(family: Family) -> list[Any]:
    config = family.model.config.get_text_config(decoder=True)
    return [DynamicCache(config=config), DynamicCache(), StaticCache(config=config, max_cache_len=40)]


@pytest.mark.parametrize("make", [llama, gemma3], ids=lambda make: make.__name__)
@pytest.mark.parametrize("kind", [0, 1, 2], ids=["dynamic", "forgets nothing", "static"])
def test_a_conversation_goes_on_in_the_same_cache(make: Any, kind: int) -> None:
    """With blocks left out: the logits of a forward from scratch, and its cache, over both turns."""
    family = build(make)
    cache = caches(family)[kind]
    with processor_of(family, SKIP) as processor:
        told, _, (first, second) = two_turns(family, processor, cache)
    nothing = torch.zeros(2, 3, 8, dtype=torch.bool)
    skipped = torch.cat([first.skipped, nothing, second.skipped], dim=1)
    assert first.skipped.any()
    assert second.skipped.any()
    again = reference(family, Anatomy.of(family.model), (0, 1), told, skipped)
    suppressed = family.model.generation_config.suppress_tokens
    best = again.logits.index_fill(2, torch.tensor(suppressed), -torch.inf).argmax(dim=-1)
    assert torch.equal(best[:, :4], told[:, :4])
    assert torch.equal(best[:, 7:], told[:, 7:])
    assert cache_error(cache, again) < 2e-4


def test_contrast_goes_on_in_the_same_cache_as_without_one(other: Family) -> None:
    with processor_of(other, CONTRAST) as processor:
        told, mask, (first, second) = two_turns(other, processor, None, use_cache=False)
        for cache in caches(other):
            found, _, traces = two_turns(other, processor, cache)
            assert torch.equal(found, told)
            for trace, want in zip(traces, (first, second), strict=True):
                torch.testing.assert_close(trace.js, want.js, atol=1e-4, rtol=1e-3)
    assert mask.min() == 0, "rows were padded"


@pytest.mark.parametrize(
    "implementation", ["dynamic", "static", "hybrid", "sliding_window", "hybrid_chunked", "quantized"]
)
def test_every_cache_that_generate_makes(one: Family, implementation: str) -> None:
    settings: Any = {"cache_implementation": implementation}
    if implementation == "quantized":
        settings["cache_config"] = {"backend": "fp8"}  # the one that needs no package
    plain = one.answers(0, 1, **settings)
    with (
        processor_of(one, CONTRAST, detector=NEVER) as processor,
        pytest.warns(UserWarning, match="never acted"),
    ):
        assert torch.equal(one.answers(0, 1, logits_processor=[processor], **settings), plain)
    with processor_of(one, CONTRAST) as processor:
        want = one.answers(0, 1, logits_processor=[processor])
        if implementation != "quantized":
            assert torch.equal(one.answers(0, 1, logits_processor=[processor], **settings), want)
    with processor_of(one, SKIP) as processor:
        want = one.answers(0, 1, logits_processor=[processor])
        if implementation != "quantized":
            assert torch.equal(one.answers(0, 1, logits_processor=[processor], **settings), want)
            return
        cache = QuantizedCache("fp8", one.model.config.get_text_config(decoder=True))
        for refused in (settings, {"past_key_values": cache}):
            counts = Counts()
            with pytest.raises(
                ValueError, match=r"a cache layer of class Fp8QuantizedLayer.*or use Contrast"
            ):
                one.answers(0, 1, logits_processor=[processor], stopping_criteria=[counts], **refused)
            assert counts.tokens == 0
