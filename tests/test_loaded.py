"""Models in half precision, moved after a processor was built for them, saved and copied with one on them."""

import copy
import math
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import Family
from oracles import ALWAYS, FULL, bare, by_hand, hooked_out, treated
from torch import nn

from benchmarks.conformance import subject
from benchmarks.conformance.types import KINDS
from mutation_decode import Anatomy, Contrast, Detector, LogitLens, MutationLogitsProcessor, Skip

CONTRAST = Contrast(alpha=1.5, beta=0.02)
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])


@HALVES
def test_half_precision(family: Family, dtype: torch.dtype) -> None:
    half = bare(family, dtype)
    inputs, steps = half.batch(0, 1, 2), 8 * torch.finfo(dtype).eps
    want, plain = by_hand(half.model, inputs), half.generate(0, 1, 2, **FULL)
    for exact in (False, True):
        with torch.no_grad(), LogitLens(half.model, exact=exact) as lens:
            half.model(**inputs)
            readout = lens.take()
        assert readout.logits.dtype == dtype
        torch.testing.assert_close(
            readout.logits[:, :-1].float(), want, atol=steps * want.abs().max(), rtol=0
        )
        untouched = treated(half, Contrast(alpha=0), exact=exact, **FULL)
        assert torch.equal(untouched.sequences, plain.sequences)
        if exact:
            assert all(torch.equal(a, b) for a, b in zip(untouched.logits, plain.logits, strict=True))
    for strategy in (CONTRAST, Skip(layers=[2], gated=True)):
        assert not same(treated(half, strategy, **FULL), plain), "the method did nothing"


def same(one: Any, other: Any) -> bool:
    return all(torch.allclose(a, b, atol=0.1) for a, b in zip(one.logits, other.logits, strict=True)) and (
        torch.equal(one.sequences, other.sequences)
    )


@HALVES
def test_half_precision_leaves_blocks_out_as_hooks_do(other: Family, dtype: torch.dtype) -> None:
    half = bare(other, dtype)
    blocks = Anatomy.of(half.model).blocks
    with hooked_out((blocks[2], blocks[5])):
        want = half.generate(0, 1, 2, **FULL)
    found = treated(half, Skip(layers=[2, 5], gated=True), ALWAYS, **FULL)
    assert torch.equal(found.sequences, want.sequences)
    for a, b in zip(found.logits, want.logits, strict=True):
        torch.testing.assert_close(a, b, atol=8 * torch.finfo(dtype).eps * float(b.abs().max()), rtol=0)


@HALVES
def test_half_precision_hides_no_wrong_part(family: Family, dtype: torch.dtype) -> None:
    half = bare(family, dtype)
    right = Anatomy.of(half.model)
    for wrong in (
        replace(right, tail=()),
        replace(right, tail=(nn.LayerNorm(32, elementwise_affine=False), *right.tail, nn.Tanh())),
        replace(right, blocks=right.blocks[:-1]),
    ):
        with pytest.raises(ValueError, match=r"differs from the model's own logits by [\d.]+"):
            MutationLogitsProcessor(half.model, anatomy=wrong)


@pytest.mark.parametrize("strategy", [CONTRAST, Skip()], ids=["contrast", "skip"])
@HALVES
def test_a_model_that_is_moved_after_the_processor_was_built(
    other: Family, strategy: Any, dtype: torch.dtype
) -> None:
    moved = bare(other)
    with MutationLogitsProcessor(moved.model, strategy, detector=other.detector) as processor:
        before = moved.generate(0, 1, 2, logits_processor=[processor], **FULL)
        moved.model.to(dtype)
        found = moved.generate(0, 1, 2, logits_processor=[processor], **FULL)
        assert found.logits[0].dtype == torch.float32, "generate hands out fp32"
    want = treated(bare(other, dtype), strategy, **FULL)
    assert all(torch.equal(a, b) for a, b in zip(found.logits, want.logits, strict=True))
    assert not torch.equal(found.logits[0], before.logits[0])


def test_a_model_is_saved_whole_while_a_processor_is_on_it(other: Family, tmp_path: Path) -> None:
    plain, keys = other.generate(0, 1, 2), list(other.model.state_dict())
    with MutationLogitsProcessor(other.model, CONTRAST, detector=other.detector) as processor:
        other.generate(0, logits_processor=[processor])
        assert list(other.model.state_dict()) == keys
        torch.save(other.model, tmp_path / "model.pt")
        other.model.save_pretrained(tmp_path)
        want = other.generate(0, 1, 2, logits_processor=[processor])
    whole = torch.load(tmp_path / "model.pt", weights_only=False)
    for model in (whole, transformers.LlamaForCausalLM.from_pretrained(tmp_path)):
        loaded = replace(other, model=model)
        assert torch.equal(loaded.generate(0, 1, 2), plain)
        assert torch.equal(treated(loaded, CONTRAST), want)
        assert torch.equal(loaded.generate(0, 1, 2), plain)


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps])
def test_law_9_a_processor_is_not_copied(other: Family, copying: Any) -> None:
    with (
        MutationLogitsProcessor(other.model, CONTRAST, detector=other.detector) as processor,
        pytest.raises(
            TypeError, match=r"MutationLogitsProcessor belongs to its model.*build one for the copy"
        ),
    ):
        copying(processor)


@pytest.mark.parametrize(
    "strategy", [CONTRAST, Skip(), Skip(layers=[2]), Skip(layers=[2], prompt=True)], ids=str
)
def test_law_9_a_model_is_not_copied_in_the_middle_of_a_call(other: Family, strategy: Any) -> None:
    class Copies(transformers.StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            copy.deepcopy(other.model)

    with MutationLogitsProcessor(other.model, strategy, detector=other.detector) as processor:
        want = other.generate(0, 1, 2, logits_processor=[processor], **FULL)
        with pytest.raises(TypeError, match=r"belongs to its model and cannot be copied.*copy a model while"):
            other.generate(0, 1, 2, logits_processor=[processor], stopping_criteria=[Copies()])
        copied = replace(other, model=copy.deepcopy(other.model))
        found = other.generate(0, 1, 2, logits_processor=[processor], **FULL)
    assert torch.equal(found.sequences, want.sequences)
    assert torch.equal(copied.generate(0, 1, 2), other.generate(0, 1, 2))


@pytest.mark.parametrize("strategy", [Contrast(alpha=0.0), Skip()], ids=["contrast", "skip"])
def test_states_that_are_added_up_in_more_than_the_weights_precision(strategy: Any) -> None:
    """Mamba keeps its residual in fp32 beside weights in bf16, and returns logits in fp32."""
    mamba = subject.build("mamba", KINDS["mamba"])
    mamba.model.to(torch.bfloat16)
    plain = mamba.generate(0, 1, 2)
    never = Detector(threshold=math.log(2)) if isinstance(strategy, Skip) else Detector(threshold=0.0)
    with (
        MutationLogitsProcessor(mamba.model, strategy, detector=never, exact=True) as processor,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", ".* never acted", UserWarning)
        out = mamba.generate(0, 1, 2, logits_processor=[processor])
    assert torch.equal(out.sequences, plain.sequences)
