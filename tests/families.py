"""Tiny models of several families, built from configs with random weights, and prompts for them.

Their weights are scaled up until layers disagree, and each family's threshold is the median of what its
blocks do, so that about half of the tokens fire: a law that is tested where nothing happens is not tested.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor

from mutation_decode import Detector, LogitLens

VOCAB, IMAGE, START, END = 120, 119, 118, 117
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
GEMMA = {**TEXT, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6}


@dataclass
class Family:
    """A model, prompts of different lengths for it, and a detector that fires on about half of the tokens."""

    name: str
    model: Any
    prompts: list[list[int]]
    images: Callable[[Sequence[int], Tensor], dict[str, Tensor]] = lambda rows, ids: {}
    detector: Detector = field(default_factory=Detector)

    def batch(self, *rows: int, suffix: Tensor | None = None) -> dict[str, Tensor]:
        """Left-padded inputs for these prompts, each followed by its row of `suffix`."""
        tails = [[]] * len(rows) if suffix is None else suffix.tolist()
        texts = [self.prompts[row] + tail for row, tail in zip(rows, tails, strict=True)]
        width = max(map(len, texts))
        ids = torch.tensor([[0] * (width - len(text)) + text for text in texts])
        mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts])
        return {"input_ids": ids, "attention_mask": mask, **self.images(rows, ids)}

    def generate(self, *rows: int, **kwargs: Any) -> Any:
        """Ten tokens for these prompts; greedy unless told otherwise."""
        arguments = {"max_new_tokens": 10, "do_sample": False, **kwargs}
        return self.model.generate(**self.batch(*rows), **arguments)

    def answers(self, *rows: int, **kwargs: Any) -> Tensor:
        """Only the generated tokens, `[rows, tokens]`."""
        return self.generate(*rows, **kwargs)[:, max(len(self.prompts[row]) for row in rows) :]


def _sharpen(model: Any) -> None:
    ends = {id(w): w for w in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if id(weight) in ends:
                weight.mul_(20)
            elif weight.dim() > 1 and "vision" not in name and "visual" not in name:
                weight.mul_(12)


def _text(name: str, model: Any) -> Family:
    return Family(name, model, [[1, 5, 6, 7, 8, 9, 10], [1, 40, 41], [1, 70, 71, 72, 73]])


def _pictures(name: str, model: Any, images: Any) -> Family:
    image = [START, *[IMAGE] * 4, END]
    return Family(name, model, [[1, *image, 5, 6, 7, 8], [1, *image, 40], [1, 30, *image, 70, 71]], images)


def llava() -> Family:
    vision = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        image_seq_length=4,
        pad_token_id=0,
    )
    pixels = torch.randn(3, 3, 16, 16)
    return _pictures(
        "llava",
        transformers.LlavaForConditionalGeneration(config),
        lambda rows, ids: {"pixel_values": pixels[list(rows)]},
    )


def qwen2_5_vl() -> Family:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "num_key_value_heads": 2, "rope_parameters": rope},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 1,
            "fullatt_block_indexes": [1],
            "window_size": 16,
        },
        image_token_id=IMAGE,
        video_token_id=116,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    patches = torch.randn(3, 16, 48)
    return _pictures(
        "qwen2_5_vl",
        transformers.Qwen2_5_VLForConditionalGeneration(config),
        lambda rows, ids: {
            "pixel_values": patches[list(rows)].flatten(0, 1),
            "image_grid_thw": torch.tensor([[1, 4, 4]] * len(rows)),
            "mm_token_type_ids": (ids == IMAGE).int(),
        },
    )


def gemma3() -> Family:
    config = transformers.Gemma3Config(
        text_config=GEMMA,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 16,
            "patch_size": 4,
        },
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
        eos_token_id=None,
    )
    pixels = torch.randn(3, 3, 16, 16)
    return _pictures(
        "gemma3",
        transformers.Gemma3ForConditionalGeneration(config),
        lambda rows, ids: {"pixel_values": pixels[list(rows)], "token_type_ids": (ids == IMAGE).int()},
    )


def llama() -> Family:
    return _text("llama", transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT)))


def gemma2() -> Family:
    """Caps its logits after the head."""
    return _text(
        "gemma2",
        transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**GEMMA, final_logit_softcapping=8.0)),
    )


def gpt2() -> Family:
    """Blocks take the cache by position."""
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=8, n_head=4, n_positions=256, pad_token_id=0, eos_token_id=None
    )
    return _text("gpt2", transformers.GPT2LMHeadModel(config))


FAMILIES = (llava, qwen2_5_vl, gemma3, llama, gemma2, gpt2)


def ours_on(model: Any) -> list[str]:
    """Where this library has hooks on a model; transformers leaves some of its own."""
    return [
        name
        for name, module in model.named_modules()
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        if hook.__module__.startswith("mutation_decode")
    ]


def build(make: Callable[[], Family]) -> Family:
    """A family with its detector set."""
    torch.manual_seed(0)
    family = make()
    family.model.eval()
    family.model.generation_config.eos_token_id = None
    family.model.generation_config.pad_token_id = 0
    # An answer is text: it can be read again after a prompt without asking for more images.
    family.model.generation_config.suppress_tokens = [0, 116, END, START, IMAGE]
    _sharpen(family.model)
    family.detector = _median_detector(family)
    return family


def _median_detector(family: Family) -> Detector:
    """Half of the tokens of plain answers have a watched block above this threshold."""
    batch = family.batch(0, 1, 2)
    answers = family.answers(0, 1, 2)
    largest = []
    with torch.no_grad(), LogitLens(family.model) as lens:
        for length in range(1, answers.shape[1]):
            family.model(**family.batch(0, 1, 2, suffix=answers[:, :length]))
            js = lens.take().js()
            largest.append(js[:, list(Detector().blocks(js.shape[1]))].amax(dim=1))
    assert batch["attention_mask"].min() == 0, "the prompts differ in length"
    return Detector(threshold=float(torch.cat(largest).median()))
