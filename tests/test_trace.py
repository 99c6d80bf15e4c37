import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from families import Family
from torch import Tensor

from mutation_decode import Contrast, LogitLens, MutationLogitsProcessor, Skip, Strategy, Trace
from mutation_decode.record import Recorder, Step

CONTRAST = Contrast(alpha=1.5, beta=0.02)


def traced(family: Family, *rows: int, **kwargs: Any) -> tuple[Tensor, Trace]:
    with MutationLogitsProcessor(family.model, CONTRAST, detector=family.detector, trace=True) as processor:
        answers = family.answers(*rows, logits_processor=[processor], **kwargs)
        assert processor.trace is not None
        return answers, processor.trace


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_it_holds_what_a_lens_reads_on_the_returned_tokens(family: Family, mode: dict[str, Any]) -> None:
    answers, trace = traced(family, 0, 1, **mode)
    assert torch.equal(trace.tokens, answers)
    assert trace.generated.all()
    each = mode.get("num_return_sequences", 1)
    rows = [row for row in (0, 1) for _ in range(each)]
    with torch.no_grad(), LogitLens(family.model) as lens:
        for i, row in enumerate(rows):
            for t in range(10):
                family.model(**family.batch(row, suffix=answers[i : i + 1, :t]))
                torch.testing.assert_close(trace.js[i, t], lens.take().js()[0], atol=2e-4, rtol=1e-3)
    found = family.detector(trace.js.flatten(0, 1))
    assert torch.equal(found.fired, trace.fired.flatten())
    assert torch.equal(found.mutated, trace.mutated.flatten(0, 1))
    assert torch.equal(found.pre_mutation, trace.pre_mutation.flatten())
    assert torch.equal(found.critical, trace.critical.flatten())
    assert torch.equal(trace.acted, trace.fired)
    assert trace.percent_fired == pytest.approx(100 * found.fired.float().mean().item())


def test_it_holds_what_the_detector_saw_and_says_which_divergence(one: Family) -> None:
    _, usual = traced(one, 0, 1)
    assert usual.divergence == "js"
    detector = replace(one.detector, divergence="kl", threshold=0.5)
    with MutationLogitsProcessor(one.model, CONTRAST, detector=detector, trace=True) as processor:
        answers = one.answers(0, 1, logits_processor=[processor])
        trace = processor.trace
    assert trace is not None
    assert trace.divergence == "kl"
    with torch.no_grad(), LogitLens(one.model) as lens:
        for t in range(10):
            one.model(**one.batch(0, suffix=answers[:1, :t]))
            change = lens.take().change(divergence="kl")[0]
            torch.testing.assert_close(trace.js[0, t], change, atol=2e-3, rtol=1e-3)
    found = detector(trace.js.flatten(0, 1))
    assert torch.equal(found.fired, trace.fired.flatten())
    assert 0 < trace.percent_fired < 100


@pytest.mark.filterwarnings("ignore:Contrast never acted")
@pytest.mark.parametrize("strategy", [CONTRAST, Skip(), Skip(layers=[1])], ids=["contrast", "skip", "fixed"])
def test_only_what_is_watched_is_read_and_the_rest_is_the_same(one: Family, strategy: Strategy) -> None:
    detector = replace(one.detector, critical=0.5)
    watched = detector.blocks(one.model.config.get_text_config().num_hidden_layers)
    found = {}
    for trace in (True, "watched"):
        with MutationLogitsProcessor(one.model, strategy, detector=detector, trace=trace) as processor:
            one.answers(0, 1, logits_processor=[processor])
            found[trace] = processor.trace
            read = processor._lens.readouts
    whole, part = found[True], found["watched"]
    assert len(read) <= len(watched) + 2
    for name in ("tokens", "generated", "skipped", "acted"):
        assert torch.equal(getattr(whole, name), getattr(part, name))
    assert part.js.shape == whole.js.shape
    if strategy == Skip(layers=[1]):
        assert part.js.isnan().all(), "its blocks are known beforehand, so nothing has to be watched"
    else:
        assert torch.equal(part.fired, whole.fired)
        torch.testing.assert_close(part.js[..., watched], whole.js[..., watched], atol=1e-5, rtol=1e-4)
        assert part.js[..., : watched.start].isnan().all()


