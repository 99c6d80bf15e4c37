"""Skip as a strategy: which blocks it names, what it refuses, and what a generate call with it is."""

import math
import threading
import warnings
from typing import Any

import pytest
import torch
from families import Family, ours_on
from torch import Tensor
from transformers import StoppingCriteria

from mutation_decode import Contrast, Detector, MutationDecoder, MutationLogitsProcessor, Readout, Skip

FULL = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
NEVER = Detector(threshold=0.6931, include_last=True)
ALWAYS = Detector(threshold=0.0, critical=0, include_last=True)
SETS = (Skip(layers=[3]), Skip(layers=[3], gated=True), Skip(layers=[3], prompt=True))


def found(strategy: Skip, js: list[list[float]], detector: Detector) -> list[list[int]]:
    """The blocks that a strategy names for rows of these js."""
    mutations = detector(torch.tensor(js))
    readout = Readout(torch.zeros(len(js), 1, 5), (len(js[0]),), len(js[0]))
    skips = strategy.skips(readout, mutations)
    assert skips.dtype == torch.bool
    return [row.nonzero().flatten().tolist() for row in skips]


CALM, LATE = [0.5] * 18 + [0.0] * 14, [0.5] * 18 + [0, 0, 0.2, 0, 0, 0.3, 0, 0, 0, 0, 0, 0.1, 0, 0.6]


@pytest.mark.parametrize(
    ("strategy", "late"),
    [
        (Skip(), [20, 23, 29]),
        (Skip.mutations(), [20, 23, 29]),
        (Skip.stable(), [18, 19]),
        (Skip.to_last(), list(range(18, 27))),
        (Skip.to_last(keep=2), list(range(18, 30))),
        (Skip(layers=[3, 31, 3], gated=True), [3, 31]),
    ],
)
def test_the_papers_sets_on_32_blocks(strategy: Skip, late: list[int]) -> None:
    assert found(strategy, [CALM, LATE], Detector()) == [[], late]


def test_with_the_papers_recipe_the_mutation_is_the_largest_js_of_blocks_18_to_30() -> None:
    assert found(Skip.mutations(), [LATE], Detector.paper()) == [[23]]
    assert found(Skip.stable(), [LATE], Detector.paper()) == [[18, 19, 20, 21, 22]]
    assert found(Skip.to_last(), [LATE], Detector.paper()) == [list(range(18, 27))]


def test_a_set_of_your_own_is_left_out_at_every_token() -> None:
    assert Skip(layers=[2]).always
    assert not Skip(layers=[2], gated=True).always
    assert not Skip().always
    assert found(Skip(layers=[31, 2]), [CALM, LATE], Detector()) == [[2, 31], [2, 31]]


