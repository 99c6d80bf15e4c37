"""The gate by the part of the sentence, on answers of a shipped model."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.miniature import world
from benchmarks.parts import PartGate
from mutation_decode import Contrast, Detector, MutationLogitsProcessor

FOLDER = Path(world.__file__).parent / "models" / "miniature-natural"


@pytest.fixture(scope="module")
def fired():
    """Part -> of each token of two captions, whether it is an object word, and whether anything fired."""
    model = AutoModelForImageTextToText.from_pretrained(FOLDER, dtype=torch.float32)
    reader = AutoProcessor.from_pretrained(FOLDER)
    asked = [{"type": "image"}, {"type": "text", "text": world.CAPTION_PROMPT}]
    text = reader.apply_chat_template([{"role": "user", "content": asked}], add_generation_prompt=True)
    images = [scene.image() for scene in world.scenes("validation", 2, seed=4)]
    inputs = reader(images=images, text=[text] * 2, return_tensors="pt", padding=True)
    found = {}
    for part in (None, "objects", "others"):
        untouched = Contrast(alpha=0.0)
        everywhere = Detector(threshold=0.0, critical=0.75, include_last=True)
        with MutationLogitsProcessor(
            model, untouched, detector=everywhere, gate=PartGate(part=part), trace=True
        ) as processor:
            model.generate(**inputs, max_new_tokens=40, do_sample=False, logits_processor=[processor])
            words = reader.tokenizer.convert_ids_to_tokens(processor.trace.tokens.flatten())
            objects = torch.tensor([word in world.NOUNS for word in words])
            kept = processor.trace.generated.flatten()
            found[part] = objects[kept], processor.trace.fired.flatten()[kept]
    return found


def test_the_gate_lets_one_part_through(fired):
    objects, everywhere = fired[None]
    assert everywhere.all()
    assert 0 < int(objects.sum()) < len(objects)
    assert torch.equal(fired["objects"][1], objects)
    assert torch.equal(fired["others"][1], ~objects)


def test_there_is_no_other_part():
    with pytest.raises(ValueError, match="part is objects, others or None, got 'verbs'"):
        PartGate(part="verbs")