def test_another_kind_of_trace_is_refused(one: Family) -> None:
    with pytest.raises(ValueError, match="trace is True, False, 'watched' or a Record, got 'all'"):
        MutationLogitsProcessor(one.model, CONTRAST, trace="all")  # type: ignore[arg-type]


def test_rows_end_with_their_end_token(one: Family) -> None:
    free, _ = traced(one, 0, 1, 2)
    end = int(free[0, 2])
    answers, trace = traced(one, 0, 1, 2, eos_token_id=end)
    for row in range(3):
        at = (free[row] == end).nonzero().flatten().tolist()
        length = at[0] + 1 if at else 10
        assert trace.generated[row].sum() == min(length, answers.shape[1])
        assert trace.generated[row, : trace.generated[row].sum()].all()
    assert trace.percent_fired == pytest.approx(100 * trace.fired[trace.generated].float().mean().item())


def test_beams_come_back_as_the_caller_asked(one: Family) -> None:
    plain = one.answers(0, 1, num_beams=3)
    assert isinstance(plain, Tensor)
    answers, _ = traced(one, 0, 1, num_beams=3)
    assert isinstance(answers, Tensor)
    with MutationLogitsProcessor(one.model, CONTRAST, detector=one.detector, trace=True) as processor:
        full = one.generate(0, 1, num_beams=3, logits_processor=[processor], return_dict_in_generate=True)
    assert full.beam_indices is not None
    assert torch.equal(full.sequences[:, -answers.shape[1] :], answers)


def step(value: float, rows: int = 2, blocks: int = 3) -> Step:
    yes = torch.full((rows,), value > 0)
    return Step(
        js=torch.full((rows, blocks), value),
        critical=torch.full((rows,), 1),
        pre_mutation=torch.full((rows,), 2),
        mutated=torch.full((rows, blocks), value > 0),
        skipped=torch.zeros(rows, blocks, dtype=torch.bool),
        fired=yes,
        acted=yes,
        moved=yes,
    )


def test_undone_steps_and_padding_after_a_stop_string_are_cut() -> None:
    recorder = Recorder()
    for t in range(4):
        recorder.add(step(float(t)), prompt=2 + t)
    # a prompt of two tokens; the fourth step was undone; row 1 was stopped by a string after one token
    sequences = torch.tensor([[1, 5, 7, 8, 9], [1, 5, 7, 0, 0]])
    trace = recorder.finish(sequences, end_tokens=torch.tensor([99]), pad_token=0)
    assert trace.tokens.tolist() == [[7, 8, 9], [7, 0, 0]]
    assert trace.generated.tolist() == [[True, True, True], [True, False, False]]
    assert trace.js[0, :, 0].tolist() == [0, 1, 2]
    assert trace.percent_fired == trace.percent_acted == 50


def test_nothing_generated_is_not_0_percent() -> None:
    recorder = Recorder()
    recorder.add(step(0.0), prompt=1)
    trace = recorder.finish(torch.tensor([[1, 0], [1, 0]]), end_tokens=torch.tensor([99]), pad_token=0)
    assert math.isnan(trace.percent_fired)


def test_it_holds_the_last_call_and_lies_on_the_cpu(one: Family) -> None:
    with MutationLogitsProcessor(one.model, CONTRAST, detector=one.detector, trace=True) as processor:
        assert processor.trace is None
        one.generate(0, 1, logits_processor=[processor])
        first = processor.trace
        one.generate(0, 1, 2, logits_processor=[processor], max_new_tokens=4)
        assert processor.trace is not None
        assert processor.trace is not first
        assert processor.trace.tokens.shape == (3, 4)
        assert processor.trace.js.shape == (3, 4, 8)
        assert processor.trace.js.device.type == "cpu"
