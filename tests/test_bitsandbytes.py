"""Models that bitsandbytes has quantised, in 8 and in 4 bits, where it is installed."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import Family, build
from oracles import ALWAYS, FULL, hooked_out, same, treated
from torch import Tensor

from mutation_decode import Anatomy, Contrast, Skip

CONTRAST = Contrast(alpha=1.5, beta=0.02)


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
