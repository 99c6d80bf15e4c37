"""Pictures cut to patches of which the sizes, the places or what to pool is told beside the pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.conformance.kinds import Kind, a_picture, picture_tokens, pictures, pixels
from benchmarks.conformance.shrink import END, IMAGE, START, VIDEO

MINICPM = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "insert_layer_id": 0,
    "text_config": {
        "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2
        + ["linear_attention", "full_attention"]
    },
}


def _packed(rows: Sequence[int], ids: Tensor) -> dict[str, Tensor]:
    """Two slices a picture, of 4 by 4 and of 4 by 8 patches; all patches of all rows side by side."""
    strips = pictures(3, 4, (16 + 32) * 4)[list(rows)]
    return {
        "pixel_values": torch.cat(list(strips), dim=-1)[None],
        "target_sizes": torch.tensor([[4, 4], [4, 8]] * len(rows)),
    }


def _molmo2(rows: Sequence[int], ids: Tensor) -> dict[str, Tensor]:
    """A crop of the whole and one of a part, of 4 by 4 patches each, of which each token pools 2 by 2."""
    corner = torch.tensor([0, 1, 4, 5])
    pooled = torch.stack([corner + start for start in (0, 2, 8, 10)])
    crops = torch.arange(2 * len(rows))[:, None, None] * 16
    return {
        "pixel_values": pictures(2, 16, 48)[list(rows)],
        "image_token_pooling": (crops + pooled).flatten(0, 1),
        "image_grids": torch.tensor([[2, 2, 2, 2]] * len(rows)),
        "mm_token_type_ids": picture_tokens(ids),
    }


def _nemotron(rows: Sequence[int], ids: Tensor) -> dict[str, Tensor]:
    return {
        "pixel_values": pictures(16, 48)[list(rows)].flatten(0, 1),
        "image_grid_hw": torch.tensor([[4, 4]] * len(rows)),
    }


def _cubes(rows: Sequence[int], ids: Tensor) -> dict[str, Tensor]:
    """Four patches a picture, each a cube of pixels and a token."""
    return {"pixel_values": pictures(4, 2, 4, 4, 3)[list(rows)].flatten(0, 1)}


KINDS: dict[str, Kind] = {
    "lfm2_vl": Kind(
        config={"text_config": {"layer_types": None, "full_attn_idxs": [2, 6]}},
        image=a_picture(4),
        inputs=pixels(16, 48, spatial_shapes=(4, 4), pixel_attention_mask=[1] * 16),
    ),
    "lighton_ocr": Kind(image=a_picture(4), inputs=pixels(3, 16, 16, image_sizes=(16, 16))),
    "mistral3": Kind(image=a_picture(4), inputs=pixels(3, 16, 16, image_sizes=(16, 16))),
    "mistral_large4": Kind(
        config={
            "text_config": {
                "index_topk": 4,
                "index_head_dim": 8,
                # Of few heads many keys get the score zero, and which of these are taken is chance.
                "index_n_heads": 16,
                "indexer_types": ["full", "full", "shared", "full"] * 2,
                "kv_source_layers": [0, 1, 1, 3, 4, 5, 5, 7],
            }
        },
        image=a_picture(4),
        inputs=pixels(3, 16, 16, image_sizes=(16, 16)),
    ),
    "minicpm_ocr": Kind(config=MINICPM, image=[*a_picture(4), *a_picture(8)], inputs=_packed),
    "minicpmv4_6": Kind(config=MINICPM, image=[*a_picture(1), *a_picture(2)], inputs=_packed),
    "minicpmv4_7": Kind(
        config={**MINICPM, "image_start_id": START, "image_end_id": END, "slice_start_id": 110}
        | {"slice_end_id": 111, "newline_id": 112},
        image=[*a_picture(1), 110, IMAGE, IMAGE, 111],
        inputs=lambda rows, ids: _packed(rows, ids) | {"mm_token_type_ids": picture_tokens(ids)},
    ),
    "molmo2": Kind(
        config={
            "image_patch_id": IMAGE,
            "adapter_config": {"vision_feature_layer": [1, 0], "text_hidden_size": 32},
            "vision_config": {"image_size": [16, 16]},
            "text_config": {
                "additional_vocab_size": 8,
                "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
                "rope_scaling_layers": [3, 7],
            },
        },
        image=[*a_picture(4), *a_picture(4)],
        inputs=_molmo2,
    ),
    "nemotron_h_omni": Kind(
        config={
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "text_config": {
                "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"] * 2,
                "mamba_num_heads": 8,
                "n_groups": 2,
                "ssm_state_size": 16,
                "chunk_size": 16,
            },
        },
        image=a_picture(4),
        inputs=_nemotron,
    ),
    "inkling_mm_model": Kind(
        config={
            "text_config": {
                "unpadded_vocab_size": 112,
                "swa_num_attention_heads": 4,
                "swa_num_key_value_heads": 4,
                "swa_head_dim": 8,
                "sliding_window_size": 6,
                "layer_types": ["hybrid_sliding", "hybrid"] * 4,
                "mlp_layer_types": ["dense", "dense"] + ["sparse"] * 6,
                "d_rel": 4,
                "rel_extent": 8,
                "logits_mup_width_multiplier": 2.0,
                "log_scaling_n_floor": 4,
                "n_shared_experts": 2,
            },
            "vision_config": {"n_layers": 4},
        },
        image=a_picture(4),
        inputs=_cubes,
    ),
}
