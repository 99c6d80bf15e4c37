"""Twins without the image: what they are, and the gate that goes by where they stand."""

import warnings
from collections.abc import Callable
from typing import Any

import more_families as more
import pytest
import torch
from families import IMAGE, Family, build, gemma3, llava, ours_on, qwen2_5_vl
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from mutation_decode import (
    Contrast,
    Detector,
    Gate,
    LogitLens,
    MutationDecoder,
    MutationLogitsProcessor,
    Mutations,
    Readout,
    Skip,
    js_divergence,
    with_twins,
)

CONTRAST = Contrast(alpha=1.5, beta=0.02)
STRATEGIES = pytest.mark.parametrize("strategy", [CONTRAST, Skip()], ids=["contrast", "skip"])
BOTH_WAYS = pytest.mark.parametrize("toward", ["text", "image"])
FULL = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
FIRES = Detector(threshold=0.0)
# A single row may well be kept out altogether; what the warning is for has its own tests.
LONE_ROWS = pytest.mark.filterwarnings("ignore:.* never acted")


@pytest.fixture(scope="module", params=[llava, qwen2_5_vl, gemma3], ids=lambda make: make.__name__)
def shown(request: pytest.FixtureRequest) -> Any:
    """Families that are shown pictures; all is taken off them again."""
    family = build(request.param)
    yield family
    assert "generate" not in family.model.__dict__
    assert ours_on(family.model) == []


def without_images(family: Family, *rows: int, suffix: Tensor | None = None) -> dict[str, Tensor]:
    """The prompts as if they had never had an image, each followed by its row of `suffix`."""
    text = [[token for token in prompt if token != IMAGE] for prompt in family.prompts]
    return Family(family.name, family.model, text).batch(*rows, suffix=suffix)


def next_logits(family: Family, inputs: dict[str, Any]) -> Tensor:
    """As generate sees them."""
    output = family.model.generate(**inputs, max_new_tokens=1, do_sample=False, **FULL)
    return torch.as_tensor(output.logits[0])


# What a twin is.


