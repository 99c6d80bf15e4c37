"""Compiled models: in calls that use a processor they run as they were before torch.compile, and only there.

The compiler is torch's own (dynamo); its backend here counts how often its graphs run.
"""

import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from families import Family, ours_on
from torch import Tensor
from transformers import StaticCache, StoppingCriteria
from transformers.generation import CompileConfig

from mutation_decode import Anatomy, Contrast, Detector, LogitLens, MutationLogitsProcessor, Skip

CONTRAST, SKIP = Contrast(alpha=1.5, beta=0.02), Skip()
ALWAYS = Detector(threshold=0.0, critical=0, include_last=True)
TOLD = "a compiled graph does not show its layers.*other calls stay compiled"


class Counting:
    """A backend that runs what dynamo traced, and counts."""

    def __init__(self) -> None:
        self.runs = 0

    def __deepcopy__(self, _memo: Any) -> "Counting":
        return self  # generate copies its config

    def __call__(self, graph: Any, _inputs: Any, **_: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            self.runs += 1
            return graph.forward(*args)

        return run


def forward(model: Any, backend: Counting) -> None:
    model.forward = torch.compile(model.forward, backend=backend)


def in_place(model: Any, backend: Counting) -> None:
    model.compile(backend=backend)


def a_part_wrapped(model: Any, backend: Counting) -> None:
    model.model = torch.compile(model.model, backend=backend)


def block_by_block(model: Any, backend: Counting) -> None:
    for block in model.model.layers[::2]:
        block.compile(backend=backend)


@pytest.fixture
def small(other: Family) -> Family:
    """A few blocks of a model, of the test's own: what is compiled stays so."""
    model = copy.deepcopy(other.model)
    model.model.layers, model.config.num_hidden_layers = model.model.layers[:3], 3
    return replace(other, model=model, detector=replace(other.detector, critical=1))


WAYS = (forward, in_place, a_part_wrapped, block_by_block)


@pytest.fixture
def backend() -> Iterator[Counting]:
    torch._dynamo.reset()
    yield Counting()
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("compile_", "strategy"),
    [*((way, CONTRAST) for way in WAYS), (in_place, SKIP)],
    ids=lambda x: getattr(x, "__name__", type(x).__name__),
)
def test_a_compiled_model_is_read_as_it_was_before(
    small: Family, backend: Counting, compile_: Any, strategy: Any
) -> None:
    plain = small.answers(0, 1)
    with MutationLogitsProcessor(small.model, strategy, detector=small.detector, trace=True) as processor:
        want, seen = small.answers(0, 1, logits_processor=[processor]), processor.trace
    assert seen is not None
    assert not torch.equal(want, plain)
    compile_(small.model, backend)
    assert torch.equal(small.answers(0, 1), plain)
    assert backend.runs > 0, "graphs exist before the processor does"
    before = backend.runs
    with MutationLogitsProcessor(small.model, strategy, detector=small.detector, trace=True) as processor:
        with pytest.warns(UserWarning, match=TOLD) as told:
            found = small.answers(0, 1, logits_processor=[processor])
        assert told[0].filename == Family.generate.__code__.co_filename
        assert torch.equal(small.answers(0, 1, logits_processor=[processor]), want)  # and is told once
        assert backend.runs == before
        assert torch.equal(small.answers(0, 1), plain)
        assert backend.runs > before, "a call without the processor stays compiled"
    assert torch.equal(found, want)
    assert processor.trace is not None
    torch.testing.assert_close(processor.trace.js, seen.js, atol=1e-5, rtol=1e-4)
    before = backend.runs
    assert torch.equal(small.answers(0, 1), plain)
    assert backend.runs > before
    assert ours_on(small.model) == []


def test_what_torch_compile_returns_may_be_given(small: Family, backend: Counting) -> None:
    with MutationLogitsProcessor(small.model, CONTRAST, detector=small.detector) as processor:
        want = small.answers(0, 1, logits_processor=[processor])
    compiled = torch.compile(small.model, backend=backend)
    with MutationLogitsProcessor(compiled, CONTRAST, detector=small.detector) as processor:
        with pytest.warns(UserWarning, match=TOLD):
            out = compiled.generate(**small.batch(0, 1), max_new_tokens=10, logits_processor=[processor])
        assert torch.equal(out[:, -10:], want)


def test_parts_and_layers_are_read_without_a_processor_too(small: Family, backend: Counting) -> None:
    right, inputs = Anatomy.of(small.model), small.batch(0, 1)
    with torch.no_grad(), LogitLens(small.model) as lens:
        small.model(**inputs)
    want = lens.take().js()
    compiled = copy.deepcopy(small.model)
    in_place(compiled, backend)
    with torch.no_grad():
        compiled(**inputs)
    before = backend.runs
    assert [type(m) for m in Anatomy.of(compiled).tail] == [type(m) for m in right.tail]
    with torch.no_grad(), LogitLens(compiled) as lens:
        compiled(**inputs)
    torch.testing.assert_close(lens.take().js(), want)
    assert backend.runs == before


@pytest.mark.parametrize("strategy", [CONTRAST, Skip(layers=[1])], ids=["contrast", "skip"])
def test_a_static_cache_that_generate_would_compile(small: Family, backend: Counting, strategy: Any) -> None:
    """As on a GPU, where generate compiles by itself: here it is told to do so on all devices."""
    config = CompileConfig(backend=backend, fullgraph=False)
    config._compile_all_devices = True
    static: Any = {"cache_implementation": "static", "compile_config": config}
    plain = small.answers(0, 1)
    with MutationLogitsProcessor(small.model, strategy, detector=small.detector) as processor:
        use: Any = {"logits_processor": [processor]}
        want = small.answers(0, 1, **use)
        assert torch.equal(small.answers(0, 1, cache_implementation="static", **use), want)
        assert torch.equal(small.answers(0, 1, **static), plain)
        before = backend.runs
        assert before > 0
        with pytest.warns(UserWarning, match=TOLD):
            assert torch.equal(small.answers(0, 1, **static, **use), want)
        cache = StaticCache(config=small.model.config, max_cache_len=32)
        assert torch.equal(small.answers(0, 1, past_key_values=cache, compile_config=config, **use), want)
        assert backend.runs == before
        assert torch.equal(small.answers(0, 1, **static), plain)
        assert backend.runs > before
    assert torch.equal(small.answers(0, 1, **static), plain)


def test_other_threads_stay_compiled_meanwhile(small: Family, backend: Counting) -> None:
    """Another thread's plain call, made while hooks are on the model: compiled anew or not, it is plain."""
    plain, runs, seen = small.answers(1), [], []

    class Meanwhile(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
            before = backend.runs
            thread = threading.Thread(target=lambda: seen.append(small.answers(1)))
            thread.start()
            thread.join()
            runs.append(backend.runs - before)
            return torch.zeros(len(input_ids), dtype=torch.bool)

    with MutationLogitsProcessor(small.model, SKIP, detector=ALWAYS) as processor:
        want = small.answers(0, logits_processor=[processor])
    in_place(small.model, backend)
    with (
        MutationLogitsProcessor(small.model, SKIP, detector=ALWAYS) as processor,
        warnings.catch_warnings(action="ignore"),
    ):
        found = small.answers(0, logits_processor=[processor], stopping_criteria=[Meanwhile()])
    assert torch.equal(found, want)
    assert len(seen) == len(runs) == 10
    assert all(torch.equal(answers, plain) for answers in seen)
    assert all(runs)
