"""The processor in the company of others: life and death, copies, other processors, other strategies."""

import copy
import gc
import inspect
import pickle
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from families import Family
from torch import Tensor
from transformers import LogitsProcessor

from mutation_decode import (
    Contrast,
    Detector,
    MutationDecoder,
    MutationLogitsProcessor,
    Mutations,
    Readout,
    Skip,
    Strategy,
    adjacent_js,
    js_divergence,
)

CONTRAST = Contrast(alpha=1.5, beta=0.02)


def watched(family: Family, *rows: int, strategy: Strategy = CONTRAST, **kwargs: Any) -> Tensor:
    """Answers with a processor of their own."""
    with MutationLogitsProcessor(family.model, strategy, detector=family.detector) as processor:
        return family.answers(*rows, logits_processor=[processor], **kwargs)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_several_processors_closed_in_any_order(one: Family, first: int) -> None:
    expected, plain = watched(one, 0, 1), one.answers(0, 1)
    processors = [MutationLogitsProcessor(one.model, CONTRAST, detector=one.detector) for _ in range(3)]
    order = [first, *(i for i in range(3) if i != first)]
    for position, i in enumerate(order):
        for j in order[position:]:
            assert torch.equal(one.answers(0, 1, logits_processor=[processors[j]]), expected)
        processors[i].close()
        assert torch.equal(one.answers(0, 1), plain)
        processors[i].close()  # twice is once
    assert "generate" not in one.model.__dict__


def test_a_forgotten_processor_leaves_no_trace(one: Family) -> None:
    processor = MutationLogitsProcessor(one.model, CONTRAST, detector=one.detector)
    one.answers(0, 1, logits_processor=[processor])
    gone = weakref.ref(processor)
    assert "generate" in one.model.__dict__
    del processor
    gc.collect()
    assert gone() is None
    assert {"generate", "generate_batch"} & set(one.model.__dict__) == set()


