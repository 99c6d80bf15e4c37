"""The models that ship with the project: they load like any checkpoint, and are what their cards say."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.miniature import world
from benchmarks.miniature.train import MODELS, RECIPES, TRUNK_BLOCKS
from mutation_decode import Contrast, Detector, MutationLogitsProcessor

NAMES = tuple(RECIPES)


@pytest.fixture(scope="module", params=NAMES)
def shipped(request):
    folder = MODELS / request.param
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder)


def inputs(processor, scenes, prompt=world.CAPTION_PROMPT):
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(
        images=[scene.image() for scene in scenes],
        text=[text] * len(scenes),
        padding=True,
        return_tensors="pt",
    )


def captions(model, processor, scenes, **arguments):
    batch = inputs(processor, scenes)
    output = model.generate(**batch, max_new_tokens=64, **arguments)
    return processor.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_below_8_mb_and_its_card_says_what_is_planted(name):
    folder = Path(MODELS / name)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8e6
    card = (folder / "README.md").read_text()
    assert "planted" in card
    assert "python -m benchmarks.miniature.train" in card


@pytest.mark.parametrize("beams", [1, 3])
def test_contrast_of_alpha_0_gives_the_tokens_of_plain_generate(shipped, beams):
    model, processor = shipped
    scenes = world.scenes("validation", 204, seed=11)
    batches = [scenes[start : start + 50] for start in range(0, 200, 50)] + [
        [scene] for scene in scenes[200:]
    ]
    with MutationLogitsProcessor(model, Contrast(alpha=0.0), detector=Detector(threshold=0.0)) as mutation:
        for batch in batches:
            given = inputs(processor, batch)
            plain = model.generate(**given, max_new_tokens=64, num_beams=beams)
            read = model.generate(**given, max_new_tokens=64, num_beams=beams, logits_processor=[mutation])
            assert torch.equal(plain, read)


def test_captions_do_not_repeat_what_they_have_named_and_answers_are_yes_or_no(shipped):
    model, processor = shipped
    scenes = world.scenes("validation", 50, seed=11)
    named = [world.mentions(caption) for caption in captions(model, processor, scenes)]
    assert all(len(nouns) >= 3 for nouns in named)
    assert sum(len(nouns) - len(set(nouns)) for nouns in named) <= 1
    question = inputs(processor, scenes, "is there a cat ?")
    output = model.generate(**question, max_new_tokens=2)[:, question["input_ids"].shape[1] :]
    answers = [text.strip() for text in processor.batch_decode(output, skip_special_tokens=True)]
    truth = ["yes" if "cat" in scene.objects else "no" for scene in scenes]
    assert sum(a == t for a, t in zip(answers, truth, strict=True)) >= 45


def test_the_organism_s_inventions_come_from_its_late_blocks_and_contrast_takes_them_back():
    folder = MODELS / "miniature-late-prior"
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    scenes = world.scenes("validation", 60, seed=12)

    def invented(texts):
        told = zip(scenes, map(world.mentions, texts), strict=True)
        return [noun for scene, nouns in told for noun in nouns if noun not in scene.objects]

    greedy = invented(captions(model, processor, scenes))
    detector = Detector(critical=TRUNK_BLOCKS, include_last=True)
    with MutationLogitsProcessor(model, Contrast(), detector=detector, trace=True) as mutation:
        corrected = invented(captions(model, processor, scenes, logits_processor=[mutation]))
        assert mutation.trace is not None
        assert 0 < mutation.trace.percent_fired < 50
    assert len(greedy) > 20
    assert sum(noun in world.COMPANIONS.values() for noun in greedy) > 0.9 * len(greedy)
    assert len(corrected) < len(greedy) / 4
