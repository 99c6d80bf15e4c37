"""Quantised linear layers, in the blocks and in the head: torch's dynamic kinds.

Dynamic int8 takes one scale for all that a layer is given, so that a state gives another result beside
others: what holds to the bit elsewhere is tested here to the bit.
"""

import copy
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from families import Family
from oracles import ALWAYS, FULL, by_hand, hooked_out, same, treated
from torch import nn

from mutation_decode import Anatomy, Contrast, Detector, LogitLens, MutationLogitsProcessor, Skip

quantization = pytest.importorskip("torch.ao.quantization")
pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")

CONTRAST = Contrast(alpha=1.5, beta=0.02)
NEVER = Detector(threshold=0.6931, include_last=True)
EXACT = pytest.mark.parametrize("exact", [False, True], ids=["default", "exact"])


def quantised(family: Family, *, blocks: bool = True, head: bool = True, dtype: Any = torch.qint8) -> Family:
    """The family with quantised linear layers."""
    model = copy.deepcopy(family.model)

    def dynamic(part: nn.Module) -> Any:
        return quantization.quantize_dynamic(nn.ModuleList([part]), {nn.Linear}, dtype=dtype)[0]

    if blocks:
        model.get_decoder().layers = dynamic(model.get_decoder().layers)
    if head:
        model.lm_head = dynamic(model.lm_head)
    linear = torch.ao.nn.quantized.dynamic.Linear
    assert isinstance(model.lm_head, linear) == head
    assert isinstance(model.get_decoder().layers[0].self_attn.q_proj, linear) == blocks
    return replace(family, model=model)


def test_that_a_state_counts_beside_others_is_true_of_dynamic_int8(other: Family) -> None:
    """If torch quantises row by row one day, what is done about it here is no longer needed."""
    head = quantised(other).model.lm_head
    state = torch.randn(1, 1, 32)
    beside = head(torch.cat([3 * state, state], dim=1))[:, -1:]
    assert (beside - head(state)).abs().max() > 1e-3 * head(state).abs().max()


@EXACT
@pytest.mark.parametrize("head", [False, True], ids=["blocks", "blocks-and-head"])
def test_law_2_what_does_nothing_leaves_the_models_own_logits(
    plain_family: Family, head: bool, exact: bool
) -> None:
    family = quantised(plain_family, head=head)
    plain = family.generate(0, 1, 2, **FULL)
    with warnings.catch_warnings(action="ignore"):
        for strategy, detector in ((Contrast(alpha=0), None), (CONTRAST, NEVER)):
            found = treated(family, strategy, detector, exact=exact, **FULL)
            assert torch.equal(found.sequences, plain.sequences)
            if exact or head:
                assert same(found, plain)
    assert not same(treated(family, CONTRAST, exact=exact, **FULL), plain), "the method did nothing"


@EXACT
def test_law_4_a_quantised_head_reads_each_layer_as_it_reads_the_last(
    plain_family: Family, exact: bool
) -> None:
    family = quantised(plain_family)
    inputs = family.batch(0, 1, 2)
    want = by_hand(family.model, inputs)
    with torch.no_grad(), LogitLens(family.model, exact=exact) as lens:
        for positions in (0, 1):  # all of them, as some models hand over, and the last one alone
            own = family.model(**inputs, logits_to_keep=positions).logits
            readout = lens.take()
            assert torch.equal(readout.logits[:, -1], own[:, -1])
            assert own.shape[1] == (positions or inputs["input_ids"].shape[1])
    assert torch.equal(readout.logits[:, -1], family.model(**inputs, logits_to_keep=1).logits[:, -1])
    torch.testing.assert_close(readout.logits[:, :-1], want, atol=1e-4, rtol=0)


def test_several_lenses_on_a_quantised_head(other: Family) -> None:
    family = quantised(other)
    inputs = {**family.batch(0, 1, 2), "logits_to_keep": 1}
    alone = []
    for readouts in ((2,), (5, 6)):
        with torch.no_grad(), LogitLens(family.model, readouts=readouts) as lens:
            family.model(**inputs)
            alone.append(lens.take().logits)
    first, second = LogitLens(family.model, readouts=(2,)), LogitLens(family.model, readouts=(5, 6))
    with torch.no_grad(), first, second:
        family.model(**inputs)
        assert torch.equal(first.take().logits, alone[0])
        assert torch.equal(second.take().logits, alone[1])


