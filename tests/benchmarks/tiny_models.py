"""Tiny random checkpoints of real classes, written as their authors' are: what from_pretrained finds on disk.

A processor that transformers builds without torchvision is saved by it; of the others the files are written
as they lie on the hub: preprocessor_config.json with the class's name, processor_config.json, the tokenizer
and the chat template.
"""

import json
from pathlib import Path
from typing import Any

import families
import tiny_tokenizer
import torch
import transformers
import yaml
from PIL import Image
from tiny_kinds import FLORENCE2, KINDS

from benchmarks.methods import create
from benchmarks.models import Checkpoint, Loaded, Messages

__all__ = ["ASKED", "KINDS", "answers", "assistant", "checkpoint", "picture", "user", "write"]

BART = {"vision_tower": 10, "fc": 1 / 12, "self_attn": 1 / 6, "encoder_attn": 2 / 3}
"""Florence-2's: its norms come after the sums, and what its decoder reads is to outweigh what it said."""

DEFAULTS = Path(__file__).parents[2] / "conf" / "checkpoint.yaml"


def write(kind: str, folder: Path, *, seed: int = 0) -> Path:
    """Saves a tiny random model of this kind with its processor into ``folder``; returns ``folder``."""
    made = FLORENCE2 if kind == "florence2" else KINDS[kind]
    tokenizer = tiny_tokenizer.build(made.tokens, made.more)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (*made.tokens.values(), *made.more)}
    torch.manual_seed(seed)
    config = made.config(ids, len(tokenizer))
    model = transformers.AutoModelForImageTextToText.from_config(config)
    _sharpen(model)
    settings = model.generation_config
    settings.pad_token_id, settings.bos_token_id, settings.eos_token_id = 0, 1, 2
    settings.suppress_tokens = [0, 1, *ids.values()]  # an answer is text
    model.save_pretrained(folder)
    if callable(made.processor):
        made.processor(made.image_processor(), tokenizer).save_pretrained(folder)
        return folder
    name, values = made.processor
    tokenizer.save_pretrained(folder)
    made.image_processor().save_pretrained(folder)
    _edit(folder / "preprocessor_config.json", processor_class=name)
    _edit(folder / "tokenizer_config.json", processor_class=name)
    if values:
        _edit(folder / "processor_config.json", processor_class=name, **values)
    if made.template is not None:
        (folder / "chat_template.jinja").write_text(made.template, encoding="utf-8")
    return folder


def _edit(path: Path, **values: Any) -> None:
    there = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**there, **values}), encoding="utf-8")


def _sharpen(model: Any) -> None:
    """Scales weights up until pictures and layers matter to the next token."""
    families._sharpen(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "projector" in name or "multi_modal" in name or "merger" in name or "connector" in name:
                weight.mul_(3)
            if weight.dim() > 1 and not weight.any():
                weight.normal_()  # as new as it is, it shuts pictures out
            if model.config.is_encoder_decoder and weight.dim() > 1:
                weight.mul_(next((times for part, times in BART.items() if part in name), 1))


def checkpoint(path: Path | str, **changes: Any) -> Checkpoint:
    """The checkpoint that a model's YAML makes of a path, in fp32 unless changed."""
    defaults = yaml.safe_load(DEFAULTS.read_text("utf-8"))
    made = create("model tiny", {**defaults, "path": str(path), "dtype": "float32", **changes})
    assert isinstance(made, Checkpoint)
    return made


def picture(color: str, width: int = 56, height: int = 28) -> Image.Image:
    """A plain picture with a black corner."""
    made = Image.new("RGB", (width, height), color)
    made.paste((0, 0, 0), (0, 0, width // 3, height // 3))
    return made


def user(text: str, *images: Image.Image) -> dict[str, Any]:
    """A turn of the user, its images before the text."""
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
    return {"role": "user", "content": content}


def assistant(text: str) -> dict[str, Any]:
    """A turn of the model."""
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


ASKED = [
    [user("Please describe this image in detail.", picture("red"))],
    [user("Is there a dog?", picture("blue", 30, 50))],
    [user("Describe", picture("green", 28, 28))],
]
"""Prompts of different lengths, about pictures of different sizes."""


def answers(loaded: Loaded, conversations: list[Messages]) -> list[list[int]]:
    """Ten tokens for each conversation, greedily."""

    class Ends(transformers.StoppingCriteria):
        prompt = None

        def __call__(self, ids, scores, **_):
            self.prompt = self.prompt or ids.shape[1] - 1
            return torch.zeros(len(ids), dtype=torch.bool)

    ends = Ends()
    pad = loaded.processor.tokenizer.pad_token_id
    with torch.inference_mode():
        output = loaded.model.generate(
            **loaded.inputs(conversations),
            max_new_tokens=10,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=None,
            stopping_criteria=[ends],
        )
    return output[:, ends.prompt :].tolist()