@pytest.mark.parametrize(
    "make", [llava, qwen2_5_vl, more.qwen3_vl, more.internvl, more.chameleon], ids=lambda make: make.__name__
)
def test_a_twin_says_what_the_model_says_of_the_words_alone(make: Callable[[], Family]) -> None:
    family = more.mild(make)
    inputs = family.batch(0, 1, 2)
    rows, twins = next_logits(family, with_twins(family.model, inputs)).chunk(2)
    torch.testing.assert_close(rows, next_logits(family, inputs), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(twins, next_logits(family, without_images(family, 0, 1, 2)), atol=1e-5, rtol=0)
    assert (rows - twins).abs().amax(dim=1).min() > 0.05


@pytest.mark.parametrize("make", [gemma3, more.paligemma, more.instructblip], ids=lambda make: make.__name__)
def test_a_twin_does_not_see_the_image(make: Callable[[], Family]) -> None:
    family = more.mild(make)
    inputs = family.batch(0, 1, 2)
    others = {**inputs, "pixel_values": inputs["pixel_values"].roll(1, 0)}
    one, other = (next_logits(family, with_twins(family.model, each)) for each in (inputs, others))
    torch.testing.assert_close(one[3:], other[3:], atol=1e-5, rtol=0)
    assert (one[:3] - other[:3]).abs().max() > 0.01


def test_everything_is_doubled_and_nothing_is_changed(shown: Family) -> None:
    inputs = {**shown.batch(0, 1, 2), "max_new_tokens": 7, "eos_token_id": [3, 4], "sizes": [(1, 2)] * 3}
    kept = {name: v.clone() if isinstance(v, Tensor) else v for name, v in inputs.items()}
    both = with_twins(shown.model, inputs, check=False)
    assert all(torch.equal(inputs[n], v) for n, v in kept.items() if isinstance(v, Tensor))
    assert (both["max_new_tokens"], both["eos_token_id"]) == (7, [3, 4]), "settings of generate stay"
    assert both["sizes"] == [(1, 2)] * 6
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    for name, value in tensors.items():
        assert torch.equal(both[name][: len(value)], value), name
        masked = value * (inputs["input_ids"] != IMAGE) if name == "attention_mask" else value
        assert torch.equal(both[name][len(value) :], masked), name
    axes = torch.arange(6).reshape(3, 2, 1)
    both = with_twins(shown.model, {**shown.batch(0, 1), "position_ids": axes}, check=False)
    assert torch.equal(both["position_ids"], torch.cat([axes, axes], dim=1))


def test_image_tokens_of_your_own(one: Family) -> None:
    inputs = {name: one.batch(0)[name] for name in ("input_ids", "attention_mask")}
    mask = with_twins(one.model, inputs, image_tokens=[5, 6], check=False)["attention_mask"]
    assert torch.equal(mask[1], mask[0] * ~torch.isin(inputs["input_ids"][0], torch.tensor([5, 6])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"input_ids": None},
            r"its tokens in input_ids \[rows, tokens\], and there are none; pass them, or give",
        ),
        ({"attention_mask": None}, r"of the shape of input_ids, \(2, 11\); got none. Pass the one that"),
        ({"attention_mask": torch.ones(2, 1, 11, 11)}, r"got shape \(2, 1, 11, 11\)"),
        (
            {"past_key_values": DynamicCache()},
            r"past_key_values holds what was computed for the rows and not",
        ),
        (
            {"input_ids": torch.tensor([[IMAGE, *[5] * 10], [6] * 11])},
            r"row 1 of input_ids holds none of the image tokens \[119\] of LlavaFor.*say with image_tokens=",
        ),
        (
            {"input_ids": torch.tensor([[IMAGE] * 11] * 2)},
            r"ends in its image leaves its twin nothing to go on",
        ),
    ],
)
def test_what_has_no_twin_is_refused(one: Family, changes: dict[str, Any], message: str) -> None:
    inputs = {**one.batch(0, 1), **changes}
    with pytest.raises(ValueError, match=message):
        with_twins(one.model, inputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            more.mllama,
            r"Mllama.*its logits depend on the image all the same, by .* cross-attention; name other",
        ),
        (
            more.idefics,
            r"row 0 of input_ids holds none of the image tokens \[\] of Idefics.*or give the twins",
        ),
        (
            more.florence2,
            r"Florence2.* reads its image with an encoder, .* give the twins yourself with twins=",
        ),
    ],
)
def test_models_whose_image_no_mask_hides_are_refused(make: Callable[[], Family], message: str) -> None:
    family = more.mild(make)
    with pytest.raises(ValueError, match=message):
        with_twins(family.model, family.batch(0, 1))


def test_twins_by_hand(one: Family) -> None:
    inputs = one.batch(0, 1)
    blank = {**inputs, "pixel_values": torch.zeros_like(inputs["pixel_values"])}
    both = next_logits(one, with_twins(one.model, inputs, twins=blank))
    # logits of some hundreds
    torch.testing.assert_close(
        both, torch.cat([next_logits(one, i) for i in (inputs, blank)]), atol=1e-3, rtol=0
    )
    words = without_images(one, 0, 1)
    pad = inputs["input_ids"].shape[1] - words["input_ids"].shape[1]
    words = {name: torch.nn.functional.pad(value, (pad, 0)) for name, value in words.items()}
    both_ = next_logits(one, with_twins(one.model, inputs, twins=words))
    torch.testing.assert_close(both_, next_logits(one, with_twins(one.model, inputs)), atol=1e-3, rtol=0)
    for name in ("input_ids", "attention_mask"):
        with pytest.raises(
            ValueError, match=rf"{name} of one shape, got \(2, 11\) and \(2, 3\); pad the shorter"
        ):
            with_twins(one.model, inputs, twins={**blank, name: inputs[name][:, :3]})


