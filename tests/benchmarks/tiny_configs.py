"""Configs of tiny models of nine classes, for a vocabulary and the ids of its special tokens.

They are those of `families` where these fit.
"""

from typing import Any

import families
import more_families
import transformers

SIDE = 16
"""Pixels of one tile of a picture, in every vision tower."""

GROUPED = {**families.TEXT, "num_key_value_heads": 2}
CLIP = {"model_type": "clip_vision_model", **more_families.VISION, "image_size": SIDE, "patch_size": 8}
SIGLIP = {"model_type": "siglip_vision_model", **more_families.VISION, "image_size": SIDE, "patch_size": 8}
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]


def _vocabulary(config: Any, size: int) -> Any:
    """The text part of a config for another vocabulary, a longer context and an end of text."""
    text = config.get_text_config()
    text.vocab_size, text.max_position_embeddings, text.eos_token_id = size, 1024, 2
    return config


def llava(ids: dict[str, int], size: int) -> Any:
    config = families.llava().model.config
    config.image_token_index = ids["<image>"]
    return _vocabulary(config, size)


def llava_next(ids: dict[str, int], size: int) -> Any:
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


def llava_onevision(ids: dict[str, int], size: int) -> Any:
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


def instructblip(ids: dict[str, int], size: int) -> Any:
    config = more_families.instructblip().model.config
    config.image_token_index = ids["<image>"]
    config.qformer_config.vocab_size, config.qformer_config.max_position_embeddings = size, 512
    return _vocabulary(config, size)


def qwen2_5_vl(ids: dict[str, int], size: int) -> Any:
    return _vocabulary(_qwen(families.qwen2_5_vl().model.config, ids), size)


def qwen3_vl(ids: dict[str, int], size: int) -> Any:
    return _vocabulary(_qwen(more_families.qwen3_vl().model.config, ids), size)


def _qwen(config: Any, ids: dict[str, int]) -> Any:
    config.image_token_id, config.video_token_id = ids["<|image_pad|>"], ids["<|video_pad|>"]
    config.vision_start_token_id, config.vision_end_token_id = ids["<|vision_start|>"], ids["<|vision_end|>"]
    config.vision_config.temporal_patch_size = 2
    return config


def internvl(ids: dict[str, int], size: int) -> Any:
    config = more_families.internvl().model.config
    config.image_token_id = ids["<IMG_CONTEXT>"]
    return _vocabulary(config, size)


def idefics3(ids: dict[str, int], size: int) -> Any:
    return _vocabulary(
        transformers.Idefics3Config(
            vision_config={**more_families.VISION, "image_size": SIDE, "patch_size": 4},
            text_config={"model_type": "llama", **GROUPED},
            image_token_id=ids["<image>"],
            scale_factor=2,
        ),
        size,
    )


def gemma3(ids: dict[str, int], size: int) -> Any:
    config = families.gemma3().model.config
    config.image_token_index = ids["<image_soft_token>"]
    config.boi_token_index, config.eoi_token_index = ids["<start_of_image>"], ids["<end_of_image>"]
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False  # or it repeats itself
    return _vocabulary(config, size)


def florence2(ids: dict[str, int], size: int) -> Any:
    config = more_families.florence2().model.config
    config.image_token_id = ids["<image>"]
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    config.text_config.forced_eos_token_id = 2  # as its authors', BART's
    return _vocabulary(config, size)
