"""Tiny models of nine classes, each loaded and asked through the one path that real checkpoints take."""

import shutil

import pytest
import tiny_models
import torch
import transformers
from tiny_models import ASKED, answers, assistant, checkpoint, picture, user
from transformers.utils import is_torchvision_available

from benchmarks.batch import Asking
from benchmarks.tasks import about

STOCK = {
    "llava": transformers.LlavaProcessor,
    "llava_next": transformers.LlavaNextProcessor,
    "instructblip": transformers.InstructBlipProcessor,
    "idefics3": transformers.Idefics3Processor,
    "gemma3": transformers.Gemma3Processor,
}
"""What transformers makes itself without torchvision."""

PLACEHOLDERS = {
    "llava": ["<image>"],
    "llava_next": ["<image>"],
    "llava_onevision": ["<image>", "<video>"],
    "instructblip": ["<image>"],
    "qwen2_5_vl": ["<|image_pad|>", "<|video_pad|>"],
    "qwen3_vl": ["<|image_pad|>", "<|video_pad|>"],
    "internvl": ["<IMG_CONTEXT>", "<video>"],
    "idefics3": ["<image>"],
    "gemma3": ["<start_of_image>", "<image_soft_token>"],
}
"""What is no word to a model: of all its tokens, these end its forward with an error, or its processor."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint a kind, written when it is asked for: older transformers cannot write all of them."""
    root = tmp_path_factory.mktemp("tiny")

    class Written(dict):
        def __missing__(self, kind):
            self[kind] = tiny_models.write(kind, root / kind)
            return self[kind]

    return Written()


@pytest.fixture(scope="module", params=tiny_models.KINDS)
def loaded(request, folders):
    made = checkpoint(folders[request.param])
    assert made.check(request.param) == 8
    return made.load(request.param)


@pytest.fixture
def of_chat(loaded):
    """The kinds with a chat template; the other takes one image in one turn."""
    if loaded.name == "instructblip":
        pytest.skip("takes one turn with one image")
    return loaded


def scores(loaded, conversation):
    """Of the first token, by a plain forward."""
    with torch.inference_mode():
        return loaded.model(**loaded.inputs([conversation])).logits[0, -1]


def test_a_batch_gives_the_tokens_of_each_conversation_alone(loaded):
    assert len(set(loaded.lengths(loaded.inputs(ASKED)))) > 1, "some are padded"
    together = answers(loaded, ASKED)
    assert together == [answers(loaded, [one])[0] for one in ASKED]
    assert len({tuple(answer) for answer in together}) == 3


def test_the_picture_matters(loaded):
    red, blue = (scores(loaded, [user("Describe", picture(color))]) for color in ("red", "blue"))
    assert (red - blue).abs().max() > 0.01 * red.std()


def test_prompts_are_those_of_the_processor_s_own_chat_template(of_chat):
    several = [
        [user("One?", picture("red")), assistant("A cat."), user("And here?", picture("blue", 30, 50))],
        [user("Compare", picture("red"), picture("green", 30, 50))],
        *ASKED,
    ]
    ours = of_chat.inputs(several)
    theirs = of_chat.processor.apply_chat_template(
        several,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"padding": True},
    )
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name].to(tensor.dtype)), name
    assert of_chat.prompting == "chat template"


def test_the_text_holds_one_image_token_an_image(of_chat):
    token = of_chat.processor.image_token
    three = [
        user("One?", picture("red")),
        assistant("A cat."),
        user("Both?", picture("blue"), picture("red")),
    ]
    assert of_chat.rendered(three).count(token) == 3
    assert of_chat.rendered([user("Nothing to see?")]).count(token) == 0
    blank = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it?"}]}]
    assert of_chat.rendered(blank) == of_chat.rendered([user("Is it?", picture("red"))])


def test_several_images_earlier_turns_and_no_image_at_all_in_one_batch(of_chat):
    mixed = [
        [user("Compare", picture("red"), picture("blue", 30, 50))],
        [user("One?", picture("green")), assistant("A cat."), user("And here?", picture("red", 30, 50))],
        [user("Nothing to see?")],
        [user("Describe", picture("blue"))],
    ]
    assert answers(of_chat, mixed) == [answers(of_chat, [one])[0] for one in mixed]
    swapped = [user("Compare", picture("blue", 30, 50), picture("red"))]
    assert not torch.allclose(scores(of_chat, mixed[0]), scores(of_chat, swapped), atol=1e-3)
    told = [user("One?", picture("green")), assistant("A dog."), user("And here?", picture("red", 30, 50))]
    assert not torch.allclose(scores(of_chat, mixed[1]), scores(of_chat, told), atol=1e-3)


