"""Several pictures, tiles or views a prompt, each a picture of its own, with their sizes and masks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.conformance.kinds import Inputs, Kind, a_picture, pictures, pixels
from benchmarks.conformance.shrink import END, IMAGE, START

TILES = [[16, 32], [32, 16], [32, 32]]
"""Sizes of pictures that are cut into tiles of 16 by 16 pixels."""

GRANITE = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.7,
    "attention_multiplier": 0.3,
    "logits_scaling": 0.5,
}

SAM = {
    "image_size": 32,
    "output_channels": 16,
    "downsample_channels": [16, 32],
    "window_size": 2,
    "global_attn_indexes": [1],
}


def _open_masks(inputs: Inputs) -> Inputs:
    """Adds a mask of the pixels that hides none."""

    def masked(rows: Sequence[int], ids: Tensor) -> dict[str, Tensor]:
        made = inputs(rows, ids)
        pixels = made["pixel_values"]
        return made | {"pixel_attention_mask": torch.ones(*pixels.shape[:2], *pixels.shape[3:]).long()}

    return masked


def _idefics(rows: Sequence[int], ids: Tensor) -> dict[str, Tensor]:
    """Two pictures, that of the start marker and that of the end marker; a token sees those before it."""
    seen = [(ids == mark).cumsum(dim=1) > 0 for mark in (START, END)]
    return {
        "pixel_values": pictures(2, 3, 16, 16)[list(rows)],
        "image_attention_mask": torch.stack(seen, dim=2).long(),
    }


def _mllama(rows: Sequence[int], ids: Tensor) -> dict[str, Tensor]:
    """One picture of two tiles; a token sees it once it was shown."""
    sees = (ids == IMAGE).cumsum(dim=1) > 0
    return {
        "pixel_values": pictures(1, 2, 3, 16, 16)[list(rows)],
        "aspect_ratio_ids": torch.full((len(rows), 1), 2),
        "aspect_ratio_mask": torch.ones(len(rows), 1, 2, dtype=torch.long),
        "cross_attention_mask": sees[:, :, None, None].expand(-1, -1, 1, 2).long(),
    }


def _open_gates(model: torch.nn.Module) -> None:
    """Those of the cross-attention, which a new model has shut."""
    with torch.no_grad():
        for name, gate in model.named_parameters():
            if "cross_attn_attn_gate" in name or "cross_attn_mlp_gate" in name:
                gate.fill_(0.6)


def _views(tiles: int, **beside: Sequence[int]) -> Inputs:
    """A view of the whole picture, and tiles of it, those of all rows one after the other."""

    def views(rows: Sequence[int], ids: Tensor) -> Any:
        return {
            "pixel_values": pictures(3, 32, 32)[list(rows)],
            "pixel_values_local": pictures(tiles, 3, 32, 32, seed=2)[list(rows)].flatten(0, 1),
            "num_local_patches": [tiles] * len(rows),
            **{name: [value] * len(rows) for name, value in beside.items()},
        }

    return views


KINDS: dict[str, Kind] = {
    "idefics": Kind(
        config={"alpha_initializer": "ones", "cross_layer_interval": 2, "use_resampler": True},
        image=a_picture(0),
        inputs=_idefics,
    ),
    "idefics2": Kind(image=[*a_picture(4), *a_picture(4)], inputs=_open_masks(pixels(2, 3, 16, 16))),
    "idefics3": Kind(image=[*a_picture(4), *a_picture(4)], inputs=_open_masks(pixels(2, 3, 16, 16))),
    "smolvlm": Kind(image=[*a_picture(4), *a_picture(4)], inputs=_open_masks(pixels(2, 3, 16, 16))),
    "mllama": Kind(
        config={
            "text_config": {"cross_attention_layers": [2, 5]},
            "vision_config": {
                "num_global_layers": 1,
                "vision_output_dim": 64,
                "max_num_tiles": 2,
                "intermediate_layers_indices": [0],
                "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            },
        },
        image=[IMAGE],
        inputs=_mllama,
        prepare=_open_gates,
    ),
    "llava_next": Kind(
        config={"image_grid_pinpoints": TILES, "vision_config": {"patch_size": 8}},
        image=a_picture(14),
        inputs=pixels(3, 3, 16, 16, image_sizes=(16, 32)),
    ),
    "llava_next_video": Kind(
        config={"image_grid_pinpoints": TILES, "vision_config": {"patch_size": 8}},
        image=a_picture(14),
        inputs=pixels(3, 3, 16, 16, image_sizes=(16, 32)),
    ),
    "llava_onevision": Kind(
        config={"image_grid_pinpoints": TILES, "vision_config": {"patch_size": 8}},
        image=a_picture(14),
        inputs=pixels(3, 3, 16, 16, image_sizes=(16, 32)),
    ),
    "granite4_vision": Kind(
        config={
            "image_grid_pinpoints": TILES,
            "downsample_rate": "1/2",
            "deepstack_layer_map": [[1, 0], [2, 1]],
            "spatial_target_layers": [2, 3, 4, 5],
            "vision_config": {"hidden_size": 64},
            "text_config": GRANITE,
        },
        image=a_picture(14),
        inputs=pixels(3, 3, 16, 16, image_sizes=(16, 32)),
    ),
    "granite_docling": Kind(
        config={
            "text_config": GRANITE,
            "vision_config": {"scale_factor": 2, "deepstack_visual_indexes": [0, 1]},
        },
        image=[*a_picture(4), *a_picture(4)],
        inputs=pixels(2, 3, 16, 16, pixel_attention_mask=(True, True)),
    ),
    "deepseek_ocr2": Kind(
        config={
            "text_config": {"num_experts_per_tok": 2, "mlp_layer_types": ["dense"] + ["sparse"] * 7},
            "vision_config": {"sam_config": SAM},
        },
        image=a_picture(2 * 144 + 1),  # as many queries a view, whatever its size
        inputs=_views(1),
    ),
    "unlimited_ocr": Kind(
        config={
            "text_config": {"sliding_window": 3},  # of the answer; the prompt stays
            "vision_config": {"sam_config": SAM, "encoder_config": {"image_size": 8}},
        },
        image=a_picture(17),
        inputs=_views(2, patches_grid=[2, 1]),
    ),
    "step3p7": Kind(
        config={
            "text_config": {
                "layer_types": ["sliding_attention", "full_attention"] * 4,
                "rope_parameters": None,
                "sliding_window": 6,
                "num_sliding_attention_heads": 8,
                "query_pre_attn_scalar": 8,
                "share_expert_dim": 32,
                "swiglu_limits": [None] * 4 + [2.0] * 4,
                "swiglu_limits_shared": [None] * 4 + [2.0] * 4,
            },
            "vision_config": {"image_size": 32},
        },
        image=a_picture(2 * 4),
        inputs=_views(1),
    ),
}
