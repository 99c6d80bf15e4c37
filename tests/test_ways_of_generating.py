"""Whatever way generate is asked to go: the strategy is in effect there, or the call is refused before it."""

import threading
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import transformers
from families import Family, build, gemma3, llama
from test_refusals import Counts
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import utils
from transformers.generation.streamers import BaseStreamer

from benchmarks.conformance.reference import cache_error, reference
from mutation_decode import Anatomy, Contrast, MutationLogitsProcessor, Skip

CONTRAST, SKIP = Contrast(alpha=1.5, beta=0.02), Skip(layers=[2, 5], gated=True)
BOTH = pytest.mark.parametrize("strategy", [CONTRAST, SKIP], ids=["contrast", "skip"])


def processor_of(family: Family, strategy: Any, **knobs: Any) -> MutationLogitsProcessor:
    return MutationLogitsProcessor(
        family.model, strategy, **{"detector": family.detector, "trace": True} | knobs
    )


# Several tokens from one forward, and ways that go past processors.

SEVERAL = r"several tokens from one forward.*leave out assistant_model"
ELSEWHERE = r"no longer transformers' own.*leave out penalty_alpha, dola_layers and num_beam_groups"


@pytest.mark.parametrize("place", ["argument", "generation_config", "the model's own"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_lookup_num_tokens": 2}, SEVERAL),
        ({"assistant_early_exit": 2}, SEVERAL),
        ({"assistant_early_exit": 0}, SEVERAL),
        ({"use_mtp": True}, SEVERAL),
        ({"penalty_alpha": 0.6, "top_k": 4}, ELSEWHERE),
        ({"dola_layers": "high"}, ELSEWHERE),
        ({"num_beam_groups": 2, "num_beams": 4, "diversity_penalty": 0.5}, ELSEWHERE),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@BOTH
def test_what_is_refused_wherever_it_is_asked_for(
    other: Family, strategy: Any, settings: dict[str, Any], message: str, place: str
) -> None:
    counts, own, given = Counts(), other.model.generation_config, dict(settings)
    if place == "generation_config":
        given = {"generation_config": GenerationConfig(**settings)}
    if place == "the model's own":
        given = {}
        other.model.generation_config = GenerationConfig(**{**own.to_dict(), **settings})
    try:
        with processor_of(other, strategy) as processor:
            with pytest.raises(ValueError, match=message):
                other.model.generate(
                    **other.batch(0), logits_processor=[processor], stopping_criteria=[counts], **given
                )
            assert counts.tokens == 0
    finally:
        other.model.generation_config = own


@BOTH
def test_an_assistant_is_refused_with_and_without_a_tokenizer(other: Family, strategy: Any) -> None:
    with processor_of(other, strategy) as processor:
        use: Any = {"logits_processor": [processor], "assistant_model": other.model}
        for more in ({}, {"tokenizer": object(), "assistant_tokenizer": object()}):
            with pytest.raises(ValueError, match=SEVERAL):
                other.generate(0, **use, **more)
        ids, mask = other.batch(0).values()
        with pytest.raises(ValueError, match=SEVERAL):  # by position
            other.model.generate(ids, None, [processor], None, None, None, other.model, attention_mask=mask)


def test_settings_of_an_assistant_without_one_change_nothing(other: Family) -> None:
    settings = {
        "num_assistant_tokens": 5,
        "num_assistant_tokens_schedule": "heuristic",
        "assistant_confidence_threshold": 0.3,
        "assistant_lookbehind": 3,
        "target_lookbehind": 3,
        "speculation_type": "dflash",
        "max_matching_ngram_size": 2,
        "use_mtp": False,
        "prompt_lookup_num_tokens": None,
        "penalty_alpha": 0.0,
        "num_beam_groups": 1,
    }
    known = GenerationConfig()
    settings = {name: value for name, value in settings.items() if hasattr(known, name)}
    with processor_of(other, CONTRAST) as processor:
        want = other.answers(0, 1, logits_processor=[processor])
        assert torch.equal(other.answers(0, 1, logits_processor=[processor], **settings), want)
        config = GenerationConfig(max_new_tokens=10, **settings)
        found = other.model.generate(
            **other.batch(0, 1), generation_config=config, logits_processor=[processor]
        )
        assert torch.equal(found[:, -10:], want)
        own = other.model.generation_config
        own.prompt_lookup_num_tokens = 2
        try:  # the argument counts, as in generate
            found = other.answers(0, 1, logits_processor=[processor], prompt_lookup_num_tokens=None)
        finally:
            own.prompt_lookup_num_tokens = None
        assert torch.equal(found, want)


# Streamers.


class Heard(BaseStreamer):  # type: ignore[misc]
    """What is put into a streamer, and whether it was ended."""

    def __init__(self) -> None:
        self.put_in: list[Tensor] = []
        self.ended = 0

    def put(self, value: Tensor) -> None:
        self.put_in.append(value.clone())

    def end(self) -> None:
        self.ended += 1


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A word for every token."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(120)}, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="w0", bos_token="w1", unk_token="w2"
    )


@BOTH
def test_a_streamer_hears_the_tokens_that_are_returned(one: Family, strategy: Any) -> None:
    with processor_of(one, strategy) as processor:
        for mode in ({}, {"do_sample": True, "num_return_sequences": 2}):
            heard = Heard()
            out = one.generate(0, 1, logits_processor=[processor], streamer=heard, **mode)
            prompt, *tokens = heard.put_in
            assert torch.equal(torch.cat([prompt, torch.stack(tokens, dim=1)], dim=1), out)
            assert heard.ended == 1
            assert processor.trace is not None
            assert torch.equal(processor.trace.tokens, torch.stack(tokens, dim=1))


@BOTH
def test_texts_are_streamed_out_of_a_thread(
    one: Family, strategy: Any, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = one.answers(0)
    with processor_of(one, strategy) as processor:
        printing = transformers.TextStreamer(tokenizer, skip_prompt=True)
        want = one.answers(0, logits_processor=[processor], streamer=printing)
        text = tokenizer.decode(want[0])
        assert capsys.readouterr().out.strip() == text
        streamer = transformers.TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
        use = {"logits_processor": [processor], "streamer": streamer}
        thread = threading.Thread(target=lambda: one.answers(0, **use))
        thread.start()
        assert "".join(streamer) == text
        thread.join()
    assert not torch.equal(want, plain)


# Several answers to a prompt.


@BOTH
@pytest.mark.parametrize(
    "mode",
    [
        {"do_sample": True, "num_return_sequences": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 3, "do_sample": True, "num_return_sequences": 3},
    ],
    ids=["sampled", "beams", "sampled beams"],
)
def test_several_answers_have_a_row_of_the_trace_each(
    one: Family, strategy: Any, mode: dict[str, Any]
) -> None:
    each = mode["num_return_sequences"]
    torch.manual_seed(0)
    plain = one.answers(0, 1, **mode)
    with processor_of(one, strategy) as processor:
        torch.manual_seed(0)
        answers = one.answers(0, 1, logits_processor=[processor], **mode)
    trace = processor.trace
    assert trace is not None
    assert torch.equal(trace.tokens, answers)
    assert trace.js.shape == (2 * each, answers.shape[1], 8)
    assert trace.acted.any(dim=1).all(), "every answer had its share"
    assert answers.shape == plain.shape
    assert not torch.equal(answers, plain)


def test_sampled_answers_leave_out_what_their_own_rows_say(one: Family) -> None:
    """The logits of each of three answers are those of one forward from scratch over it."""
    with processor_of(one, SKIP) as processor:
        full = {"return_dict_in_generate": True, "output_logits": True, "do_sample": True}
        out = one.generate(0, 1, logits_processor=[processor], num_return_sequences=3, **full)
    trace = processor.trace
    assert trace is not None
    assert 0 < trace.percent_acted < 100
    again = reference(one, Anatomy.of(one.model), (0, 0, 0, 1, 1, 1), trace.tokens, trace.skipped)
    torch.testing.assert_close(torch.stack(out.logits, dim=1), again.logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("make", [llama, gemma3], ids=lambda make: make.__name__)
@BOTH
def test_where_generate_stops_a_step_late_and_takes_it_back(
    make: Any, strategy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does on Apple's GPUs: the step that is taken back is in no trace, no stream and no cache."""
    family = build(make)
    use: Any = {"return_dict_in_generate": True}
    with processor_of(family, strategy) as processor:
        use["logits_processor"] = [processor]
        free = family.answers(0, 1, logits_processor=[processor])
        use["eos_token_id"] = [int(free[0, 4]), int(free[1, 5])]
        want, seen = family.generate(0, 1, **use), processor.trace
        monkeypatch.setattr(utils.DeferredStopCheck, "is_supported", staticmethod(lambda *_, **__: True))
        monkeypatch.setattr(torch, "Event", lambda **_: Mock())  # there is no device to wait for
        heard = Heard()
        out, trace = family.generate(0, 1, streamer=heard, **use), processor.trace
    assert seen is not None
    assert trace is not None
    assert trace.tokens.shape[1] < 10, "both rows ended early"
    assert torch.equal(out.sequences, want.sequences)
    assert torch.equal(torch.stack(heard.put_in[1:], dim=1), trace.tokens)
    assert torch.equal(trace.skipped, seen.skipped)
    if strategy is SKIP:
        again = reference(family, Anatomy.of(family.model), (0, 1), trace.tokens, trace.skipped)
        assert cache_error(out.past_key_values, again) < 2e-4