def test_lengths_count_what_the_model_reads(loaded):
    batch = loaded.inputs(ASKED)
    alone = [loaded.inputs([one])["input_ids"].shape[1] for one in ASKED]
    assert loaded.lengths(batch) == alone
    assert loaded.context == 1024


def test_the_model_inside_another_s_generate_knows_what_ends_a_text(folders):
    loaded = checkpoint(folders["instructblip"]).load("instructblip")
    inner = loaded.model.language_model.generation_config
    assert inner.eos_token_id == 2
    assert inner.suppress_tokens == loaded.model.generation_config.suppress_tokens


@pytest.mark.skipif(is_torchvision_available(), reason="with torchvision all are stock")
def test_processors_are_stock_or_put_together_and_then_one_line_says_so(loaded, folders, tmp_path, capfd):
    folder = shutil.copytree(folders[loaded.name], tmp_path / "moved")
    for _ in range(2):
        checkpoint(folder).check(loaded.name)
    notes = [line for line in capfd.readouterr().err.splitlines() if line.startswith("note: ")]
    if loaded.name in STOCK:
        assert type(loaded.processor) is STOCK[loaded.name]
        assert notes == []
    else:
        assert isinstance(loaded.processor, transformers.ProcessorMixin)
        assert loaded.processor.image_processor.__class__.__name__.endswith("Pil")
        assert len(notes) == 1
        assert f"torchvision is not installed: {folder} gets its image processor for PIL" in notes[0]
        assert "pip install torchvision" in notes[0]


def test_half_precision_reaches_the_pixels_and_not_the_tokens(folders):
    for kind in ("llava", "qwen2_5_vl"):
        loaded = checkpoint(folders[kind], dtype="bfloat16").load(kind)
        batch = loaded.inputs(ASKED[:2])
        assert batch["pixel_values"].dtype == loaded.model.dtype == torch.bfloat16
        assert batch["input_ids"].dtype == torch.int64
        assert len(answers(loaded, ASKED[:2])[0]) == 10


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}])
def test_spread_by_accelerate_it_says_the_same(device_map, folders):
    plain, spread = (checkpoint(folders["llava"], device_map=how).load("llava") for how in (None, device_map))
    assert answers(spread, ASKED) == answers(plain, ASKED)


def test_attention_is_the_one_asked_for(folders):
    made = checkpoint(folders["llava"], attention="eager")
    assert made.check("llava") == 8
    eager = made.load("llava")
    assert eager.model.config._attn_implementation == "eager"
    assert answers(eager, ASKED) == answers(checkpoint(folders["llava"]).load("llava"), ASKED)


def test_settings_of_the_processor(folders):
    image = [user("Describe", picture("red", 64, 64))]

    def length(kind, **settings):
        made = checkpoint(folders[kind], processor=settings or None)
        made.check(kind)
        loaded = made.load(kind)
        return loaded.lengths(loaded.inputs([image]))[0]

    assert length("qwen2_5_vl", max_pixels=1024) - length("qwen2_5_vl") == (1024 - 256) / 8**2
    assert length("idefics3", do_image_splitting=False) < length("idefics3")
    assert length("internvl", max_patches=1) == length("internvl", crop_to_patches=False)
    assert length("internvl", max_patches=4) == length("internvl", max_patches=1) + 4 * 4


def test_words_that_are_taken_for_an_image_end_as_an_error_line_and_the_others_are_answered(loaded):
    def asked(text):
        return about({"image_id": text}, text, lambda: picture("red"))

    asking = Asking(loaded, None, {"max_new_tokens": 3, "do_sample": False}, "caption")
    named = PLACEHOLDERS[loaded.name]
    (first, *wrong, last), _ = asking.lines(
        [asked("Describe"), *(asked(f"What is {token}?") for token in named), asked("Is there a dog?")]
    )
    for token, line in zip(named, wrong, strict=True):
        assert line["error"].startswith(f"the model does not take this: its words have {token}, ")
    assert [first["tokens"], last["tokens"]] == [3, 3]
    (alone,), _ = asking.lines([asked("What is <picture>?")])
    assert alone["tokens"] == 3
