"""Quantised linear layers, in the blocks and in the head: torch's dynamic kinds; bitsandbytes where it runs.

Dynamic int8 takes one scale for all that a layer is given, so that a state gives another result beside
others: what holds to the bit elsewhere is tested here to the bit.
"""

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import Family, build
from oracles import ALWAYS, FULL, by_hand, hooked_out, treated
from torch import Tensor, nn

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


@pytest.fixture(params=["one", "other"], ids=["llava", "llama"])
def plain_family(request: pytest.FixtureRequest) -> Family:
    """A model with pictures and one without, in turn."""
    return request.getfixturevalue(request.param)


def same(one: Any, other: Any) -> bool:
    """Two outputs of generate, to the bit."""
    return torch.equal(one.sequences, other.sequences) and all(
        torch.equal(a, b) for a, b in zip(one.logits, other.logits, strict=True)
    )


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


class OnDevice(Family):
    """A family whose model is somewhere else, and in half precision."""

    def batch(self, *rows: int, suffix: Tensor | None = None) -> dict[str, Tensor]:
        """The inputs where the model is, in its dtype."""
        place, dtype = self.model.device, self.model.dtype
        inputs = super().batch(*rows, suffix=suffix)
        return {name: x.to(place, dtype if x.is_floating_point() else x.dtype) for name, x in inputs.items()}


def wide(family: Family) -> Family:
    """The family with rows of weights that fill a block of 64; in 4 bits each block has a scale."""
    config = copy.deepcopy(family.model.config)
    for part in {
        id(c): c for c in (config.get_text_config(), getattr(config, "vision_config", config))
    }.values():
        part.hidden_size, part.intermediate_size, part.head_dim = 64, 128, 16
    return build(lambda: replace(family, model=type(family.model)(config)))


@pytest.mark.parametrize(
    "how",
    [
        {"load_in_8bit": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16},
    ],
    ids=["8bit", "4bit"],
)
def test_bitsandbytes(plain_family: Family, how: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    loaded = wide(plain_family)
    loaded.model.save_pretrained(tmp_path)
    model = type(loaded.model).from_pretrained(
        tmp_path,
        quantization_config=transformers.BitsAndBytesConfig(**how),
        device_map={"": 0 if torch.cuda.is_available() else "cpu"},
        dtype=torch.float16 if "load_in_8bit" in how else torch.bfloat16,
    )
    q_proj = model.get_decoder().layers[0].self_attn.q_proj
    assert type(q_proj).__module__.startswith("bitsandbytes")

    family = OnDevice(**{**vars(loaded), "model": model})
    plain = family.generate(0, 1, 2, **FULL)
    for exact in (False, True):
        found = treated(family, Contrast(alpha=0), exact=exact, **FULL)
        assert torch.equal(found.sequences, plain.sequences)
        assert same(found, plain) or not exact
    assert not same(treated(family, CONTRAST, **FULL), plain), "the method did nothing"
    blocks = Anatomy.of(model).blocks
    with hooked_out((blocks[2], blocks[5])):
        want = family.generate(0, 1, 2, **FULL)
    assert same(treated(family, Skip(layers=[2, 5]), exact=True, **FULL), want)
    # In 8 bits all positions decide together which columns stay in fp16, so the prompt is left alone.
    in_4_bits = "load_in_4bit" in how
    with hooked_out((blocks[2], blocks[5]), prompt=in_4_bits):
        want = family.generate(0, 1, 2, **FULL)
    found = treated(family, Skip(layers=[2, 5], gated=True), ALWAYS, exact=True, **FULL)
    if in_4_bits:
        off = (found.logits[0] - want.logits[0]).abs().max()
        assert off <= 8 * torch.finfo(model.dtype).eps * want.logits[0].abs().max()
    else:
        assert same(found, want)
