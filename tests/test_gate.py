"""Gates: which of the tokens that the detector finds are acted on, by what the model itself says there."""

import math
import warnings
from typing import Any

import pytest
import torch
from families import Family
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.stats import entropy
from torch import Tensor
from transformers import LogitsProcessor

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
    Trace,
)

CONTRAST = Contrast(alpha=1.5, beta=0.02)
STRATEGIES = pytest.mark.parametrize("strategy", [CONTRAST, Skip()], ids=["contrast", "skip"])
FULL = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
FIRES = Detector(threshold=0.0)
NEVER = Gate(max_prob=1e-6)
# A single row may well be kept out altogether; what the warning is for has its own tests.
LONE_ROWS = pytest.mark.filterwarnings("ignore:.* never acted")

# Three readouts of four rows: embeddings, before the mutation, the model's own.
SURE, TORN, FLAT = [0.97, 0.01, 0.01, 0.01], [0.45, 0.55, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]
BEFORE = [TORN, SURE, SURE, TORN]
FINAL = [SURE, SURE, TORN, FLAT]


def step(before: list[list[float]], final: list[list[float]]) -> tuple[Readout, Mutations]:
    """A forward of two blocks, in which the second one mutates every row."""
    logits = torch.tensor([[FLAT, b, f] for b, f in zip(before, final, strict=True)]).log()
    found = Detector(threshold=0.05, critical=1, include_last=True)(torch.tensor([[0.0, 0.3]] * len(final)))
    assert found.fired.all()
    return Readout(logits, (0, 1, 2), 2), found


@pytest.mark.parametrize(
    ("gate", "open_"),
    [
        (Gate(), [True, True, True, True]),
        (Gate(max_prob=0.9), [False, False, True, True]),
        (Gate(max_prob=0.5), [False, False, False, True]),
        (Gate(max_prob=0.2), [False, False, False, False]),
        (Gate(max_prob=1), [True, True, True, True]),
        # 0.168, 0.688 and ln 4 = 1.386 nats
        (Gate(min_entropy=0), [True, True, True, True]),
        (Gate(min_entropy=0.2), [False, False, True, True]),
        (Gate(min_entropy=0.7), [False, False, False, True]),
        (Gate(min_entropy=1.4), [False, False, False, False]),
        # from token 1 to 0, from 0 to 0, from 0 to 1, from 1 to 0 (the first of equals)
        (Gate(changed=True), [True, False, True, True]),
        (Gate(max_prob=0.9, changed=True), [False, False, True, True]),
        (Gate(max_prob=0.9, min_entropy=0.7, changed=True), [False, False, False, True]),
    ],
)
def test_hand_made_distributions(gate: Gate, open_: list[bool]) -> None:
    readout, found = step(BEFORE, FINAL)
    assert gate(readout, found).tolist() == open_


def test_the_pre_mutation_readout_is_each_rows_own() -> None:
    logits = torch.tensor([[SURE, TORN, SURE]] * 2).log()
    found = Detector(threshold=0.05, critical=0, include_last=True)(torch.tensor([[0.3, 0.0], [0.0, 0.3]]))
    assert found.pre_mutation.tolist() == [0, 1]
    assert Gate(changed=True)(Readout(logits, (0, 1, 2), 2), found).tolist() == [False, True]


finals = npst.arrays("float32", (4, 6), elements=st.floats(-40, 40, width=32)).map(torch.from_numpy)


@given(finals, st.floats(-20, 20, width=32), st.floats(0.01, 1), st.floats(0, 2))
def test_bounds_are_those_of_the_models_distribution_whatever_constant_is_added(
    final: Tensor, constant: float, max_prob: float, min_entropy: float
) -> None:
    probs = final.double().softmax(-1).numpy()
    _, found = step(BEFORE, FINAL)
    for shift in (0.0, constant):
        readout = Readout((final + shift)[:, None], (2,), 2)
        confident = Gate(max_prob=max_prob)(readout, found)
        torn = Gate(min_entropy=min_entropy)(readout, found)
        both = Gate(max_prob=max_prob, min_entropy=min_entropy)(readout, found)
        assert torch.equal(both, confident & torn)
        for row in range(4):
            # At the bound itself rounding decides.
            if abs(probs[row].max() - max_prob) > 1e-4:
                assert bool(confident[row]) == (probs[row].max() < max_prob)
            if abs(entropy(probs[row]) - min_entropy) > 1e-3:
                assert bool(torn[row]) == (entropy(probs[row]) > min_entropy)


