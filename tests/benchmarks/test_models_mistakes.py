"""What can be wrong with a checkpoint ends before its weights are loaded, in a line that says what to do."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models
import torch
import transformers
from tiny_models import checkpoint, user
from transformers.utils import is_flash_attn_2_available, is_torchvision_available

from benchmarks.placement import entrance
from benchmarks.usage import UsageError

ROOT = Path(__file__).parents[2]
BNB = {"_target_": "transformers.BitsAndBytesConfig"}
ABSENT = {
    "bitsandbytes": importlib.util.find_spec("bitsandbytes") is None,
    "torchvision": not is_torchvision_available(),
    "flash_attn": not is_flash_attn_2_available(),
    "num2words": importlib.util.find_spec("num2words") is None,
}


def absent(name):
    return pytest.mark.skipif(not ABSENT[name], reason=f"{name} is installed")


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), encoding="utf-8")


def refused(path, **changes):
    """What the check of a checkpoint says."""
    with pytest.raises(UsageError) as told:
        checkpoint(path, **changes).check("tiny")
    assert str(told.value).startswith("model tiny: ")
    return str(told.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "float31"}, "dtype 'float31' is none; use float32, bfloat16, float16 or auto"),
        ({"dtype": "int8"}, "dtype 'int8' is none"),
        ({"device": "cuda:97"}, "device 'cuda:97' is not there; this machine has cpu"),
        (
            {"device_map": "automatic"},
            "unknown device_map 'automatic': did you mean 'auto'? There are auto, ",
        ),
        ({"attention": "spda"}, "no attention 'spda': "),
        ({"attention": "spda"}, "use sdpa, eager or null"),
        ({"quantization": {"_target_": "transformers.BitsConfig"}}, "no quantization: Error locating target"),
        ({"template": "USER: {images}"}, "the template 'USER: {images}' has no {prompt}"),
        ({"template": "USER: {prompt}"}, "has no {images}, where <image> is to go"),
        (
            {"processor": {"patch_sizes": 8}},
            "unknown processor option patch_sizes: did you mean 'patch_size'",
        ),
        ({"processor": {"patch_size": "x"}}, "prompts by chat template do not work with this processor: "),
    ],
)
def test_settings(changes, said, tiny):
    assert said in refused(tiny, **changes)


@absent("bitsandbytes")
@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_quantization_without_its_package(bits, tiny):
    assert "pip install -U bitsandbytes" in refused(tiny, quantization={**BNB, bits: True})


@absent("flash_attn")
def test_attention_without_its_package(tiny):
    said = refused(tiny, attention="flash_attention_2")
    assert "no attention 'flash_attention_2'" in said
    assert "doesn't seem to be installed" in said


def test_several_processes_that_would_share_the_devices_of_one_model(tiny, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert "2 processes with a model each; start one process a machine" in refused(tiny, device_map="auto")
    assert checkpoint(tiny).check("tiny") == 8


def test_a_folder_that_is_not_there_or_holds_no_model(tmp_path):
    said = refused(tmp_path / "nowhere")
    assert said == f"model tiny: no folder {tmp_path / 'nowhere'}; set model.tiny.path"
    assert "it holds no config.json" in refused(tmp_path)


def test_a_folder_without_weights(copy):
    (copy / "model.safetensors").unlink()
    assert refused(copy) == f"model tiny: {copy} lacks its weights: no model.safetensors"
    shards = {
        "a": "model-1-of-2.safetensors",
        "b": "model-2-of-2.safetensors",
        "c": "model-1-of-2.safetensors",
    }
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}), encoding="utf-8")
    (copy / "model-1-of-2.safetensors").touch()
    assert refused(copy).endswith("lacks its weights: no model-2-of-2.safetensors")
    (copy / "model-2-of-2.safetensors").touch()
    assert checkpoint(copy).check("tiny") == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not a valid JSON file"),
        ('{"model_type": "lava"}', "model type `lava`"),
        ('{"model_type": "llava", "image_seq_length": "many"}', "image_seq_length"),
        ('{"model_type": "x", "auto_map": {"AutoConfig": "a.B"}}', "custom code"),
    ],
)
def test_a_configuration_that_cannot_be_read(text, said, copy):
    (copy / "config.json").write_text(text, encoding="utf-8")
    told = refused(copy)
    assert f"no configuration at {copy}: " in told
    assert said in told


def test_a_model_that_sees_nothing(copy):
    transformers.BertConfig().save_pretrained(copy)
    assert f"{copy} is a bert, which no image-text-to-text class" in refused(copy)


def test_a_class_that_cannot_generate(copy):
    transformers.PI0Config().save_pretrained(copy)
    said = refused(copy)
    assert said == f"model tiny: PI0ForConditionalGeneration, the class of {copy}, cannot generate"


def test_no_tokenizer(copy):
    for file in copy.glob("token*"):
        file.unlink()
    assert "no processor with a tokenizer and an image processor" in refused(copy)


def test_no_image_processor(copy):
    values = json.loads((copy / "processor_config.json").read_text("utf-8"))
    del values["image_processor"]
    (copy / "processor_config.json").write_text(json.dumps(values), encoding="utf-8")
    assert "image processor" in refused(copy)


def test_a_chat_template_that_does_not_parse(copy):
    (copy / "chat_template.jinja").write_text("{% for %}", encoding="utf-8")
    assert "prompts by chat template do not work with this processor: " in refused(copy)


def test_a_chat_template_that_knows_of_no_images(copy):
    of_text = "{% for m in messages %}{{ m['role'] }}: {{ m['content'][-1]['text'] }} {% endfor %}"
    (copy / "chat_template.jinja").write_text(of_text, encoding="utf-8")
    assert "prompts by chat template do not work with this processor: " in refused(copy)


@absent("torchvision")
def test_a_processor_that_needs_torchvision_itself(copy):
    edit(copy / "processor_config.json", processor_class="PixtralProcessor")
    said = refused(copy)
    assert (
        f"the processor at {copy} needs torchvision, which is not installed; pip install torchvision" in said
    )


@absent("torchvision")
@absent("num2words")
def test_a_processor_that_needs_another_package(tmp_path):
    folder = tiny_models.write("qwen2_5_vl", tmp_path / "other")
    edit(folder / "preprocessor_config.json", processor_class="SmolVLMProcessor")
    assert "`pip install num2words`" in refused(folder)


def test_weights_of_another_model_are_told_in_one_line(copy):
    (copy / "model.safetensors").write_bytes(b"no weights at all")
    assert checkpoint(copy).check("tiny") == 8
    with pytest.raises(UsageError, match=f"model tiny: {copy} cannot be loaded: "):
        checkpoint(copy).load("tiny")


def test_inputs_enter_where_the_first_device_is():
    spread = {"vision": "cpu", "model": "meta", "head": "disk"}
    assert entrance(SimpleNamespace(hf_device_map=spread)) == torch.device("meta")
    assert entrance(SimpleNamespace(hf_device_map={"": "cpu"})) == torch.device("cpu")


def test_a_folder_s_checksum_is_of_its_files(copy):
    before = checkpoint(copy).checksum()
    assert before.startswith("sha256:")
    (copy / "README.md").write_text("a card", encoding="utf-8")
    assert checkpoint(copy).checksum() == before
    edit(copy / "generation_config.json", eos_token_id=3)
    assert checkpoint(copy).checksum() != before


def test_a_conversation_whose_words_look_like_an_image_is_refused_and_not_the_next(tiny):
    loaded = checkpoint(tiny).load("tiny")
    with pytest.raises(ValueError, match="<image>"):
        loaded.inputs([[user("What does <image> mean?", tiny_models.picture("red"))]])
    assert (
        loaded.inputs([[user("What does it mean?", tiny_models.picture("red"))]])["input_ids"].shape[0] == 1
    )
