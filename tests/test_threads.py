"""Several threads on one model at the same time: each gets what it would get alone.

The threads meet in the middle of forwards, so that hooks and stand-ins of one are there while another runs.
"""

import contextlib
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from families import Family, ours_on
from oracles import ALWAYS, FULL, same
from transformers import StoppingCriteria

from mutation_decode import Contrast, LogitLens, MutationDecoder, MutationLogitsProcessor, Skip, intercept
from mutation_decode.stand_in import standing_in

CONTRAST = Contrast(alpha=1.5, beta=0.02)
Say = Callable[[], Any]


def at_once(model: Any, jobs: list[Say]) -> list[Any]:
    """What these return in threads of their own, which wait for one another before blocks and the head."""
    meet = threading.Barrier(len(jobs))
    found: list[Any] = [None] * len(jobs)

    def wait(*_: Any) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):  # one is done, and the rest go on alone
            meet.wait(timeout=20)

    def do(number: int) -> None:
        try:
            found[number] = jobs[number]()
        except Exception as error:
            found[number] = error
        finally:
            meet.abort()

    blocks = model.get_decoder().layers
    places = (blocks[1], blocks[6], model.lm_head)
    hooks = [place.register_forward_pre_hook(wait) for place in places]
    threads = [threading.Thread(target=do, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", ["one", "other"], ids=["llava", "llama"])
@pytest.mark.parametrize("exact", [False, True], ids=["default", "exact"])
def test_contrast_skip_and_plain_at_the_same_time(
    request: pytest.FixtureRequest, name: str, exact: bool
) -> None:
    family = request.getfixturevalue(name)
    strategies = [CONTRAST, Skip(layers=[2, 5], gated=True), Skip(layers=[3]), Skip(layers=[3], prompt=True)]
    plain = family.generate(0, 1, **FULL)
    decoders = [
        MutationDecoder(family.model, strategy, detector=ALWAYS, exact=exact) for strategy in strategies
    ]
    inputs = {**family.batch(0, 1), "max_new_tokens": 10, **FULL}
    jobs = [lambda decoder=decoder: decoder.generate(**inputs) for decoder in decoders]
    for job in jobs:
        job()  # the lens reads one more row in its first forward
    want = [*(job() for job in jobs), plain]
    assert all(not same(a, b) for a, b in itertools.combinations(want, 2)), "two of them do the same"
    found = at_once(family.model, [*jobs, lambda: family.generate(0, 1, **FULL)])
    for got, expected in zip(found, want, strict=True):
        assert not isinstance(got, Exception), got
        assert same(got, expected)
    for decoder in decoders:
        decoder.close()
    assert same(family.generate(0, 1, **FULL), plain)
    assert not any("forward" in module.__dict__ for module in family.model.modules())


class Stop(StoppingCriteria):  # type: ignore[misc]
    """Ends generate after the first token, once something is done."""

    def __init__(self, action: Say) -> None:
        self.action = action

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        self.action()
        return torch.ones(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize(
    "strategy",
    [CONTRAST, Skip(layers=[3], gated=True), Skip(layers=[3]), Skip(layers=[3], prompt=True)],
    ids=["contrast", "gated", "skip", "prompt"],
)
@pytest.mark.parametrize("kind", ["register_forward_pre_hook", "register_forward_hook"])
def test_hooks_that_another_thread_takes_away_in_the_middle_of_a_forward(
    one: Family, strategy: Any, kind: str
) -> None:
    """torch still calls those that it had counted, and no longer knows that they want keyword arguments."""
    plain = one.generate(0, 1, **FULL)
    begun, end = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert end.wait(timeout=60)

    with MutationLogitsProcessor(one.model, strategy, detector=ALWAYS) as processor:
        use = {"logits_processor": [processor], "stopping_criteria": [Stop(wait)]}
        thread = threading.Thread(target=lambda: one.generate(0, **use))

        def let_it_end(*_: Any) -> None:
            end.set()
            thread.join(timeout=60)

        thread.start()
        assert begun.wait(timeout=60)
        there = len(ours_on(one.model))
        hook = getattr(one.model.get_decoder().layers[3], kind)(let_it_end, prepend=True)
        try:
            assert same(one.generate(0, 1, **FULL), plain)
        finally:
            hook.remove()
            let_it_end()
        assert len(ours_on(one.model)) < there, "nothing was taken away"


class Meanwhile(StoppingCriteria):  # type: ignore[misc]
    """Does something in another thread after every token."""

    def __init__(self, *actions: Say) -> None:
        self.actions = itertools.cycle(actions)
        self.errors: list[Exception] = []

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        def do() -> None:
            try:
                next(self.actions)()
            except Exception as error:
                self.errors.append(error)

        thread = threading.Thread(target=do)
        thread.start()
        thread.join()
        return torch.zeros(len(input_ids), dtype=torch.bool)


def test_none_is_lost_where_processors_come_and_go_at_once(one: Family) -> None:
    """Each finds its generate call whatever other threads build and close; seen in the bare bookkeeping."""

    class Listener:
        pass

    lost: list[Any] = []

    def come_and_go() -> None:
        for _ in range(4000):
            listener: Any = Listener()
            intercept.attach(one.model, listener)
            if not any(ref() is listener for ref in one.model.generate._listeners):
                lost.append(listener)
            intercept.detach(one.model, listener)

    anchor: Any = Listener()
    intercept.attach(one.model, anchor)
    with switching_often():
        errors = [error for error in at_once(one.model, [come_and_go] * 4) if error is not None]
    assert (lost, errors) == ([], [])
    assert [ref() for ref in one.model.generate._listeners] == [anchor]
    intercept.detach(one.model, anchor)


def test_each_thread_has_its_own_stand_in_and_none_stays() -> None:
    module, wrong = torch.nn.Identity(), []

    def come_and_go(mine: str) -> None:
        for _ in range(4000):
            with standing_in(module, lambda _plain: lambda: mine):
                if module.forward() != mine:
                    wrong.append(mine)

    with switching_often():
        together = [threading.Thread(target=come_and_go, args=(name,)) for name in "abcd"]
        for thread in together:
            thread.start()
        for thread in together:
            thread.join()
    assert wrong == []
    assert "forward" not in module.__dict__


@contextlib.contextmanager
def switching_often() -> Iterator[None]:
    """Threads take turns in the middle of everything."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_building_gives_no_random_number_twice(one: Family, training: bool) -> None:
    """What other threads draw meanwhile stays drawn; where the model itself draws, its draws are undone."""
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    drawn: list[Any] = []

    def draw(*_: Any) -> None:
        if not drawn or training:
            drawn.append(torch.rand(1))

    hook = one.model.get_decoder().layers[0].register_forward_hook(draw)
    one.model.train(training)
    try:
        MutationLogitsProcessor(one.model, CONTRAST, detector=one.detector).close()
    finally:
        one.model.eval()
        hook.remove()
    assert drawn, "no forward was made"
    assert torch.rand(1) == expected[0 if training else 1]


@pytest.mark.parametrize("strategy", [CONTRAST, Skip()], ids=["contrast", "skip"])
def test_processors_come_and_go_while_another_thread_generates(one: Family, strategy: Any) -> None:
    others: list[MutationLogitsProcessor] = []

    def build() -> None:
        for kind in (CONTRAST, Skip(), Skip(layers=[3], prompt=True)):
            others.append(MutationLogitsProcessor(one.model, kind, detector=one.detector))

    def use() -> None:
        assert one.generate(1, logits_processor=[others[-1]]).shape[0] == 1

    def close() -> None:
        others.pop(0).close()

    with MutationLogitsProcessor(one.model, strategy, detector=one.detector) as processor:
        one.generate(0, logits_processor=[processor])
        want = one.generate(0, 1, logits_processor=[processor], **FULL)
        meanwhile = Meanwhile(build, use, close)
        found = one.generate(0, 1, logits_processor=[processor], stopping_criteria=[meanwhile], **FULL)
        assert meanwhile.errors == []
        assert same(found, want)
        for other in others:
            other.close()
        assert same(one.generate(0, 1, logits_processor=[processor], **FULL), want)
    assert ours_on(one.model) == []


def test_parts_are_found_while_other_threads_generate(one: Family) -> None:
    """What another thread runs is not taken for the forward in which parts are looked for."""
    plain = one.generate(0, 1, **FULL)
    with MutationLogitsProcessor(one.model, CONTRAST, detector=one.detector) as processor:
        want = one.generate(0, 1, logits_processor=[processor])

    def build() -> Any:
        with MutationLogitsProcessor(one.model, CONTRAST, detector=one.detector) as late:
            return one.generate(0, 1, logits_processor=[late])

    def build_skip() -> Any:
        with MutationLogitsProcessor(one.model, Skip(layers=[3], prompt=True)) as late:
            return one.generate(0, 1, logits_processor=[late])

    removed = build_skip()
    found = at_once(one.model, [build, lambda: one.generate(0, 1, **FULL), build_skip])
    assert not any(isinstance(got, Exception) for got in found), found
    assert torch.equal(found[0], want)
    assert same(found[1], plain)
    assert torch.equal(found[2], removed)


def test_law_9_closed_by_another_thread(one: Family) -> None:
    processor = MutationLogitsProcessor(one.model, CONTRAST, detector=one.detector)
    with pytest.raises(RuntimeError, match="is closed; build another one"):
        one.generate(0, logits_processor=[processor], stopping_criteria=[Meanwhile(processor.close)])
    assert ours_on(one.model) == []
    assert "generate" not in one.model.__dict__


def test_a_lens_of_another_thread_reads_its_own_forwards(one: Family) -> None:
    inputs = one.batch(0, 1)

    def read() -> Any:
        with torch.no_grad(), LogitLens(one.model) as lens:
            one.model(**inputs)
            return lens.take().logits

    with MutationLogitsProcessor(one.model, Skip(layers=[3]), detector=None) as processor:
        use = {"logits_processor": [processor], **FULL}
        want = read(), one.generate(0, 1, **use)
        found = at_once(one.model, [read, lambda: one.generate(0, 1, **use)])
    assert not any(isinstance(got, Exception) for got in found), found
    torch.testing.assert_close(found[0], want[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(found[1].sequences, want[1].sequences)
