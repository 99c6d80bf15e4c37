"""Tiny random checkpoints of real classes, written as their authors' are: what from_pretrained finds on disk.

Configs are those of `families` where these fit. A processor that transformers builds without torchvision is
saved by it; of the others the files are written as they lie on the hub: preprocessor_config.json with the
class's name, processor_config.json, the tokenizer and the chat template.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import families
import more_families
import torch
import transformers
import yaml
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from benchmarks.methods import create
from benchmarks.models import Checkpoint

DEFAULTS = Path(__file__).parents[2] / "conf" / "checkpoint.yaml"

SIDE = 16
"""Pixels of one tile of a picture, in every vision tower."""

TEXTS = (
    "Please describe this image in detail. Is there a dog in the image? Please answer yes or no. "
    "Describe this image. There is a cat on the table, and a person near the window. USER: ASSISTANT: "
    "user assistant system yes no the a an is are of in on and to with Question: Short answer:"
)
PLAIN = ("<pad>", "<s>", "</s>")
GROUPED = {**families.TEXT, "num_key_value_heads": 2}


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


def write(kind: str, folder: Path, *, seed: int = 0) -> Path:
    """Saves a tiny random model of this kind with its processor into ``folder``; returns ``folder``."""
    made = KINDS[kind]
    tokenizer = _tokenizer(made.tokens, made.more)
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


@cache
def _pieces() -> str:
    """A byte-level tokenizer of about 300 pieces: it reads any text."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=320,
        show_progress=False,
        special_tokens=list(PLAIN),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator([TEXTS], trainer)
    return backend.to_str()


def _tokenizer(tokens: Mapping[str, str], more: Sequence[str]) -> Any:
    backend = Tokenizer.from_str(_pieces())
    special = (*tokens.values(), *more)
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=1024,
        extra_special_tokens=dict(tokens) or list(more),
        clean_up_tokenization_spaces=False,
    )


def _sharpen(model: Any) -> None:
    """Scales weights up until pictures and layers matter to the next token."""
    families._sharpen(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "projector" in name or "multi_modal" in name or "merger" in name or "connector" in name:
                weight.mul_(3)
            if weight.dim() > 1 and not weight.any():
                weight.normal_()  # as new as it is, it shuts pictures out


def _pixels(kind: Any, **settings: Any) -> Callable[[], Any]:
    return lambda: kind(image_mean=[0.5] * 3, image_std=[0.25] * 3, **settings)


def _vocabulary(config: Any, size: int) -> Any:
    """The text part of a config for another vocabulary, a longer context and an end of text."""
    text = config.get_text_config()
    text.vocab_size, text.max_position_embeddings, text.eos_token_id = size, 1024, 2
    return config


def _llava(ids: dict[str, int], size: int) -> Any:
    config = families.llava().model.config
    config.image_token_index = ids["<image>"]
    return _vocabulary(config, size)


CLIP = {"model_type": "clip_vision_model", **more_families.VISION, "image_size": SIDE, "patch_size": 8}
SIGLIP = {"model_type": "siglip_vision_model", **more_families.VISION, "image_size": SIDE, "patch_size": 8}
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]


def _llava_next(ids: dict[str, int], size: int) -> Any:
    return _vocabulary(
        transformers.LlavaNextConfig(
            vision_config=CLIP,
            text_config={"model_type": "llama", **GROUPED},
            image_token_index=ids["<image>"],
            image_grid_pinpoints=PINPOINTS,
            image_seq_length=4,
        ),
        size,
    )


def _llava_onevision(ids: dict[str, int], size: int) -> Any:
    return _vocabulary(
        transformers.LlavaOnevisionConfig(
            vision_config={**SIGLIP, "vision_use_head": False},
            text_config={"model_type": "qwen2", **GROUPED},
            image_token_index=ids["<image>"],
            video_token_index=ids["<video>"],
            image_grid_pinpoints=PINPOINTS,
        ),
        size,
    )


def _instructblip(ids: dict[str, int], size: int) -> Any:
    config = more_families.instructblip().model.config
    config.image_token_index = ids["<image>"]
    config.qformer_config.vocab_size, config.qformer_config.max_position_embeddings = size, 512
    return _vocabulary(config, size)


def _qwen2_5_vl(ids: dict[str, int], size: int) -> Any:
    return _vocabulary(_qwen(families.qwen2_5_vl().model.config, ids), size)


def _qwen3_vl(ids: dict[str, int], size: int) -> Any:
    return _vocabulary(_qwen(more_families.qwen3_vl().model.config, ids), size)


def _qwen(config: Any, ids: dict[str, int]) -> Any:
    config.image_token_id, config.video_token_id = ids["<|image_pad|>"], ids["<|video_pad|>"]
    config.vision_start_token_id, config.vision_end_token_id = ids["<|vision_start|>"], ids["<|vision_end|>"]
    config.vision_config.temporal_patch_size = 2
    return config


def _internvl(ids: dict[str, int], size: int) -> Any:
    config = more_families.internvl().model.config
    config.image_token_id = ids["<IMG_CONTEXT>"]
    return _vocabulary(config, size)


def _idefics3(ids: dict[str, int], size: int) -> Any:
    return _vocabulary(
        transformers.Idefics3Config(
            vision_config={**more_families.VISION, "image_size": SIDE, "patch_size": 4},
            text_config={"model_type": "llama", **GROUPED},
            image_token_id=ids["<image>"],
            scale_factor=2,
        ),
        size,
    )


def _gemma3(ids: dict[str, int], size: int) -> Any:
    config = families.gemma3().model.config
    config.image_token_index = ids["<image_soft_token>"]
    config.boi_token_index, config.eoi_token_index = ids["<start_of_image>"], ids["<end_of_image>"]
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False  # or it repeats itself
    return _vocabulary(config, size)


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
        config=_llava,
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
        config=_llava_next,
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
        config=_llava_onevision,
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
        config=_instructblip,
        image_processor=_pixels(transformers.BlipImageProcessorPil, size={"height": SIDE, "width": SIDE}),
        processor=lambda pixels, tokenizer: transformers.InstructBlipProcessor(
            pixels, tokenizer, _tokenizer({}, ()), num_query_tokens=4
        ),
        more=("<image>",),
    ),
    "qwen2_5_vl": Kind(
        config=_qwen2_5_vl,
        image_processor=QWEN_PIXELS,
        processor=("Qwen2_5_VLProcessor", {}),
        more=QWEN_TOKENS,
        template=_template(CHATML, QWEN_IMAGE, *CHATML_ENDS),
    ),
    "qwen3_vl": Kind(
        config=_qwen3_vl,
        image_processor=QWEN_PIXELS,
        processor=("Qwen3VLProcessor", {}),
        more=QWEN_TOKENS,
        template=_template(CHATML, QWEN_IMAGE, *CHATML_ENDS),
    ),
    "internvl": Kind(
        config=_internvl,
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
        config=_idefics3,
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
        config=_gemma3,
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
