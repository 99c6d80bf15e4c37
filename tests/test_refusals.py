"""Law 9: what cannot work is refused before a token is made, with the reason and the way out."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from families import Family
from oracles import FULL, same
from torch import Tensor, nn
from transformers import StoppingCriteria

from mutation_decode import Anatomy, Contrast, Detector, MutationDecoder, MutationLogitsProcessor


class Counts(StoppingCriteria):  # type: ignore[misc]
    """How many tokens were made."""

    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.tokens += 1
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"cache_implementation": "paged"},
            r"continuous batching .* ignores logits processors.*leave cache_",
        ),
        ({"prompt_lookup_num_tokens": 2}, r"several tokens from one forward.*leave out assistant_model"),
        ({"assistant_model": "itself"}, r"several tokens from one forward"),
        ({"guidance_scale": 1.5}, r"classifier-free guidance.*leave guidance_scale out"),
        ({"generation_config": {"guidance_scale": 1.5}}, r"classifier-free guidance"),
        ({"generation_config": {"prompt_lookup_num_tokens": 2}}, r"several tokens from one forward"),
    ],
)
def test_law_9_kinds_of_decoding(other: Family, arguments: dict[str, Any], message: str) -> None:
    if "assistant_model" in arguments:
        arguments = {"assistant_model": other.model}
    if "generation_config" in arguments:
        arguments = {"generation_config": transformers.GenerationConfig(**arguments["generation_config"])}
    counts = Counts()
    with MutationLogitsProcessor(other.model, detector=other.detector) as processor:
        with pytest.raises(ValueError, match=message):
            other.model.generate(
                **other.batch(0), **arguments, logits_processor=[processor], stopping_criteria=[counts]
            )
        assert counts.tokens == 0
        other.generate(0, 1, logits_processor=[processor])  # and the next one works


def test_law_9_settings_that_change_nothing_are_allowed(other: Family) -> None:
    with MutationLogitsProcessor(other.model, detector=other.detector) as processor:
        free = other.generate(0, 1, logits_processor=[processor])
        assert torch.equal(other.generate(0, 1, logits_processor=[processor], guidance_scale=1.0), free)


def test_law_9_right_padding(one: Family) -> None:
    ids = torch.tensor([[1, 5, 6, 7], [1, 5, 0, 0]])
    with MutationLogitsProcessor(one.model, detector=one.detector) as processor:
        for inputs in ({"input_ids": ids, "attention_mask": (ids != 0).long()}, {"input_ids": ids}):
            with pytest.raises(ValueError, match=r"ends in padding.*Pad on the left"):
                one.model.generate(**inputs, logits_processor=[processor])
        with pytest.raises(ValueError, match="ends in padding"):
            one.model.generate(ids, logits_processor=[processor])
        # left padding, and a padding token that the mask calls text, are fine
        allowed = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        one.model.generate(**allowed, logits_processor=[processor], max_new_tokens=8)


def test_law_9_continuous_batching(other: Family) -> None:
    with (
        MutationLogitsProcessor(other.model, detector=other.detector) as processor,
        pytest.raises(ValueError, match=r"generate_batch \(continuous batching\) ignores logits processors"),
    ):
        other.model.generate_batch([[1, 5, 6]], logits_processor=[processor])


def test_law_9_two_threads(one: Family) -> None:
    errors: list[BaseException] = []

    def use(processor: MutationLogitsProcessor) -> None:
        try:
            one.generate(0, logits_processor=[processor])
        except RuntimeError as error:
            errors.append(error)

    class Meanwhile(Counts):
        def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
            if self.tokens == 2:
                thread = threading.Thread(target=use, args=(processor,))
                thread.start()
                thread.join()
            if self.tokens == 4:
                use(processor)
            return super().__call__(input_ids, scores, **kwargs)

    with MutationLogitsProcessor(one.model, detector=one.detector) as processor:
        alone = one.generate(0, 1, logits_processor=[processor])
        watched = one.generate(0, 1, logits_processor=[processor], stopping_criteria=[Meanwhile()])
    assert torch.equal(watched, alone)
    assert len(errors) == 2
    assert all("in use by another generate call" in str(error) for error in errors)


def test_law_9_a_model_whose_parts_do_not_verify(one: Family) -> None:
    right = Anatomy.of(one.model)
    wrong = Anatomy(blocks=right.blocks[:-1], tail=right.tail, head=right.head, owner=right.owner)
    with pytest.raises(ValueError, match=r"differs from the model's own logits by"):
        MutationLogitsProcessor(one.model, anatomy=wrong)


def test_law_9_another_models_processor(one: Family, other: Family) -> None:
    with MutationLogitsProcessor(one.model, detector=one.detector) as processor:
        with pytest.raises(
            RuntimeError, match=r"built for another model.*outside LlavaForConditionalGeneration"
        ):
            other.generate(0, logits_processor=[processor])
        with (
            MutationLogitsProcessor(other.model, detector=other.detector),
            pytest.raises(RuntimeError, match=r"built for another model"),
        ):
            other.generate(0, logits_processor=[processor])


def test_law_9_outside_generate_and_after_close(one: Family) -> None:
    processor = MutationLogitsProcessor(one.model, detector=one.detector)
    with pytest.raises(RuntimeError, match="called outside"):
        processor(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 120))
    processor.close()
    with pytest.raises(RuntimeError, match="closed"):
        one.generate(0, logits_processor=[processor])


def test_law_9_a_generate_that_never_asks_the_processor(one: Family) -> None:
    def loop(model: Any, input_ids: Tensor, **_: Any) -> Tensor:
        return input_ids

    with (
        MutationLogitsProcessor(one.model, detector=one.detector) as processor,
        pytest.raises(
            RuntimeError, match="without calling this processor once, so the strategy was not in effect"
        ),
    ):
        one.generate(0, logits_processor=[processor], custom_generate=loop)


def test_law_9_several_tokens_from_one_forward_by_any_other_way(other: Family) -> None:
    def loop(model: Any, input_ids: Tensor, logits_processor: Any, **_: Any) -> Tensor:
        scores = model(input_ids).logits[:, -1]
        for _ in range(2):
            scores = logits_processor(input_ids, scores)
        return input_ids

    with (
        MutationLogitsProcessor(other.model, detector=other.detector) as processor,
        pytest.raises(RuntimeError, match="each readout belongs to one forward"),
    ):
        other.generate(0, logits_processor=[processor], custom_generate=loop)


def test_law_9_models_and_knobs_that_do_not_fit(one: Family) -> None:
    with pytest.raises(TypeError, match="Linear has no generate; pass a transformers model"):
        MutationLogitsProcessor(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"layer=8 is no earlier readout of a model of 8 blocks"):
        MutationLogitsProcessor(one.model, Contrast(layer=8))
    with pytest.raises(ValueError, match=r"critical=9 leaves no block to watch in a model of 8 blocks"):
        MutationDecoder(one.model, detector=Detector(critical=9))
    with pytest.raises(ValueError, match="Contrast acts where the detector fires, and there is none"):
        MutationLogitsProcessor(one.model, detector=None)


def test_law_9_a_strategy_that_returns_something_else(one: Family) -> None:
    class Wrong:
        always = True

        def readouts(self, depth: int) -> tuple[int, ...]:
            return ()

        def __call__(self, readout: Any, mutations: Any, scores: Tensor) -> Tensor:
            return scores[:, :5]

    with (
        MutationLogitsProcessor(one.model, Wrong(), detector=None) as processor,
        pytest.raises(RuntimeError, match=r"Wrong turned scores \(1, 120\) into \(1, 5\)"),
    ):
        one.generate(0, logits_processor=[processor])


def test_a_processor_built_after_generate_was_looked_up_is_told_so(one: Family) -> None:
    """As in generate(logits_processor=[MutationLogitsProcessor(model)]), where it is looked up first."""
    generate = one.model.generate
    with (
        MutationLogitsProcessor(one.model) as processor,
        pytest.raises(RuntimeError, match=r"inside the arguments of the call.*that model, on a line before"),
    ):
        generate(**one.batch(0), max_new_tokens=2, logits_processor=[processor])


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"strategy": Contrast}, r"expected a strategy, such as Contrast\(\) or Skip\(\), .* got <class"),
        ({"strategy": "contrast"}, "got 'contrast'"),
        ({"strategy": None}, "got None"),
        ({"detector": 0.05}, "detector: expected Detector or None, got float"),
        ({"gate": {"max_prob": 0.9}}, "gate: expected Gate or None, got dict"),
        ({"anatomy": nn.Linear(2, 2)}, "anatomy: expected Anatomy or None, got Linear"),
    ],
)
def test_arguments_of_another_type(one: Family, given: dict[str, Any], match: str) -> None:
    with pytest.raises(TypeError, match=match):
        MutationLogitsProcessor(one.model, **given)


@dataclass
class Broken:
    """A strategy that somebody else wrote."""

    does: Callable[[Any], Any]
    layer: Any = 3
    always: bool = True

    def readouts(self, depth: int) -> tuple[Any, ...]:
        return (self.layer,)

    def __call__(self, readout: Any, mutations: Any, scores: Any) -> Any:
        return self.does(scores)


@pytest.mark.parametrize(
    ("does", "match"),
    [
        (
            lambda scores: None,
            "turned scores .* into NoneType; a strategy returns one score per row and token",
        ),
        (lambda scores: scores / 0 * 0, "Broken gave NaN for some scores, so the answer means nothing"),
    ],
)
def test_what_a_strategy_may_not_return(one: Family, does: Any, match: str) -> None:
    with (
        MutationLogitsProcessor(one.model, Broken(does), detector=None) as processor,
        pytest.raises(RuntimeError, match=match),
    ):
        one.generate(0, logits_processor=[processor])


def test_a_readout_between_two_blocks(one: Family) -> None:
    with pytest.raises(ValueError, match=r"readouts of a model of 8 blocks are 0\.\.8, got \(0\.75, 8\)"):
        MutationLogitsProcessor(one.model, Broken(lambda scores: scores, layer=0.75), detector=None)


def test_scores_changed_in_place_change_no_row_that_did_not_fire(one: Family) -> None:
    plain = one.generate(0, 1, **FULL)
    never = Detector(threshold=math.log(2))
    with (
        MutationLogitsProcessor(
            one.model, Broken(lambda s: s.zero_(), always=False), detector=never
        ) as processor,
        pytest.warns(UserWarning, match="never acted"),
    ):
        assert same(one.generate(0, 1, logits_processor=[processor], **FULL), plain)
