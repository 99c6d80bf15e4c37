"""Types that take pictures as flattened patches and the grid of each picture, the Qwen-VL way."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.conformance.kinds import Kind, a_picture, picture_tokens, pictures
from benchmarks.conformance.shrink import START

GRID = (1, 4, 4)
"""Patches of a picture in time, height and width; merged two by two they are four tokens."""

THREE_AXES = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
"""Positions in time, height and width, for heads of 8 numbers."""

ONE_FRAME = {"temporal_patch_size": 1}

WINDOWS = {**ONE_FRAME, "fullatt_block_indexes": [1], "window_size": 8}
"""A tower whose first block looks at windows of two by two patches, and the second one at all."""

DEEP = {**ONE_FRAME, "deepstack_visual_indexes": [0, 1]}
"""A tower both of whose blocks give to the first blocks of the decoder."""


def grids(
    vision: Any,
    text: Any = None,
    *,
    shape: Sequence[int] = (48,),
    tokens: int = 4,
    more: dict[str, Callable[[Tensor], Tensor]] | None = None,
    **config: Any,
) -> Kind:
    """A type that takes patches of four by four pixels in three channels.

    Args:
        vision, text, config: changes to the configuration.
        shape: of one patch.
        tokens: that a picture becomes.
        more: further inputs, made from the ids.
    """
    values = pictures(GRID[1] * GRID[2], *shape)

    def inputs(rows: Sequence[int], ids: Tensor) -> dict[str, Tensor]:
        return {
            "pixel_values": values[list(rows)].flatten(0, 1),
            "image_grid_thw": torch.tensor([GRID] * len(rows)),
            **{name: make(ids) for name, make in (more or {}).items()},
        }

    return Kind(
        config={"vision_config": vision, "text_config": text or {}, **config},
        image=a_picture(tokens),
        inputs=inputs,
    )


MARKED: dict[str, Callable[[Tensor], Tensor]] = {"mm_token_type_ids": picture_tokens}
"""For types that ask which tokens are a picture's, to number its rows and columns."""

AXES = {"rope_parameters": THREE_AXES}

KINDS: dict[str, Kind] = {
    "qwen2_vl": grids(ONE_FRAME, AXES, more=MARKED),
    "qwen2_5_vl": grids(WINDOWS, AXES, more=MARKED),
    "qwen2_5_omni_thinker": grids(WINDOWS, AXES, vision_start_token_id=START),
    "qwen3_vl": grids(DEEP, AXES, more=MARKED),
    "qwen3_vl_moe": grids(DEEP, AXES, more=MARKED),
    "qwen3_omni_moe_thinker": grids(DEEP, AXES, vision_start_token_id=START),
    "cosmos3_omni": grids(DEEP, AXES, more=MARKED),
    "cosmos3_edge": grids({}, AXES, more=MARKED),
    "cohere_compass": grids(
        DEEP,
        {
            "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
            * 2,
            "rope_parameters": {"sliding_attention": THREE_AXES, "full_attention": None},
            "logit_scale": 0.25,
        },
        more=MARKED,
    ),
    "glm4v": grids(ONE_FRAME, AXES, more=MARKED),
    "glm46v": grids(ONE_FRAME, AXES, more=MARKED),
    "glmga": grids(ONE_FRAME, AXES, more=MARKED),
    "glm_ocr": grids(ONE_FRAME, AXES, more=MARKED),
    "glm4v_moe": grids(
        ONE_FRAME,
        {"head_dim": 16, "rope_parameters": {**THREE_AXES, "partial_rotary_factor": 0.5}},
        more=MARKED,
    ),
    "ernie4_5_vl_moe": grids(
        ONE_FRAME,
        {"rope_parameters": THREE_AXES, "moe_intermediate_size": [32, 16]},
        more=MARKED | {"moe_mm_token_type_ids": picture_tokens},
    ),
    # A token more at the end of each row of the picture, and one at either end.
    "hunyuan_vl": grids(
        {"max_image_size": 16},
        {"head_dim": 8, "rope_parameters": {**THREE_AXES, "mrope_section": [1, 1, 1, 1]}},
        tokens=8,
        more=MARKED,
    ),
    "paddleocr_vl": grids({}, AXES, shape=(3, 4, 4), more=MARKED),
    "kimi_k25": grids(
        {"pos_emb_height": 4, "pos_emb_width": 4},
        {"head_dim": None, "qk_head_dim": None},
        shape=(3, 4, 4),
    ),
    "exaone4_5": grids(WINDOWS),
    "hyperclovax_vision_v2": grids(
        WINDOWS,
        {"embedding_multiplier": 2.0, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    ),
    "lfm3_vl": grids(ONE_FRAME),
    "video_llama_3": grids({}, more={"image_merge_sizes": lambda ids: torch.full((len(ids),), 2)}),
    "muse_glimmer": grids(
        {"patch_temporal": 1, "pos_emb_height": 4, "pos_emb_width": 4}, out_hidden_size=128
    ),
    "muse_spark": grids(
        {"patch_temporal": 1, "pos_emb_height": 4, "pos_emb_width": 4},
        {"moe_hidden_size": 32},
        out_hidden_size=128,
        audio_config={"hidden_sizes": [8, 8], "patch_sizes": [4, 4], "depths": [1, 1]},
    ),
}
