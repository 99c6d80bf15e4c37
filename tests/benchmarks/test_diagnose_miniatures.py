"""Without a label, the library tells the model with the planted late prior from the control."""

import pytest
import torch
from test_shipped_models import NAMES, inputs
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.miniature import world
from benchmarks.miniature.train import MODELS, TRUNK_BLOCKS
from mutation_decode import diagnose

VERDICTS = {"miniature-late-prior": "late", "miniature-natural": "early"}


def other(batch):
    """The same prompts before the picture of the next row."""
    return {**batch, "pixel_values": batch["pixel_values"].roll(1, 0)}


@pytest.mark.parametrize("name", NAMES)
def test_verdicts(name):
    folder = MODELS / name
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    scenes = world.scenes("validation", 60, seed=31)
    batches = [inputs(processor, scenes[:30]), inputs(processor, scenes[30:])]
    masked, exchanged = (diagnose(model, batches, twins=twins) for twins in (None, other))
    assert masked.verdict == exchanged.verdict == VERDICTS[name]
    assert masked.answers == 60
    assert 0.2 * masked.tokens < masked.dependent < masked.tokens
    if VERDICTS[name] == "late":
        assert masked.turn in (TRUNK_BLOCKS - 1, TRUNK_BLOCKS)
        assert masked.toward_text > masked.toward_image
    else:
        assert masked.peak == model.config.text_config.num_hidden_layers
        assert masked.toward_text < masked.toward_image