def test_a_generate_that_was_already_replaced_comes_back(one: Family) -> None:
    stock = one.model.generate
    calls = []

    def mine(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return stock(*args, **kwargs)

    one.model.generate = mine
    try:
        with MutationLogitsProcessor(one.model, CONTRAST, detector=one.detector) as processor:
            answers = one.answers(0, 1, logits_processor=[processor])
        assert one.model.generate is mine
        assert calls == [1]
    finally:
        del one.model.generate
    assert torch.equal(answers, watched(one, 0, 1))


def test_copies_and_saved_models_have_the_plain_generate(other: Family, tmp_path: Any) -> None:
    plain = other.answers(0, 1)
    with MutationLogitsProcessor(other.model, CONTRAST, detector=other.detector) as processor:
        for copied in (copy.deepcopy(other.model), pickle.loads(pickle.dumps(other.model))):
            assert copied.generate.__self__ is copied
            for parameter in copied.parameters():
                parameter.data.zero_()
            assert torch.equal(other.answers(0, 1), plain)
            with pytest.raises(RuntimeError, match="built for another model"):
                copied.generate(**other.batch(0), max_new_tokens=2, logits_processor=[processor])
        assert inspect.signature(other.model.generate) == inspect.signature(
            type(other.model).generate.__get__(1)
        )
        assert other.model.generate.__doc__ == type(other.model).generate.__doc__
        other.model.save_pretrained(tmp_path)


def test_arguments_by_position_and_bad_ones(other: Family) -> None:
    expected = watched(other, 0)
    ids = other.batch(0)["input_ids"]
    config = transformers.GenerationConfig(max_new_tokens=10, suppress_tokens=[0, 116, 117, 118, 119])
    with MutationLogitsProcessor(other.model, CONTRAST, detector=other.detector) as processor:
        out = other.model.generate(ids, config, transformers.LogitsProcessorList([processor]))
        assert torch.equal(out[:, ids.shape[1] :], expected)
        with pytest.raises(TypeError, match="multiple values"):
            other.model.generate(ids, inputs=ids, logits_processor=[processor])


def test_the_decoder_takes_and_returns_what_generate_does(one: Family) -> None:
    class Bans(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            return scores.index_fill(1, torch.tensor([int(free[0, 0])]), -torch.inf)

    free = watched(one, 0)
    with MutationDecoder(one.model, CONTRAST, detector=one.detector, trace=True) as decoder:
        assert decoder.trace is None
        inputs = one.batch(0)
        width = inputs["input_ids"].shape[1]
        out = decoder.generate(**inputs, max_new_tokens=10, do_sample=False)
        assert torch.equal(out[:, width:], free)
        assert decoder.trace is not None
        full = decoder.generate(
            **inputs, max_new_tokens=10, return_dict_in_generate=True, logits_processor=[Bans()]
        )
        assert full.sequences[0, width] != free[0, 0]
        assert not torch.isin(full.sequences[0, width:], free[0, 0]).any()
    assert torch.equal(one.answers(0), one.answers(0))
    assert "generate" not in one.model.__dict__


class SecondForward(LogitsProcessor):  # type: ignore[misc]
    """Runs the model again, as contrastive methods with a disturbed input do, and leaves the scores alone."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        with torch.no_grad():
            self.model(torch.full_like(input_ids, 40))
        return scores


def test_a_second_forward_in_another_processor_does_not_disturb(one: Family) -> None:
    expected, other_forward = watched(one, 0, 1), SecondForward(one.model)
    with MutationLogitsProcessor(one.model, CONTRAST, detector=one.detector) as processor:
        for company in ([other_forward, processor], [processor, other_forward]):
            assert torch.equal(one.answers(0, 1, logits_processor=company), expected)


def test_two_processors_in_one_call_both_act_in_their_order(one: Family) -> None:
    early = Contrast(alpha=0.7, beta=0, layer=2, always=True)
    late = Contrast(alpha=0.5, beta=0, layer=6, always=True)
    full = {"return_dict_in_generate": True, "output_scores": True, "max_new_tokens": 1}
    with (
        MutationLogitsProcessor(one.model, early, detector=None, exact=True) as a,
        MutationLogitsProcessor(one.model, late, detector=None) as b,
    ):
        both = one.generate(0, 1, logits_processor=[a, b], **full).scores[0]
        turned = one.generate(0, 1, logits_processor=[b, a], **full).scores[0]
        single = one.generate(0, 1, logits_processor=[a], **full).scores[0]
    torch.testing.assert_close(both, turned, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(both, single, atol=0.1)


def test_caches_chunks_and_embeddings(family: Family) -> None:
    expected = watched(family, 0, 1)
    for settings in ({"use_cache": False}, {"cache_implementation": "static"}):
        assert torch.equal(watched(family, 0, 1, **settings), expected)
    if not family.images([0], torch.zeros(1, 1)):
        assert torch.equal(watched(family, 0, 1, prefill_chunk_size=3), expected)
        inputs = family.batch(0, 1)
        embeddings = family.model.get_input_embeddings()(inputs.pop("input_ids"))
        with MutationLogitsProcessor(
            family.model, CONTRAST, detector=family.detector, trace=True
        ) as processor:
            out = family.model.generate(
                **inputs,
                inputs_embeds=embeddings.detach(),
                max_new_tokens=10,
                do_sample=False,
                logits_processor=[processor],
            )
        assert torch.equal(out, expected)
        assert processor.trace is not None
        assert torch.equal(processor.trace.tokens, expected)


def test_several_answers_to_one_prompt(one: Family) -> None:
    with MutationLogitsProcessor(one.model, CONTRAST, detector=one.detector, trace=True) as processor:
        torch.manual_seed(0)
        out = one.answers(0, 1, do_sample=True, num_return_sequences=3, logits_processor=[processor])
    assert processor.trace is not None
    assert torch.equal(processor.trace.tokens, out)


@dataclass(frozen=True, slots=True)
class LowDoLa:
    """DoLa, from public names only: contrast with the candidate layer farthest from the final one, by row."""

    beta: float = 0.1
    always: bool = True

    def readouts(self, depth: int) -> Iterable[int]:
        return range(0, depth // 2, 2)

    def __call__(self, readout: Readout, mutations: Mutations, scores: Tensor) -> Tensor:
        final = readout.logits_at(readout.depth)
        candidates = torch.tensor(list(self.readouts(readout.depth)))
        js = torch.stack([js_divergence(readout.logits_at(int(c)), final) for c in candidates], dim=1)
        log_p = readout.log_probs(readout.depth)
        contrast = log_p - readout.log_probs(candidates[js.argmax(dim=1)])
        plausible = log_p >= log_p.amax(dim=1, keepdim=True) + torch.tensor(self.beta).log()
        return contrast.masked_fill(~plausible | (scores == -torch.inf), -torch.inf)


def test_a_baseline_on_the_protocol(family: Family) -> None:
    strategy: Strategy = LowDoLa()
    with MutationLogitsProcessor(family.model, strategy, detector=None, trace=True) as processor:
        together = family.answers(0, 1, 2, logits_processor=[processor])
        assert processor.trace is not None
        assert processor.trace.percent_acted == 100
        assert processor.trace.percent_fired == 0
        for row in range(3):
            assert torch.equal(family.answers(row, logits_processor=[processor])[0], together[row])
    assert not torch.equal(together, family.answers(0, 1, 2))


def test_only_the_layers_that_are_needed_are_read(one: Family) -> None:
    seen: list[Readout] = []

    class Looks:
        always = True

        def readouts(self, depth: int) -> tuple[int, ...]:
            return (1,)

        def __call__(self, readout: Readout, mutations: Mutations, scores: Tensor) -> Tensor:
            seen.append(readout)
            return scores

    for detector, trace, indices in (
        (None, False, (1, 8)),
        (Detector(critical=5), False, (1, 5, 6, 7, 8)),
        (None, True, tuple(range(9))),
    ):
        with MutationLogitsProcessor(one.model, Looks(), detector=detector, trace=trace) as processor:
            one.answers(0, 1, logits_processor=[processor])
        assert seen[-1].indices == indices
    torch.testing.assert_close(seen[-1].js(), adjacent_js(seen[-1].logits))


@pytest.mark.parametrize(
    ("strategy", "forwards"),
    [
        (Contrast(), [4, 4]),
        (Skip(), [4, 4, 4, 1, 4, 1, 4, 1]),
        (Skip(layers=[3, 4]), [4, 4]),
        (Skip(layers=[3, 4], prompt=True), [4, 4, 4, 4]),
    ],
)
def test_building_costs_the_forwards_that_the_readme_tells(
    one: Family, strategy: Strategy, forwards: list[int]
) -> None:
    """The tokens of each forward of the model: two to find and verify its parts, the others to try Skip."""
    seen: list[int] = []

    def note(_: Any, args: Any, kwargs: Any) -> None:
        seen.append(kwargs.get("input_ids", *args).shape[1])

    hook = one.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        MutationLogitsProcessor(one.model, strategy).close()
    finally:
        hook.remove()
    assert seen == forwards