# The gate, on distributions by hand.

SURE, TORN, FLAT = [0.97, 0.01, 0.01, 0.01], [0.45, 0.45, 0.05, 0.05], [0.25, 0.25, 0.25, 0.25]
OTHER = [0.01, 0.97, 0.01, 0.01]


def test_where_a_mutation_leads_by_hand() -> None:
    before = [SURE, TORN, TORN, FLAT]
    after = [TORN, SURE, TORN, OTHER]
    without = [OTHER, OTHER, SURE, FLAT]  # nearer, further, no move, away from where it was
    logits = torch.tensor(
        [[FLAT, b, a] for b, a in zip(before + without, after + without, strict=True)]
    ).log()
    found = Detector(threshold=0.05, critical=1, include_last=True)(torch.tensor([[0.0, 0.3]] * 8))
    readout = Readout(logits, (0, 1, 2), 2)
    nobody = [False] * 4
    assert Gate(toward="text")(readout, found).tolist() == [True, False, False, False, *nobody]
    assert Gate(toward="image")(readout, found).tolist() == [False, True, False, True, *nobody]
    assert Gate(toward="image", max_prob=0.5)(readout, found).tolist() == [*nobody, *nobody]
    with pytest.raises(ValueError, match="toward is one of text, image or None, got 'twin'"):
        Gate(toward="twin")  # type: ignore[arg-type]


# The gate inside generate.


@LONE_ROWS
@BOTH_WAYS
@STRATEGIES
def test_law_3_a_row_decodes_the_same_alone_in_a_batch_and_permuted(
    shown: Family, strategy: Any, toward: Any
) -> None:
    plain = shown.answers(0, 1, 2)
    gate = Gate(toward=toward)
    with MutationLogitsProcessor(shown.model, strategy, detector=FIRES, gate=gate, trace=True) as processor:
        together = shown.answers(0, 1, 2, logits_processor=[processor])
        trace = processor.trace
        assert trace is not None
        assert 0 < trace.percent_fired < 100
        assert shown.name == "gemma3" or not torch.equal(together, plain), "else the law was not tested"
        for rows in ((1,), (2, 0)):
            assert torch.equal(shown.answers(*rows, logits_processor=[processor]), together[list(rows)])
            assert torch.equal(processor.trace.fired, trace.fired[list(rows)])


@STRATEGIES
def test_law_2_what_does_nothing_gives_plain_tokens(shown: Family, strategy: Any) -> None:
    plain = shown.generate(0, 1, 2, **FULL)
    twice = shown.model.generate(
        **with_twins(shown.model, shown.batch(0, 1, 2)), max_new_tokens=10, do_sample=False, **FULL
    )
    never, shut = Detector(threshold=0.6931, include_last=True), Gate(toward="text", max_prob=1e-6)
    nothing = [(strategy, never, Gate(toward="text")), (strategy, FIRES, shut)]
    if strategy is CONTRAST:
        nothing.append((Contrast(alpha=0), FIRES, Gate(toward="image")))
    for does, detector, gate in nothing:
        decoder = MutationDecoder(shown.model, does, detector=detector, gate=gate, exact=True)
        with decoder, warnings.catch_warnings(action="ignore"):
            out = decoder.generate(**shown.batch(0, 1, 2), max_new_tokens=10, do_sample=False, **FULL)
        assert torch.equal(out.sequences, plain.sequences)
        # The rows' own logits in a batch of twice as many; the twins go with the rows only beside the gate.
        assert torch.equal(out.logits[0], twice.logits[0][:3])
        torch.testing.assert_close(out.logits, plain.logits, atol=2e-3, rtol=1e-4)