def test_a_row_that_does_not_settle_is_left_alone() -> None:
    wild = [0.5] * 32
    for strategy in (Skip(), Skip.stable(), Skip.to_last()):
        assert found(strategy, [wild], Detector(critical=None)) == [[]]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"which": "all"}, "which is one of mutations, stable, to_last, got 'all'"),
        ({"layers": []}, r"layers are blocks, whole numbers from 0 on, got \[\]"),
        ({"layers": [1, -1]}, "whole numbers from 0 on"),
        ({"layers": [1.0]}, "whole numbers from 0 on"),
        ({"layers": [True]}, "whole numbers from 0 on"),
        ({"which": "to_last", "keep": 0}, "keep is a number of blocks, at least 1"),
        ({"keep": 2}, "keep says what which='to_last' leaves"),
        ({"layers": 5}, "whole numbers from 0 on, got 5"),
        ({"layers": [1], "which": "stable"}, "beside which which='stable' means nothing"),
        ({"gated": True}, "name it with layers="),
        ({"prompt": True}, "name it with layers="),
        ({"layers": [1], "gated": True, "prompt": True}, "choose one"),
    ],
)
def test_knobs_out_of_range(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Skip(**knobs)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (Skip(layers=[2, 8]), r"layers=\[2, 8\]: a model of 8 blocks has blocks 0..7"),
        (Skip(layers=range(8)), "names all 8 blocks, which leaves nothing that answers"),
        (Skip(layers=range(8), prompt=True), "names all 8 blocks"),
        (Skip.to_last(keep=8), "keeps all blocks of a model of 8"),
    ],
)
def test_knobs_that_do_not_fit_the_model(one: Family, strategy: Skip, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MutationLogitsProcessor(one.model, strategy)


def test_the_stable_phase_of_a_model_is_found_from_its_js() -> None:
    js = torch.tensor([CALM] * 8 + [LATE] * 2)
    assert Detector().stable(js) == (18, 19)
    assert Detector().stable(js, share=0.8) == tuple(range(18, 31))
    assert Detector(critical=None).stable(js, share=0.8) == tuple(range(18, 31))
    for wrong in ({"share": 0.0}, {"share": 1.5}):
        with pytest.raises(ValueError, match="a share in"):
            Detector().stable(js, **wrong)
    with pytest.raises(ValueError, match=r"got js \(0, 32\)"):
        Detector().stable(js[:0])


# Inside generate.


def count_blocks(model: Any) -> dict[str, int]:
    """How often the decoder's blocks run from now on, by any way."""
    counts = {"runs": 0}
    layers = model.model.language_model.layers

    def counting(plain: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            counts["runs"] += 1
            return plain(*args, **kwargs)

        return forward

    for layer in layers:
        layer.forward = counting(layer.forward)
    return counts


@pytest.fixture
def counted(one: Family) -> Any:
    counts = count_blocks(one.model)
    yield counts
    for layer in one.model.model.language_model.layers:
        del layer.forward


def test_a_token_at_which_nothing_fires_costs_no_second_run(one: Family, counted: dict[str, int]) -> None:
    with MutationLogitsProcessor(one.model, Skip(), detector=NEVER) as processor:
        counted["runs"] = 0
        with pytest.warns(UserWarning, match="Skip never acted"):
            one.generate(0, 1, logits_processor=[processor])
    assert counted["runs"] == 10 * 8


def test_only_the_blocks_above_the_first_one_left_out_run_again(one: Family, counted: dict[str, int]) -> None:
    with MutationLogitsProcessor(one.model, Skip(layers=[5, 6], gated=True), detector=ALWAYS) as processor:
        one.generate(
            0, logits_processor=[processor]
        )  # the first prompt and token are run once more, to compare
        counted["runs"] = 0
        one.generate(0, logits_processor=[processor])
    assert counted["runs"] == 10 * (8 + 2)


def test_a_set_that_is_known_beforehand_needs_no_second_run(one: Family, counted: dict[str, int]) -> None:
    with MutationLogitsProcessor(one.model, Skip(layers=[5, 6])) as processor:
        counted["runs"] = 0
        one.generate(0, logits_processor=[processor])
    assert counted["runs"] == 10 * 8


def test_blocks_left_out_of_the_prompt_too_do_not_run(one: Family, counted: dict[str, int]) -> None:
    with MutationLogitsProcessor(one.model, Skip(layers=[2, 5, 6], prompt=True)) as processor:
        counted["runs"] = 0
        one.generate(0, logits_processor=[processor])
        assert counted["runs"] == 10 * 5
        counted["runs"] = 0
        one.generate(0)
        assert counted["runs"] == 10 * 8, "a call that does not use the processor runs all blocks"


def test_trace_says_what_was_left_out_where_and_nothing_where_it_was_not(one: Family) -> None:
    with MutationLogitsProcessor(one.model, Skip(), detector=one.detector, trace=True) as processor:
        one.generate(0, 1, 2, logits_processor=[processor])
    trace = processor.trace
    assert trace is not None
    assert torch.equal(trace.skipped, trace.mutated)
    assert torch.equal(trace.acted, trace.skipped.any(-1))
    assert 0 < trace.percent_acted < 100
    with MutationLogitsProcessor(one.model, Contrast(), detector=one.detector, trace=True) as processor:
        one.generate(0, 1, 2, logits_processor=[processor])
    assert processor.trace is not None
    assert not processor.trace.skipped.any()


def test_a_strategy_of_the_users_own(one: Family) -> None:
    class LastOfTheFirstRow:
        """Leaves the last block out, in the first row."""

        always = True

        def readouts(self, depth: int) -> tuple[int, ...]:
            return ()

        def skips(self, readout: Readout, mutations: Any) -> Tensor:
            skips = torch.zeros(readout.logits.shape[0], readout.depth, dtype=torch.bool)
            skips[0, -1] = True
            return skips

    plain = one.generate(0, 1, **FULL)
    with MutationLogitsProcessor(one.model, LastOfTheFirstRow(), detector=None) as processor:
        skipped = one.generate(0, 1, logits_processor=[processor], **FULL)
    assert torch.equal(skipped.sequences[1], plain.sequences[1])
    assert not torch.isclose(skipped.logits[0][0], plain.logits[0][0]).any()

    class Wrong(LastOfTheFirstRow):
        def skips(self, readout: Readout, mutations: Any) -> Tensor:
            return torch.zeros(2, 3)

    with (
        MutationLogitsProcessor(one.model, Wrong(), detector=None) as processor,
        pytest.raises(RuntimeError, match=r"Wrong.skips gave \(2, 3\) of torch.float32; expected a bool"),
    ):
        one.generate(0, 1, logits_processor=[processor])


def test_finished_rows_are_left_alone(one: Family) -> None:
    strategy = Skip(layers=[6], gated=True)
    with MutationLogitsProcessor(one.model, strategy, detector=ALWAYS, trace=True) as processor:
        answers = one.answers(0, 1, logits_processor=[processor])
        end = int(answers[0, 2])
        assert end not in answers[1, :2].tolist()
        out = one.answers(0, 1, logits_processor=[processor], eos_token_id=end)
        trace = processor.trace
        assert trace is not None
        assert torch.equal(trace.skipped.any(-1), trace.generated)
        assert len(out[1]) > 3, "the other row goes on"


def test_a_wish_for_no_end_is_heard(one: Family) -> None:
    """eos_token_id=None: no row ends, whatever the model's configuration says."""
    strategy = Skip(layers=[6], gated=True)
    with MutationLogitsProcessor(one.model, strategy, detector=ALWAYS, trace=True) as processor:
        want = one.answers(0, 1, logits_processor=[processor])
        one.model.generation_config.eos_token_id = int(want[0, 3])
        try:
            found = one.answers(0, 1, logits_processor=[processor], eos_token_id=None)
        finally:
            one.model.generation_config.eos_token_id = None
    assert torch.equal(found, want)
    assert processor.trace is not None
    assert processor.trace.skipped.any(-1).all()
    assert processor.trace.generated.all()


def test_a_row_that_says_the_padding_token_goes_on(one: Family) -> None:
    strategy = Skip(layers=[6], gated=True)
    with MutationLogitsProcessor(one.model, strategy, detector=ALWAYS, trace=True) as processor:
        want = one.answers(0, logits_processor=[processor])
        found = one.answers(0, logits_processor=[processor], pad_token_id=int(want[0, 2]), eos_token_id=116)
    assert torch.equal(found, want)


def test_the_scores_that_other_processors_see_come_of_the_shortened_forward(one: Family) -> None:
    """A repetition penalty and a temperature work on them, and generate hands them out as its logits."""
    with MutationLogitsProcessor(one.model, Skip(layers=[6, 7])) as processor:
        torch.manual_seed(0)
        sampled = {"do_sample": True, "top_k": 0}
        out = one.generate(
            0, logits_processor=[processor], repetition_penalty=1.3, temperature=2.0, **sampled, **FULL
        )
    banned = one.model.generation_config.suppress_tokens
    for logits, scores in zip(out.logits, out.scores, strict=True):
        seen = (scores - logits / 2).abs() > 1e-4
        seen[:, banned] = False
        assert (scores[:, banned] == -math.inf).all()
        assert 0 < seen.sum() < 20, "only tokens that were said before are lowered"


def test_law_1_a_call_that_does_not_use_it_is_untouched(one: Family) -> None:
    plain = one.generate(0, 1, **FULL)
    for strategy in SETS:
        with MutationLogitsProcessor(one.model, strategy, detector=ALWAYS) as processor:
            changed = one.generate(0, 1, logits_processor=[processor], **FULL)
            beside = one.generate(0, 1, **FULL)
        assert not torch.isclose(changed.logits[0], plain.logits[0]).all()
        for out in (beside, one.generate(0, 1, **FULL)):
            assert all(torch.equal(a, b) for a, b in zip(out.logits, plain.logits, strict=True))
    assert not any("forward" in module.__dict__ for module in one.model.modules())


@pytest.mark.parametrize("strategy", SETS)
def test_a_threads_own_generate_is_untouched_while_blocks_are_left_out(one: Family, strategy: Skip) -> None:
    plain = one.generate(0, 1, **FULL)
    seen: list[Any] = []

    class Elsewhere(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
            thread = threading.Thread(target=lambda: seen.append(one.generate(0, 1, **FULL)))
            thread.start()
            thread.join()
            return torch.zeros(len(input_ids), dtype=torch.bool)

    with MutationLogitsProcessor(one.model, strategy, detector=ALWAYS) as processor:
        one.generate(1, logits_processor=[processor])  # the lens reads one more row in its first forward
        alone = one.generate(1, logits_processor=[processor], **FULL)
        watched = one.generate(1, logits_processor=[processor], stopping_criteria=[Elsewhere()], **FULL)
    assert all(torch.equal(a, b) for a, b in zip(watched.logits, alone.logits, strict=True))
    assert len(seen) == 10
    assert all(torch.equal(a, b) for out in seen for a, b in zip(out.logits, plain.logits, strict=True))


@pytest.mark.parametrize("exact", [False, True])
def test_law_2_a_detector_that_never_fires_gives_plain_tokens(family: Family, exact: bool) -> None:
    plain = family.generate(0, 1, 2, **FULL)
    decoder = MutationDecoder(family.model, Skip(), detector=NEVER, exact=exact)
    with decoder, warnings.catch_warnings(action="ignore"):
        out = decoder.generate(**family.batch(0, 1, 2), max_new_tokens=10, do_sample=False, **FULL)
    assert torch.equal(out.sequences, plain.sequences)
    if exact:
        assert all(torch.equal(a, b) for a, b in zip(out.logits, plain.logits, strict=True))


@pytest.mark.filterwarnings("ignore:Skip never acted")
@pytest.mark.parametrize("mode", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_law_3_a_row_decodes_the_same_alone_in_a_batch_and_permuted(family: Family, mode: Any) -> None:
    def said(*rows: int, **use: Any) -> tuple[Tensor, Tensor]:
        """The answers, and what the model thought of them."""
        out = family.generate(*rows, **mode, **FULL, **use)
        sure = out.sequences_scores if mode else torch.stack(out.logits, dim=1).amax(dim=-1)
        return out.sequences[:, -10:], sure

    plain, sure = said(0, 1, 2)
    strategy = Skip(layers=[1, 2, 4, 5], gated=True)
    with MutationLogitsProcessor(family.model, strategy, detector=family.detector) as processor:
        answers, scores = said(0, 1, 2, logits_processor=[processor])
        moved = not torch.equal(answers, plain) or not torch.allclose(scores, sure, rtol=1e-2)
        assert moved, "the method did nothing, so the law was not tested"
        for rows in ([0], [1], [2], [2, 0, 1]):
            tokens, same = said(*rows, logits_processor=[processor])
            assert torch.equal(tokens, answers[rows])
            torch.testing.assert_close(same, scores[rows], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strategy", SETS)
def test_two_threads_skip_on_one_model_and_leave_it_as_it_was(one: Family, strategy: Skip) -> None:
    """They meet in the middle of a forward: each begins one, and waits there for the other."""
    prompts, meet, found = (0, 2), threading.Barrier(2, timeout=60), {}
    processors = [MutationLogitsProcessor(one.model, strategy, detector=ALWAYS) for _ in prompts]
    want = [one.answers(row, logits_processor=[p]) for row, p in zip(prompts, processors, strict=True)]
    plain = one.answers(0)

    def wait(*_: Any) -> None:
        meet.wait()

    hook = one.model.lm_head.register_forward_pre_hook(wait)

    def use(row: int, processor: Any) -> None:
        found[row] = one.answers(row, logits_processor=[processor])

    threads = [threading.Thread(target=use, args=pair) for pair in zip(prompts, processors, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hook.remove()
    for processor in processors:
        processor.close()
    assert all(torch.equal(found[row], answer) for row, answer in zip(prompts, want, strict=True))
    assert torch.equal(one.answers(0), plain)
    assert not any("forward" in module.__dict__ for module in one.model.modules())


def test_law_6_the_next_generate_works_after_an_exception_in_a_second_run(one: Family) -> None:
    plain = one.generate(0, 1, **FULL)
    block = one.model.model.language_model.layers[7]
    with MutationLogitsProcessor(one.model, Skip(layers=[6], gated=True), detector=ALWAYS) as processor:
        want = one.generate(0, 1, logits_processor=[processor], **FULL)
        calls = {"n": 0}

        def breaks(*args: Any, **kwargs: Any) -> Any:
            calls["n"] += 1
            if calls["n"] == 6:
                raise KeyError("in the second run")
            return type(block).forward(block, *args, **kwargs)

        block.forward = breaks
        with pytest.raises(KeyError, match="in the second run"):
            one.generate(0, 1, logits_processor=[processor])
        del block.forward
        assert ours_on(one.model) == []
        for out, first in (
            (one.generate(0, 1, **FULL), plain),
            (one.generate(0, 1, logits_processor=[processor], **FULL), want),
        ):
            assert all(torch.equal(a, b) for a, b in zip(out.logits, first.logits, strict=True))


def test_law_10_sets_that_are_all_empty_are_told(one: Family) -> None:
    detector = Detector(threshold=0.0, critical=4)  # every block mutates, the one at the critical readout too
    with (
        MutationLogitsProcessor(one.model, Skip.stable(), detector=detector) as processor,
        pytest.warns(
            UserWarning, match=r"never acted.*the detector fired, but left nothing to skip.*Begin earlier"
        ),
    ):
        one.generate(0, logits_processor=[processor])
