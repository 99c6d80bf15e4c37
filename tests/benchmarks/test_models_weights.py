"""Weights that are missing or do not fit and damaged files beside them: one line, never random weights."""

import json

import pytest
import safetensors.torch
import torch
from tiny_models import ASKED, answers, checkpoint
from transformers import AutoModelForImageTextToText

from benchmarks.usage import UsageError


def rewrite(folder, change):
    """Saves the weights of a folder as ``change`` leaves them."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    kept = change({name: weight.clone() for name, weight in weights.items()})
    safetensors.torch.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), encoding="utf-8")


def said_of(made, step):
    with pytest.raises(UsageError) as told:
        getattr(made, step)("tiny")
    assert "\n" not in str(told.value)
    return str(told.value)


def test_weights_that_are_not_there_are_not_made_up(copy):
    def without(weights):
        return {name: w for name, w in weights.items() if "layers.3." not in name and "lm_head" not in name}

    rewrite(copy, without)
    assert checkpoint(copy).check("tiny") == 8
    assert said_of(checkpoint(copy), "load").startswith(
        f"model tiny: {copy} is no whole checkpoint of its class: 10 of its weights are not there: "
        "lm_head.weight, model.language_model.layers.3.input_layernorm.weight, "
    )


def test_weights_of_another_shape_are_not_made_up(copy):
    head = "language_model.lm_head.weight"  # its name in a file is not its name in the model
    rewrite(copy, lambda weights: {**weights, head: weights[head][:-1].clone()})
    said = said_of(checkpoint(copy), "load")
    assert said.endswith(
        "is no whole checkpoint of its class: 1 of its weights are of another shape: lm_head.weight"
    )


def test_a_head_that_is_the_embedding_is_not_missing(copy):
    config = AutoModelForImageTextToText.from_pretrained(copy).config
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    AutoModelForImageTextToText.from_config(config).save_pretrained(copy)
    assert not any("lm_head" in name for name in safetensors.torch.load_file(copy / "model.safetensors"))
    model = checkpoint(copy).load("tiny").model
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would warn of the idle accelerator")
def test_a_checkpoint_that_says_how_it_is_quantized(copy):
    plain = answers(checkpoint(copy).load("tiny"), ASKED)
    how = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    edit(copy / "config.json", quantization_config=how)
    made = checkpoint(copy)
    assert made.check("tiny") == 8
    loaded = made.load("tiny")
    assert type(loaded.model.model.language_model.layers[0].mlp.up_proj).__name__ == "AutoBitLinear"
    assert answers(loaded, ASKED) != plain
    rewrite(copy, lambda weights: {name: w for name, w in weights.items() if "layers.3.mlp" not in name})
    assert "3 of its weights are not there: model.language_model.layers.3.mlp.down" in said_of(made, "load")


@pytest.mark.parametrize("text", ["", "{", '{"weight_map"', "null", "[]", '{"x": 1}', '{"weight_map": []}'])
def test_an_index_that_tells_nothing(text, copy):
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    said = said_of(checkpoint(copy), "check")
    assert said.startswith(f"model tiny: {copy / 'model.safetensors.index.json'} ")


def test_whole_weights_are_read_before_any_index(copy):
    shards = json.dumps({"weight_map": {"a": "pytorch_model-1-of-1.bin"}})
    (copy / "pytorch_model.bin.index.json").write_text(shards, encoding="utf-8")
    (copy / "model.safetensors.index.json").write_text(shards, encoding="utf-8")
    assert checkpoint(copy).check("tiny") == 8
    assert len(answers(checkpoint(copy).load("tiny"), ASKED)) == 3


@pytest.mark.parametrize(
    ("text", "said"), [("[]", r"holds \[\] in place of"), ('{"eos_token_id": [2, ', "is no JSON")]
)
def test_settings_of_generation_that_would_be_dropped_without_a_word(text, said, copy):
    (copy / "generation_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=f"model tiny: .*generation_config.json {said}"):
        checkpoint(copy).check("tiny")


def test_a_folder_in_the_user_s_home(tiny, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny.parent))
    made = checkpoint("~/llava")
    assert made.check("tiny") == 8
    assert made.checksum() == checkpoint(tiny).checksum()
    assert answers(made.load("tiny"), ASKED) == answers(checkpoint(tiny).load("tiny"), ASKED)
    assert said_of(checkpoint("~/nothing"), "check") == "model tiny: no folder ~/nothing; set model.tiny.path"


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float64", "half", "int8", "Tensor"])
def test_what_no_model_computes_in(dtype, tiny):
    said = said_of(checkpoint(tiny, dtype=dtype), "check")
    assert said == f"model tiny: dtype {dtype!r} is none; use float32, bfloat16, float16 or auto"