@BOTH_WAYS
def test_a_token_is_let_through_by_what_two_forwards_say(toward: Any) -> None:
    """Once with the image, once without a place for one: the trace has fired where these say so."""
    family = build(llava)
    gate = Gate(toward=toward)
    with MutationLogitsProcessor(family.model, CONTRAST, detector=FIRES, gate=gate, trace=True) as processor:
        family.generate(0, 1, 2, logits_processor=[processor])
    trace = processor.trace
    assert trace is not None
    agree, near = 0, 0
    with torch.no_grad(), LogitLens(family.model) as lens:
        for t in range(10):
            family.model(**family.batch(0, 1, 2, suffix=trace.tokens[:, :t]))
            seen = lens.take()
            family.model(**without_images(family, 0, 1, 2, suffix=trace.tokens[:, :t]))
            words = lens.take().logits_at(8)
            found = FIRES(seen.js())
            before = js_divergence(seen.logits_at(found.pre_mutation), words)
            after = js_divergence(seen.logits_at(8), words)
            open_ = found.fired & (after < before if toward == "text" else after > before)
            clear = (after - before).abs() > 1e-4
            agree += int((open_ == trace.fired[:, t])[clear].sum())
            near += int((~clear).sum())
    assert (agree, near) == (30 - near, near)
    assert near < 5


class Watches:
    """Skip, and what it is asked about."""

    always = False

    def __init__(self) -> None:
        self.final: list[Tensor] = []
        self.skipped: list[Tensor] = []

    def readouts(self, depth: int) -> tuple[int, ...]:
        return ()

    def skips(self, readout: Readout, mutations: Mutations) -> Tensor:
        self.final.append(readout.logits_at(readout.depth))
        self.skipped.append(Skip().skips(readout, mutations))
        return self.skipped[-1]


def test_twins_of_rows_that_skip_say_what_the_model_as_it_is_says_of_the_words(one: Family) -> None:
    watches = Watches()
    gate = Gate(toward="text")
    with MutationLogitsProcessor(one.model, watches, detector=FIRES, gate=gate, trace=True) as processor:
        answers = one.answers(0, 1, 2, logits_processor=[processor])
    assert processor.trace is not None
    assert processor.trace.skipped.any()
    assert not torch.equal(answers, one.answers(0, 1, 2))
    for t in range(10):
        assert not watches.skipped[t][3:].any()
        words = next_logits(one, without_images(one, 0, 1, 2, suffix=answers[:, :t]))
        torch.testing.assert_close(watches.final[t][3:], words, atol=2e-3, rtol=1e-4)


def test_a_cross_attending_model_with_twins_by_hand() -> None:
    family = more.mild(more.mllama)
    inputs = family.batch(0, 1)
    use = {"max_new_tokens": 6, "do_sample": False}
    gate = Gate(toward="text")
    with MutationDecoder(family.model, CONTRAST, detector=FIRES, gate=gate) as decoder:
        with pytest.raises(ValueError, match="depend on the image all the same"):
            decoder.generate(**inputs, **use)
        blank = {**inputs, "pixel_values": torch.zeros_like(inputs["pixel_values"])}
        answers = decoder.generate(**inputs, **use, twins=blank)
        assert answers.shape == (2, inputs["input_ids"].shape[1] + 6)
        with pytest.raises(ValueError, match="depend on the image all the same"):
            decoder.generate(**inputs, **use)


def test_what_comes_back_is_the_rows_whatever_is_asked_for(one: Family) -> None:
    asked = {**FULL, "output_attentions": True, "output_hidden_states": True, "max_new_tokens": 3}
    plain = one.generate(0, 1, 2, **asked)
    shut = {"detector": FIRES, "gate": Gate(toward="text", max_prob=1e-6)}
    with MutationLogitsProcessor(one.model, CONTRAST, trace=True, **shut) as processor:
        with pytest.warns(UserWarning, match="its gate was shut each time"):
            out = one.generate(0, 1, 2, logits_processor=[processor], **asked)
        assert type(out) is type(plain)
        assert out.keys() == plain.keys()

        def shapes(value: Any) -> Any:
            return tuple(value.shape) if isinstance(value, Tensor) else [shapes(item) for item in value]

        for name in ("sequences", "scores", "logits", "attentions", "hidden_states"):
            assert shapes(out[name]) == shapes(plain[name]), name
        keys = [
            (c.layers[5].keys.shape, c.get_seq_length()) for c in (out, plain) for c in [c.past_key_values]
        ]
        assert keys[0] == keys[1]
        assert processor.trace is not None
        assert processor.trace.tokens.shape == (3, 3)
        assert torch.equal(
            one.generate(0, 1, 2, logits_processor=[processor], max_new_tokens=3), plain.sequences
        )