def test_forbidden_tokens_and_half_precision_give_no_nan() -> None:
    logits = torch.tensor([[0.0, -math.inf, 0.0, -math.inf], [0.0, -math.inf, -math.inf, -math.inf]])
    _, found = step(BEFORE[:2], FINAL[:2])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        readout = Readout(logits[:, None].to(dtype), (2,), 2)
        assert Gate(min_entropy=0.69)(readout, found).tolist() == [True, False]  # ln 2 = 0.6931 and 0
        assert Gate(max_prob=0.51)(readout, found).tolist() == [True, False]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"max_prob": 0.0}, "max_prob is a probability above 0 and at most 1, got 0.0"),
        ({"max_prob": 1.5}, "got 1.5"),
        ({"max_prob": True}, "got True"),
        ({"max_prob": math.nan}, "got nan"),
        ({"min_entropy": -0.1}, "min_entropy is an entropy in nats, 0 or more, got -0.1"),
        ({"min_entropy": math.inf}, "got inf"),
        ({"changed": 1}, "changed is true or false, got 1"),
    ],
)
def test_knobs_out_of_range_are_named(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gate(**knobs)


# Inside generate.


def half_open(family: Family) -> Gate:
    """At the first token it is open for the prompt that the model is least certain of, and shut for two."""
    logits = family.generate(0, 1, 2, max_new_tokens=1, **FULL).logits[0]
    least, next_, _ = logits.float().softmax(-1).amax(-1).sort().values.tolist()
    assert next_ - least > 1e-3
    return Gate(max_prob=(least + next_) / 2)


def traced(family: Family, strategy: Any, gate: Gate, *rows: int) -> tuple[Tensor, Trace]:
    """Answers and their trace."""
    use = {"detector": FIRES, "gate": gate, "trace": True}
    with MutationLogitsProcessor(family.model, strategy, **use) as processor:
        answers = family.answers(*rows, logits_processor=[processor])
    assert processor.trace is not None
    return answers, processor.trace


@STRATEGIES
def test_law_2_a_gate_that_is_never_open_gives_plain_tokens(family: Family, strategy: Any) -> None:
    plain = family.generate(0, 1, 2, **FULL)
    decoder = MutationDecoder(family.model, strategy, detector=FIRES, gate=NEVER, exact=True)
    with decoder, warnings.catch_warnings(action="ignore"):
        out = decoder.generate(**family.batch(0, 1, 2), max_new_tokens=10, do_sample=False, **FULL)
    assert torch.equal(out.sequences, plain.sequences)
    assert all(
        torch.equal(a, b) for a, b in zip(out.scores + out.logits, plain.scores + plain.logits, strict=True)
    )


@LONE_ROWS
@STRATEGIES
def test_law_3_a_row_decodes_the_same_alone_in_a_batch_and_permuted(family: Family, strategy: Any) -> None:
    gate = half_open(family)
    answers, trace = traced(family, strategy, gate, 0, 1, 2)
    assert trace.fired[:, 0].sum() == 1, "the gate is neither always shut nor always open"
    assert trace.acted.any()
    for rows in ((0,), (1,), (2,), (2, 0, 1)):
        others, again = traced(family, strategy, gate, *rows)
        assert torch.equal(others, answers[list(rows)])
        assert torch.equal(again.fired, trace.fired[list(rows)])


@pytest.mark.parametrize("gate", ["certain", "changed"])
def test_what_is_kept_out_fires_nowhere_in_the_trace(one: Family, gate: str) -> None:
    used = half_open(one) if gate == "certain" else Gate(changed=True)
    with MutationLogitsProcessor(one.model, CONTRAST, detector=FIRES, gate=used, trace=True) as processor:
        out = one.generate(0, 1, 2, logits_processor=[processor], **FULL)
    trace = processor.trace
    assert trace is not None
    found = FIRES(trace.js.flatten(0, 1))
    lets_in = trace.fired.flatten()
    assert bool((lets_in <= found.fired).all())
    assert 0 < int(lets_in.sum()) < int(found.fired.sum())
    assert torch.equal(trace.mutated.flatten(0, 1), found.only(lets_in).mutated)
    assert torch.equal(trace.pre_mutation.flatten(), found.only(lets_in).pre_mutation)
    assert torch.equal(trace.acted, trace.fired)
    if gate == "certain":
        open_ = torch.stack(out.logits, dim=1).float().softmax(-1).amax(-1) < used.max_prob
    else:
        open_ = torch.zeros_like(trace.fired)
        with torch.no_grad(), LogitLens(one.model) as lens:
            for t in range(10):
                one.model(**one.batch(0, 1, 2, suffix=trace.tokens[:, :t]))
                readout = lens.take()
                before = found.pre_mutation.reshape(3, 10)[:, t]
                open_[:, t] = readout.logits_at(before).argmax(-1) != readout.logits_at(8).argmax(-1)
    assert torch.equal(lets_in.reshape(3, 10), found.fired.reshape(3, 10) & open_)


@pytest.mark.parametrize("strategy", [Skip(), Skip(layers=[6], gated=True), Skip.to_last()])
def test_a_skip_leaves_out_only_where_the_gate_is_open(one: Family, strategy: Skip) -> None:
    trace = traced(one, strategy, half_open(one), 0, 1, 2)[1]
    found = FIRES(trace.js.flatten(0, 1)).fired.reshape(3, 10)
    assert torch.equal(trace.skipped.any(-1), trace.acted)
    assert trace.acted.any()
    assert bool((trace.acted <= trace.fired).all())
    assert bool((trace.fired <= found).all())


def test_it_looks_at_the_model_and_not_at_what_other_processors_made_of_it(one: Family) -> None:
    class Sharpens(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            return 50 * scores

    gate = half_open(one)
    with MutationLogitsProcessor(one.model, CONTRAST, detector=FIRES, gate=gate, trace=True) as processor:
        one.generate(0, 1, 2, logits_processor=[processor], max_new_tokens=1)
        alone = processor.trace
        one.generate(0, 1, 2, logits_processor=[Sharpens(), processor], max_new_tokens=1)
    assert alone is not None
    assert processor.trace is not None
    assert alone.fired.any()
    assert torch.equal(processor.trace.fired, alone.fired)


@LONE_ROWS
def test_beams(one: Family) -> None:
    use: dict[str, Any] = {"num_beams": 3}
    plain = one.answers(0, 1, **use)
    with MutationLogitsProcessor(one.model, CONTRAST, detector=FIRES, gate=half_open(one)) as processor:
        use["logits_processor"] = [processor]
        together = one.answers(0, 1, **use)
        assert not torch.equal(together, plain)
        assert torch.equal(one.answers(1, **use)[0], together[1])


@STRATEGIES
def test_law_10_a_gate_that_was_always_shut_says_so_once(one: Family, strategy: Any) -> None:
    with MutationLogitsProcessor(one.model, strategy, detector=FIRES, gate=NEVER) as processor:
        with pytest.warns(
            UserWarning, match=r"never acted.*the detector fired, but its gate was shut each time.*Gate\("
        ):
            one.generate(0, 1, 2, logits_processor=[processor])
        one.generate(0, logits_processor=[processor])  # a second warning would be an error here
    never = Detector(threshold=0.6931, include_last=True)
    with (
        MutationLogitsProcessor(one.model, strategy, detector=never, gate=NEVER) as processor,
        pytest.warns(UserWarning, match=r"never acted.*the largest js in blocks 4..7 was 0\.\d+ nats"),
    ):
        one.generate(0, logits_processor=[processor])


def test_a_gate_that_asks_nothing_is_no_gate(one: Family) -> None:
    answers = []
    for gate in (None, Gate()):
        with MutationLogitsProcessor(one.model, CONTRAST, detector=FIRES, gate=gate) as processor:
            answers.append(one.generate(0, 1, logits_processor=[processor], **FULL))
    assert all(torch.equal(a, b) for a, b in zip(answers[0].scores, answers[1].scores, strict=True))


@pytest.mark.parametrize("strategy", [Contrast(layer=3, always=True), Skip(layers=[3])])
def test_a_gate_for_what_acts_everywhere_is_refused(one: Family, strategy: Any) -> None:
    with pytest.raises(ValueError, match=r"a gate chooses among the tokens at which the detector fires, and"):
        MutationLogitsProcessor(one.model, strategy, gate=Gate(max_prob=0.9))
    MutationLogitsProcessor(one.model, strategy, gate=Gate()).close()