@EXACT
@pytest.mark.parametrize("prompt", [False, True])
def test_a_set_of_blocks_is_left_out_of_quantised_ones(
    plain_family: Family, prompt: bool, exact: bool
) -> None:
    family = quantised(plain_family)
    strategy = Skip(layers=[2, 5], prompt=prompt)
    blocks = Anatomy.of(family.model).blocks
    with hooked_out((blocks[2], blocks[5]), everywhere=prompt):
        want = family.generate(0, 1, 2, **FULL)
    assert same(treated(family, strategy, exact=exact, **FULL), want)
    assert not same(want, family.generate(0, 1, 2, **FULL))


@EXACT
def test_blocks_that_are_found_are_left_out_of_them_from_the_second_token_on(
    plain_family: Family, exact: bool
) -> None:
    """In the prompt, a lone position would have another scale than it had beside the others."""
    family = quantised(plain_family)
    plain = family.generate(0, 1, 2, **FULL)
    blocks = Anatomy.of(family.model).blocks
    with hooked_out((blocks[2], blocks[5]), prompt=False):
        want = family.generate(0, 1, 2, **FULL)
    gated = Skip(layers=[2, 5], gated=True)
    assert same(treated(family, gated, ALWAYS, exact=exact, **FULL), want)
    assert torch.equal(want.logits[0], plain.logits[0])
    assert not torch.equal(want.logits[1], plain.logits[1])
    with MutationLogitsProcessor(family.model, Skip(), detector=ALWAYS, trace=True) as processor:
        family.generate(0, 1, 2, logits_processor=[processor])
    assert processor.trace is not None
    assert processor.trace.fired.all()
    assert not processor.trace.skipped[:, 0].any()
    assert processor.trace.skipped[:, 1:].any(dim=2).all()


def test_law_10_says_so_where_only_the_first_token_was_to_be_changed(other: Family) -> None:
    family = quantised(other)
    with (
        MutationLogitsProcessor(family.model, Skip(), detector=ALWAYS) as processor,
        pytest.warns(UserWarning, match="at the first token cannot be left out of the end of this model's"),
    ):
        family.generate(0, logits_processor=[processor], max_new_tokens=1)


@EXACT
def test_a_quantised_head_alone_hinders_no_skip(plain_family: Family, exact: bool) -> None:
    family = quantised(plain_family, blocks=False)
    blocks = Anatomy.of(family.model).blocks
    with hooked_out((blocks[2], blocks[5])):
        want = family.generate(0, 1, 2)
    assert torch.equal(treated(family, Skip(layers=[2, 5], gated=True), ALWAYS, exact=exact), want)
    plain = family.generate(0, 1, 2)
    assert not torch.equal(want, plain)
    assert not torch.equal(treated(family, Skip(), exact=exact), plain)


@EXACT
def test_weights_in_fp16_count_for_each_state_alone(plain_family: Family, exact: bool) -> None:
    """torch's other dynamic kind: nothing is refused, and one product serves all layers."""
    family = quantised(plain_family, dtype=torch.float16)
    plain = family.generate(0, 1, 2)
    blocks = Anatomy.of(family.model).blocks
    with hooked_out((blocks[2], blocks[5])):
        want = family.generate(0, 1, 2)
    assert torch.equal(treated(family, Skip(layers=[2, 5], gated=True), ALWAYS, exact=exact), want)
    assert torch.equal(treated(family, Contrast(alpha=0), exact=exact), plain)
    rows: list[int] = []
    with LogitLens(family.model, exact=exact) as lens, torch.no_grad():
        family.model(**family.batch(0))
        lens.take()
        count = family.model.lm_head.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1]))
        family.model(**family.batch(0))
        count.remove()
    width = family.batch(0)["input_ids"].shape[1]
    assert rows == [width if exact else width + 8]


def test_law_9_quantised_since_the_processor_was_built(other: Family) -> None:
    model = copy.deepcopy(other.model)
    with MutationLogitsProcessor(model, detector=other.detector) as processor:
        later = quantised(replace(other, model=model))
        model.lm_head = later.model.lm_head
        with pytest.raises(RuntimeError, match="lm_head is another module than when this was built"):
            replace(other, model=model).generate(0, logits_processor=[processor])


def test_quantised_embeddings(other: Family) -> None:
    kind = {nn.Embedding: quantization.float_qparams_weight_only_qconfig}
    model = quantization.quantize_dynamic(other.model, kind, dtype=torch.quint8)
    family = replace(other, model=model)
    assert not list(model.get_input_embeddings().parameters())
    plain = family.generate(0, 1, 2)
    for strategy in (CONTRAST, Skip()):
        assert not torch.equal(treated(family, strategy), plain)
    assert torch.equal(treated(family, Contrast(alpha=0)), plain)