@LONE_ROWS
@pytest.mark.parametrize("make", [llava, more.qwen3_next], ids=["static cache", "recurrent states"])
def test_a_cache_that_does_not_come_apart_is_left_out(make: Callable[[], Family]) -> None:
    family = build(make)
    use: dict[str, Any] = {"cache_implementation": "static"}
    if make is not llava:
        use = {"twins": family.batch(0, 1)}
    gate = Gate(toward="text")
    with MutationLogitsProcessor(family.model, CONTRAST, detector=FIRES, gate=gate) as processor:
        out = family.generate(0, 1, logits_processor=[processor], return_dict_in_generate=True, **use)
        assert out.past_key_values is None
        assert torch.equal(out.sequences, family.generate(0, 1, logits_processor=[processor], **use))


def test_streamers_prefixes_and_rows_that_end(one: Family) -> None:
    class Heard(BaseStreamer):  # type: ignore[misc]
        def __init__(self) -> None:
            self.heard: list[Tensor] = []

        def put(self, value: Tensor) -> None:
            self.heard.append(value)

        def end(self) -> None:
            self.heard.append(torch.tensor([]))

    allowed = [list(range(3, 60)), list(range(40, 100))]
    gate = Gate(toward="text")
    with MutationLogitsProcessor(one.model, CONTRAST, detector=FIRES, gate=gate, trace=True) as processor:
        use: dict[str, Any] = {"logits_processor": [processor]}
        use["prefix_allowed_tokens_fn"] = lambda row, ids: allowed[row]
        free = one.answers(0, 1, **use)
        assert all(set(row.tolist()) <= set(tokens) for row, tokens in zip(free, allowed, strict=True))
        assert not torch.equal(
            free, one.answers(0, 1, prefix_allowed_tokens_fn=use["prefix_allowed_tokens_fn"])
        )
        streamer = Heard()
        end = int(free[0, 3])
        assert end not in free[1].tolist() or free[1].tolist().index(end) > 3
        ended = one.answers(0, 1, **use, eos_token_id=end, pad_token_id=0)
        assert torch.equal(ended[0, :4], free[0, :4])
        assert (ended[0, 4:] == 0).all()
        assert processor.trace is not None
        assert processor.trace.generated.sum(dim=1).tolist()[0] == 4
        alone = one.generate(0, logits_processor=[processor], streamer=streamer)
    assert torch.equal(torch.cat([part.reshape(-1) for part in streamer.heard]).long(), alone[0])


