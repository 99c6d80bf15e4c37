"""What nine classes have beside their weights: image processor, processor, special tokens, chat template."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tiny_configs
import tiny_tokenizer
import transformers
from tiny_configs import PINPOINTS, SIDE


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A class of models: its config for a vocabulary, and the files of its processor.

    Attributes:
        tokens: names that the processor reads from its tokenizer, and the tokens they stand for.
        more: other special tokens.
        config: the model's configuration, given the tokens' ids.
        image_processor: the image processor, PIL's.
        processor: the processor from image processor and tokenizer; or a class's name and its settings, where
            transformers cannot make one without torchvision.
        template: the chat template, if it has one.
    """

    config: Callable[[dict[str, int], int], Any]
    image_processor: Callable[[], Any]
    processor: Callable[[Any, Any], Any] | tuple[str, dict[str, Any]]
    tokens: dict[str, str] = field(default_factory=dict)
    more: tuple[str, ...] = ()
    template: str | None = None


def _pixels(kind: Any, **settings: Any) -> Callable[[], Any]:
    return lambda: kind(image_mean=[0.5] * 3, image_std=[0.25] * 3, **settings)


def _template(turn: str, image: str, end: str, answer: str) -> str:
    """A chat template: ``turn`` opens a message (it may say `role`), ``answer`` opens the one to write."""
    return (
        "{% for message in messages %}{% set role = message['role'] %}"
        + turn
        + "{% for part in message['content'] %}"
        + "{% if part['type'] == 'image' %}"
        + image
        + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        + end
        + "{% endfor %}{% if add_generation_prompt %}"
        + answer
        + "{% endif %}"
    )


VICUNA = _template("{{ role | upper }}: ", "<image>\n", " ", "ASSISTANT:")
CHATML_ENDS = "<|im_end|>\n", "<|im_start|>assistant\n"
CHATML = "<|im_start|>{{ role }}\n"
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
QWEN_PIXELS = _pixels(
    transformers.Qwen2VLImageProcessorPil,
    patch_size=4,
    merge_size=2,
    temporal_patch_size=2,
    size={"shortest_edge": 64, "longest_edge": 256},
)
TILES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 3) for column in range(1, 3))

KINDS = {
    "llava": Kind(
        config=tiny_configs.llava,
        image_processor=_pixels(
            transformers.CLIPImageProcessorPil, size={"height": SIDE, "width": SIDE}, do_center_crop=False
        ),
        processor=lambda pixels, tokenizer: transformers.LlavaProcessor(
            pixels,
            tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=VICUNA,
        ),
        more=("<image>",),
    ),
    "llava_next": Kind(
        config=tiny_configs.llava_next,
        image_processor=_pixels(
            transformers.LlavaNextImageProcessorPil,
            size={"shortest_edge": SIDE},
            crop_size={"height": SIDE, "width": SIDE},
            image_grid_pinpoints=PINPOINTS,
        ),
        processor=lambda pixels, tokenizer: transformers.LlavaNextProcessor(
            pixels,
            tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=_template("", "<image>\n", " ", "[/INST]"),
        ),
        more=("<image>",),
    ),
    "llava_onevision": Kind(
        config=tiny_configs.llava_onevision,
        image_processor=_pixels(
            transformers.LlavaOnevisionImageProcessorPil,
            size={"height": SIDE, "width": SIDE},
            image_grid_pinpoints=PINPOINTS,
        ),
        processor=(
            "LlavaOnevisionProcessor",
            {
                "num_image_tokens": 4,
                "vision_feature_select_strategy": "full",
                "vision_aspect_ratio": "anyres_max_9",
            },
        ),
        more=("<|im_start|>", "<|im_end|>", "<image>", "<video>"),
        template=_template(CHATML, "<image>\n", *CHATML_ENDS),
    ),
    "instructblip": Kind(
        config=tiny_configs.instructblip,
        image_processor=_pixels(transformers.BlipImageProcessorPil, size={"height": SIDE, "width": SIDE}),
        processor=lambda pixels, tokenizer: transformers.InstructBlipProcessor(
            pixels, tokenizer, tiny_tokenizer.build({}, ()), num_query_tokens=4
        ),
        more=("<image>",),
    ),
    "qwen2_5_vl": Kind(
        config=tiny_configs.qwen2_5_vl,
        image_processor=QWEN_PIXELS,
        processor=("Qwen2_5_VLProcessor", {}),
        more=QWEN_TOKENS,
        template=_template(CHATML, QWEN_IMAGE, *CHATML_ENDS),
    ),
    "qwen3_vl": Kind(
        config=tiny_configs.qwen3_vl,
        image_processor=QWEN_PIXELS,
        processor=("Qwen3VLProcessor", {}),
        more=QWEN_TOKENS,
        template=_template(CHATML, QWEN_IMAGE, *CHATML_ENDS),
    ),
    "internvl": Kind(
        config=tiny_configs.internvl,
        image_processor=_pixels(
            transformers.GotOcr2ImageProcessorPil,
            size={"height": SIDE, "width": SIDE},
            crop_to_patches=True,
            min_patches=1,
            max_patches=2,
        ),
        processor=("InternVLProcessor", {"image_seq_length": 4}),
        tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        more=("<|im_start|>", "<|im_end|>"),
        template=_template(CHATML, "<IMG_CONTEXT>\n", *CHATML_ENDS),
    ),
    "idefics3": Kind(
        config=tiny_configs.idefics3,
        image_processor=_pixels(
            transformers.Idefics3ImageProcessorPil,
            size={"longest_edge": 2 * SIDE},
            max_image_size={"longest_edge": SIDE},
        ),
        processor=lambda pixels, tokenizer: transformers.Idefics3Processor(
            pixels,
            tokenizer,
            image_seq_len=4,
            chat_template=_template(
                "{{ role | capitalize }}:", "<image>", "<end_of_utterance>\n", "Assistant:"
            ),
        ),
        more=("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *TILES),
    ),
    "gemma3": Kind(
        config=tiny_configs.gemma3,
        image_processor=_pixels(transformers.Gemma3ImageProcessorPil, size={"height": SIDE, "width": SIDE}),
        processor=lambda pixels, tokenizer: transformers.Gemma3Processor(
            pixels,
            tokenizer,
            image_seq_length=4,
            chat_template=_template(
                "<start_of_turn>{{ role }}\n", "<start_of_image>", "<end_of_turn>\n", "<start_of_turn>model\n"
            ),
        ),
        tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        more=("<start_of_turn>", "<end_of_turn>"),
    ),
}

FLORENCE2 = Kind(
    config=tiny_configs.florence2,
    image_processor=_pixels(
        transformers.CLIPImageProcessorPil,
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_seq_length=5,  # 2 x 2 patches and their mean
    ),
    processor=transformers.Florence2Processor,
    tokens={"image_token": "<image>"},
)
"""A tenth: an encoder reads picture and prompt, a decoder answers; neither templates nor turns."""
