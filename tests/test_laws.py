"""The laws of design.md inside real generate calls, over several model families."""

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import Family, ours_on
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from mutation_decode import Contrast, Detector, MutationDecoder, MutationLogitsProcessor

# A single row of a batch may well not fire; what the warning is for has its own tests.
LONE_ROWS = pytest.mark.filterwarnings("ignore:Contrast never acted")
CONTRAST = Contrast(alpha=1.5, beta=0.02)
NEVER = Detector(threshold=0.6931, include_last=True)
SAMPLE = {"do_sample": True, "top_k": 0, "temperature": 1.3}
BEAMS = {"num_beams": 3}
FULL = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
MODES = pytest.mark.parametrize("mode", [{}, SAMPLE, BEAMS], ids=["greedy", "sampling", "beams"])


class Every(StoppingCriteria):  # type: ignore[misc]
    """Does something after every token, and never stops."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.action = action

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.action()
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Fails(LogitsProcessor):  # type: ignore[misc]
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        raise KeyError("in the middle of generate")


def same(a: Any, b: Any) -> bool:
    """Two full outputs of generate, to the bit."""
    steps = zip(a.scores + a.logits, b.scores + b.logits, strict=True)
    return torch.equal(a.sequences, b.sequences) and all(torch.equal(x, y) for x, y in steps)


@MODES
def test_law_1_calls_without_the_processor_are_those_of_the_untouched_model(
    family: Family, mode: Any
) -> None:
    def plain() -> Any:
        torch.manual_seed(7)
        return family.generate(0, 1, **mode, **FULL)

    before = plain()
    torch.manual_seed(7)
    with MutationLogitsProcessor(family.model, CONTRAST, detector=family.detector) as processor:
        # building it took nothing from the random state
        assert same(family.generate(0, 1, **mode, **FULL), before)
        changed = family.generate(0, 1, logits_processor=[processor], **mode, **FULL)
        assert not same(changed, before), "the method did nothing, so the law was not tested"
        assert ours_on(family.model) == []
        assert same(plain(), before)
        # another call inside one that uses the processor
        inside: list[Any] = []
        state = torch.get_rng_state()
        family.generate(
            1, logits_processor=[processor], stopping_criteria=[Every(lambda: inside.append(plain()))]
        )
        torch.set_rng_state(state)
        assert len(inside) == 10
        assert all(same(each, before) for each in inside)
    assert same(plain(), before)
    assert "generate" not in family.model.__dict__


def test_law_1_holds_in_another_thread_while_the_processor_is_at_work(one: Family) -> None:
    before = one.generate(0, 1, **FULL)
    with MutationLogitsProcessor(one.model, CONTRAST, detector=one.detector) as processor:
        alone = one.generate(1, logits_processor=[processor], **FULL)
        seen: list[Any] = []

        def elsewhere() -> None:
            thread = threading.Thread(target=lambda: seen.append(one.generate(0, 1, **FULL)))
            thread.start()
            thread.join()

        watched = one.generate(1, logits_processor=[processor], stopping_criteria=[Every(elsewhere)], **FULL)
    assert same(watched, alone)
    assert len(seen) == 10
    assert all(same(each, before) for each in seen)


@MODES
@pytest.mark.parametrize("rows", [(0,), (0, 1, 2)], ids=["alone", "batch"])
def test_law_2_what_does_nothing_gives_plain_tokens(family: Family, rows: tuple[int, ...], mode: Any) -> None:
    torch.manual_seed(7)
    plain = family.generate(*rows, **mode, **FULL)
    nothing = [(Contrast(alpha=0), family.detector), (CONTRAST, NEVER)]
    for strategy, detector in nothing:
        for exact in (False, True):
            torch.manual_seed(7)
            decoder = MutationDecoder(family.model, strategy, detector=detector, exact=exact)
            with decoder, warnings.catch_warnings(action="ignore"):
                out = decoder.generate(
                    **family.batch(*rows), **{"max_new_tokens": 10, "do_sample": False, **mode, **FULL}
                )
            assert torch.equal(out.sequences, plain.sequences)
            if exact:
                assert same(out, plain)


def test_law_2_rows_that_did_not_fire_are_untouched_to_the_bit(one: Family) -> None:
    with MutationLogitsProcessor(one.model, CONTRAST, detector=one.detector, trace=True) as processor:
        out = one.generate(0, 1, 2, logits_processor=[processor], **FULL)
    assert processor.trace is not None
    fired = processor.trace.fired
    assert fired.any()
    assert not fired.all()
    suppressed = one.model.generation_config.suppress_tokens
    for t, (scores, logits) in enumerate(zip(out.scores, out.logits, strict=True)):
        untouched = logits.clone()
        untouched[:, suppressed] = -torch.inf
        assert torch.equal(scores[~fired[:, t]], untouched[~fired[:, t]])
        assert not torch.isclose(scores[fired[:, t]], untouched[fired[:, t]]).all(dim=1).any()


@LONE_ROWS
@pytest.mark.parametrize("mode", [{}, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("exact", [False, True])
def test_law_3_a_row_decodes_the_same_alone_in_a_batch_and_permuted(
    family: Family, mode: Any, exact: bool
) -> None:
    plain = family.answers(0, 1, 2, **mode)
    with MutationLogitsProcessor(family.model, CONTRAST, detector=family.detector, exact=exact) as processor:
        use = {"logits_processor": [processor], **mode}
        together = family.answers(0, 1, 2, **use)
        assert not torch.equal(together, plain), "the method did nothing, so the law was not tested"
        for row in range(3):
            assert torch.equal(family.answers(row, **use)[0], together[row])
        assert torch.equal(family.answers(2, 0, 1, **use), together[[2, 0, 1]])
        assert torch.equal(family.answers(1, 1, **use), together[[1, 1]])


@LONE_ROWS
@pytest.mark.parametrize("mode", [{}, BEAMS], ids=["greedy", "beams"])
def test_law_3_beside_finished_rows(family: Family, mode: Any) -> None:
    with MutationLogitsProcessor(family.model, CONTRAST, detector=family.detector) as processor:
        use = {"logits_processor": [processor], "early_stopping": bool(mode), "length_penalty": -1.0, **mode}
        for end in family.answers(0, 1, 2, **use)[:, 1:6].flatten().unique().tolist():
            alone = [family.answers(row, eos_token_id=end, **use)[0] for row in range(3)]
            if min(map(len, alone)) < 10 and len({len(a) for a in alone}) > 1:
                break
        else:
            raise AssertionError("no row finished before another")
        together = family.answers(0, 1, 2, eos_token_id=end, **use)
    for row, answer in enumerate(alone):
        assert torch.equal(together[row, : len(answer)], answer)
        # beam search fills with the end token where the padding token is 0
        assert torch.isin(together[row, len(answer) :], torch.tensor([0, end])).all()


@LONE_ROWS
def test_law_3_under_sampling_the_scores_on_given_prefixes(family: Family) -> None:
    with MutationLogitsProcessor(family.model, CONTRAST, detector=family.detector) as processor:
        use = {"logits_processor": [processor], "max_new_tokens": 1, **SAMPLE, **FULL}
        torch.manual_seed(3)
        answers = family.answers(0, 1, 2, logits_processor=[processor], **SAMPLE)
        changed = 0
        for t in range(1, 6):
            prefix = answers[:, :t]
            batch = family.batch(0, 1, 2, suffix=prefix)
            together = family.model.generate(**batch, **use)
            changed += int((together.scores[0] != together.logits[0] / 1.3).all(dim=1).sum())
            for row in range(3):
                single = family.model.generate(**family.batch(row, suffix=prefix[row : row + 1]), **use)
                torch.testing.assert_close(single.scores[0][0], together.scores[0][row], atol=1e-3, rtol=1e-4)
    assert changed >= 3, "the method did nothing, so the law was not tested"


@pytest.mark.parametrize("breaks", ["processor", "criterion", "strategy"])
def test_law_6_the_next_generate_works_after_an_exception(family: Family, breaks: str) -> None:
    plain = family.generate(0, 1, **FULL)
    calls = {"n": 0}

    def fail_at_third() -> None:
        calls["n"] += 1
        if calls["n"] == 3:
            raise KeyError("in the middle of generate")

    class Breaks:
        always = True

        def readouts(self, depth: int) -> tuple[int, ...]:
            return (1,)

        def __call__(self, readout: Any, mutations: Any, scores: Tensor) -> Tensor:
            fail_at_third()
            return scores

    strategy: Any = Breaks() if breaks == "strategy" else CONTRAST
    with MutationLogitsProcessor(family.model, strategy, detector=family.detector) as processor:
        want = None if breaks == "strategy" else family.generate(0, 1, logits_processor=[processor], **FULL)
        extra: dict[str, Any] = {"logits_processor": [processor]}
        if breaks == "processor":
            extra["logits_processor"] = [processor, Fails()]
        if breaks == "criterion":
            extra["stopping_criteria"] = [Every(fail_at_third)]
        with pytest.raises(KeyError, match="in the middle"):
            family.generate(0, 1, **extra)
        assert ours_on(family.model) == []
        assert same(family.generate(0, 1, **FULL), plain)
        again = family.generate(0, 1, logits_processor=[processor], **FULL)
        if want is None:  # that strategy hands the scores on as they are
            assert torch.equal(again.sequences, plain.sequences)
        else:
            assert same(again, want)


@MODES
def test_law_7_inputs_are_kept_and_forbidden_tokens_stay_forbidden(family: Family, mode: Any) -> None:
    inputs = family.batch(0, 1)
    kept = {name: value.clone() for name, value in inputs.items()}
    banned = family.answers(0, **mode)[0, :3].tolist()
    handed: list[tuple[Tensor, Tensor]] = []

    class Keeps(LogitsProcessor):  # type: ignore[misc]
        """Bans tokens, and remembers what it hands on."""

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            scores = scores.index_fill(1, torch.tensor(banned), -torch.inf)
            handed.append((scores, scores.clone()))
            return scores

    detector = Detector(threshold=0.0)
    with MutationLogitsProcessor(family.model, CONTRAST, detector=detector) as processor:
        out = family.model.generate(
            **inputs, **{"max_new_tokens": 6, **mode, **FULL}, logits_processor=[Keeps(), processor]
        )
    assert all(torch.equal(inputs[name], value) for name, value in kept.items())
    assert all(torch.equal(given, copy) for given, copy in handed)
    width = inputs["input_ids"].shape[1]
    assert not torch.isin(out.sequences[:, width:], torch.tensor(banned)).any()
    for scores in out.scores:
        assert (scores[:, banned] == -torch.inf).all()
        assert not scores.isnan().any()


def test_law_10_a_method_that_never_fired_says_so_once(one: Family) -> None:
    with MutationLogitsProcessor(one.model, CONTRAST, detector=NEVER) as processor:
        with pytest.warns(
            UserWarning, match=r"Contrast never acted.*blocks 4..7 was 0\.\d+ nats.*is 0.693"
        ) as caught:
            one.generate(0, logits_processor=[processor])
        assert len(caught) == 1
        assert caught[0].filename.endswith("families.py"), "the warning points at the call of generate"
        one.generate(0, logits_processor=[processor])  # a second warning would be an error here


def test_law_10_says_so_where_no_token_settled(one: Family) -> None:
    never = Detector(critical=None, settle=1e-6, threshold=1e-6)
    with (
        MutationLogitsProcessor(one.model, CONTRAST, detector=never) as processor,
        pytest.warns(UserWarning, match=r"never acted.*no token settled.*settle=1e-06.*Raise Detector"),
    ):
        one.generate(0, logits_processor=[processor])


def test_law_10_is_silent_where_something_happened_or_nothing_has_to(one: Family) -> None:
    with MutationLogitsProcessor(one.model, CONTRAST, detector=one.detector) as processor:
        one.generate(0, logits_processor=[processor])
    always = Contrast(layer=3, always=True)
    with MutationLogitsProcessor(one.model, always, detector=None) as processor:
        one.generate(0, logits_processor=[processor])


def test_law_10_firing_in_a_finished_row_is_no_effect(one: Family) -> None:
    class Ends(LogitsProcessor):  # type: ignore[misc]
        """Ends one row at its first token; all that follows there is padding."""

        def __init__(self, row: int) -> None:
            self.row, self.first = row, True

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            if not self.first:
                return scores
            self.first = False
            only = torch.full_like(scores[self.row], -torch.inf).index_fill(0, torch.tensor([52]), 0.0)
            return scores.index_put((torch.tensor([self.row]),), only[None])

    def largest(row: int) -> tuple[float, float]:
        """The largest watched js of the tokens that are returned, and of the padding."""
        watching = MutationLogitsProcessor(one.model, CONTRAST, detector=NEVER, trace=True)
        with watching, warnings.catch_warnings(action="ignore"):
            one.generate(0, 1, 2, logits_processor=[Ends(row), watching], eos_token_id=52)
        trace = watching.trace
        assert trace is not None
        js = trace.js[..., Detector().blocks(trace.js.shape[-1])].amax(-1)
        return float(js[trace.generated].max()), float(js[~trace.generated].max())

    found = {row: largest(row) for row in range(3)}
    row = max(found, key=lambda row: found[row][1] - found[row][0])
    read, padding = found[row]
    assert padding > read + 1e-3, "padding fires nowhere, so the law was not tested"
    detector = Detector(threshold=(read + padding) / 2)
    processor = MutationLogitsProcessor(one.model, CONTRAST, detector=detector)
    with processor, pytest.warns(UserWarning, match=f"never acted.*was {read:.3g} nats"):
        one.generate(0, 1, 2, logits_processor=[Ends(row), processor], eos_token_id=52)
