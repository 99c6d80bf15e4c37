"""Models whose weights are elsewhere between their uses, and heads that are tied or have a bias."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import transformers
from families import TEXT, Family, _text, build, llava, ours_on
from oracles import ALWAYS, by_hand, hooked_out, treated
from torch import nn

from mutation_decode import Anatomy, Contrast, LogitLens, Skip

# Older transformers says so of every model whose embeddings are elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:You are calling .generate.* being on a device type different")
CONTRAST = Contrast(alpha=1.5, beta=0.02)
USES = [
    (CONTRAST, False),
    (CONTRAST, True),
    (Skip(), False),
    (Skip(layers=[2, 5]), False),
    (Skip(layers=[2, 5], prompt=True), False),
]
SHORT: dict[str, Any] = {"max_new_tokens": 6}


def device_map(model: nn.Module) -> dict[str, str]:
    """The upper blocks and the head on the disk, all else in memory."""
    names = {module: name for name, module in model.named_modules()}
    upper = [names[block] for block in Anatomy.of(model).blocks[3:]]
    leaves = {name.rsplit(".", 1)[0] for name, _ in model.named_parameters()}
    below = {leaf: "cpu" for leaf in leaves if not leaf.startswith(tuple(f"{name}." for name in upper))}
    return {**below, **dict.fromkeys(upper, "disk"), "lm_head": "disk"}


def offloaded(model: Any, way: str, folder: Path) -> Any:
    """The same model with weights that are not in memory between their uses."""
    copied, cpu = copy.deepcopy(model), torch.device("cpu")
    if way == "cpu_offload":
        return accelerate.cpu_offload(copied, execution_device=cpu)
    if way == "disk_offload":
        return accelerate.disk_offload(copied, str(folder), execution_device=cpu)
    if way == "dispatch_model":
        return accelerate.dispatch_model(copied, device_map(model), main_device=cpu, offload_dir=str(folder))
    model.save_pretrained(folder / "saved")
    return type(model).from_pretrained(
        folder / "saved", device_map=device_map(model), offload_folder=str(folder / "offload")
    )


@pytest.mark.parametrize("way", ["cpu_offload", "disk_offload", "dispatch_model", "from_pretrained"])
@pytest.mark.parametrize("name", ["one", "other"], ids=["llava", "llama"])
def test_an_offloaded_model_answers_as_the_one_in_memory(
    request: pytest.FixtureRequest, name: str, way: str, tmp_path: Path
) -> None:
    family = request.getfixturevalue(name)
    away = replace(family, model=offloaded(family.model, way, tmp_path))
    parts = Anatomy.of(away.model)
    assert {weight.device.type for weight in parts.blocks[5].parameters()} == {"meta"}
    assert {weight.device.type for weight in parts.head.parameters()} == {"meta"}
    plain = family.generate(0, 1, 2, **SHORT)
    assert torch.equal(away.generate(0, 1, 2, **SHORT), plain)
    for strategy, exact in USES:
        want = treated(family, strategy, exact=exact, **SHORT)
        assert not torch.equal(want, plain), "the method did nothing, so nothing was tested"
        assert torch.equal(treated(away, strategy, exact=exact, **SHORT), want)
    assert ours_on(away.model) == []
    assert torch.equal(away.generate(0, 1, 2, **SHORT), plain), "offloading works as before"


def phi() -> Family:
    """Its head has a bias."""
    model = transformers.PhiForCausalLM(transformers.PhiConfig(**TEXT))
    nn.init.normal_(model.lm_head.bias, std=2.0)
    return _text("phi", model)


def tied() -> Family:
    """A model with pictures whose head is its embedding."""
    family = llava()
    config = copy.deepcopy(family.model.config)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    return replace(family, model=transformers.LlavaForConditionalGeneration(config))


@pytest.mark.parametrize("make", [phi, tied])
@pytest.mark.parametrize("away", [False, True], ids=["in-memory", "offloaded"])
def test_tied_heads_and_heads_with_a_bias(make: Any, away: bool) -> None:
    family = build(make)
    model = family.model
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (make is tied)
    assert (model.lm_head.bias is not None) == (make is phi)
    inputs, plain = family.batch(0, 1, 2), family.generate(0, 1, 2, **SHORT)
    want = by_hand(model, inputs)
    blocks = Anatomy.of(model).blocks
    with hooked_out((blocks[2], blocks[5])):
        left_out = family.generate(0, 1, 2, **SHORT)
    contrasted = treated(family, CONTRAST, **SHORT)
    assert not torch.equal(left_out, plain)
    assert not torch.equal(contrasted, plain)
    if away:
        family.model = accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    for exact in (False, True):
        with torch.no_grad(), LogitLens(family.model, exact=exact) as lens:
            family.model(**inputs)
            torch.testing.assert_close(lens.take().logits[:, :-1], want, atol=1e-3, rtol=1e-4)
        assert torch.equal(treated(family, Contrast(alpha=0), exact=exact, **SHORT), plain)
        assert torch.equal(treated(family, CONTRAST, exact=exact, **SHORT), contrasted)
        strategy = Skip(layers=[2, 5], gated=exact)
        assert torch.equal(treated(family, strategy, ALWAYS, exact=exact, **SHORT), left_out)