def test_law_6_and_1_the_next_generate_works_after_an_exception(one: Family) -> None:
    class Fails(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
            raise KeyError("in the middle of generate")

    plain = one.generate(0, 1)
    gate = Gate(toward="text")
    with MutationLogitsProcessor(one.model, CONTRAST, detector=FIRES, gate=gate) as processor:
        want = one.generate(0, 1, logits_processor=[processor])
        with pytest.raises(KeyError, match="in the middle"):
            one.generate(0, 1, logits_processor=[processor], stopping_criteria=[Fails()])
        assert ours_on(one.model) == []
        assert torch.equal(one.generate(0, 1), plain)
        assert torch.equal(one.generate(0, 1, logits_processor=[processor]), want)


def test_what_befalls_the_twins_alone_is_no_effect(one: Family) -> None:
    """A detector between the largest js of a row and that of its twin: nothing was found for anybody."""
    with torch.no_grad(), LogitLens(one.model) as lens:
        one.generate(0, max_new_tokens=1)
        found = {}
        for row in range(3):
            one.model(**with_twins(one.model, one.batch(row), check=False))
            found[row] = lens.take().js()[:, 4:7].amax(dim=1).tolist()
    row = max(found, key=lambda row: found[row][1] - found[row][0])
    read, twin = found[row]
    assert twin > read + 1e-3, "twins fire nowhere, so it was not tested"
    detector = Detector(threshold=(read + twin) / 2)
    processor = MutationLogitsProcessor(one.model, CONTRAST, detector=detector, gate=Gate(toward="text"))
    with processor, pytest.warns(UserWarning, match=f"never acted.*the largest js .* was {read:.3g} nats"):
        one.generate(row, logits_processor=[processor], max_new_tokens=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"do_sample": True},
            r"both have to take the same tokens, which only greedy .*; pass do_sample=False",
        ),
        ({"num_beams": 2}, r"only greedy decoding does; pass .*num_beams=1"),
        ({"num_beams": 2, "num_return_sequences": 2}, r"only greedy decoding does"),
        ({"past_key_values": DynamicCache()}, r"past_key_values begins without the second; leave past_key"),
        ({"attention_mask": None}, r"twins mask the image in attention_mask"),
    ],
)
@STRATEGIES
def test_law_9_what_twins_cannot_do(one: Family, strategy: Any, arguments: Any, message: str) -> None:
    made = []

    class Counts(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
            made.append(1)
            return torch.zeros(len(input_ids), dtype=torch.bool)

    inputs = {**one.batch(0, 1), "do_sample": False, **arguments, "stopping_criteria": [Counts()]}
    with MutationLogitsProcessor(one.model, strategy, detector=FIRES, gate=Gate(toward="text")) as processor:
        with pytest.raises(ValueError, match=message):
            one.model.generate(**inputs, logits_processor=[processor])
        assert not made
    with MutationLogitsProcessor(one.model, strategy, detector=FIRES, gate=Gate(changed=True)) as processor:
        with warnings.catch_warnings(action="ignore"):
            one.model.generate(**inputs, logits_processor=[processor], max_new_tokens=2)
        assert made, "without twins it can be done"


def test_law_9_text_alone_and_two_processors(one: Family, other: Family) -> None:
    gate = Gate(toward="text")
    with (
        MutationLogitsProcessor(other.model, CONTRAST, detector=FIRES, gate=gate) as processor,
        pytest.raises(ValueError, match=r"none of the image tokens \[\] of LlamaForCausalLM"),
    ):
        other.generate(0, logits_processor=[processor])
    with (
        MutationLogitsProcessor(one.model, CONTRAST, detector=FIRES, gate=gate) as processor,
        MutationLogitsProcessor(one.model, CONTRAST, detector=FIRES) as beside,
        pytest.raises(ValueError, match=r"puts twins beside the rows, .* use one of them at a time"),
    ):
        one.generate(0, logits_processor=[beside, processor])


def test_other_processors_see_twins_and_do_not_part_them(one: Family) -> None:
    class Noisy(LogitsProcessor):  # type: ignore[misc]
        """Says another thing of every row of the batch."""

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            seen.append(input_ids[:, -1])
            return scores.index_put(
                (torch.arange(len(scores)), 50 + torch.arange(len(scores))), torch.tensor(1e4)
            )

    seen: list[Tensor] = []
    with MutationLogitsProcessor(one.model, CONTRAST, detector=FIRES, gate=Gate(toward="text")) as processor:
        answers = one.answers(0, 1, logits_processor=[processor, Noisy()])
    assert answers.tolist() == [[50] * 10, [51] * 10]
    assert all(torch.equal(*last.chunk(2)) for last in seen)
