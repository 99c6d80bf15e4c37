"""Types with patches and grids whose decoders are of a newer make.

Their blocks choose which keys they look at, keep running states or carry several streams of states.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.conformance.kinds import Kind, a_picture, pictures
from benchmarks.conformance.types.grids import AXES, MARKED, ONE_FRAME, THREE_AXES, grids
from benchmarks.conformance.types.whole import drawn

PARTLY = {"rope_parameters": {**THREE_AXES, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5}}
"""The same for the first half of each head alone."""

ONE_LENGTH = (((1,), (5, 6, 7, 8)), ((1,), (40, 41, 42, 43)), ((1, 30), (70, 71, 72)))
"""Of a model that counts blocks of keys from the cache's first slot: padding on the left moves them."""


def inkling2_pictures(rows: Sequence[int], ids: Tensor) -> dict[str, Tensor]:
    """Squares of two by two patches, and how many of them each picture has."""
    squares = pictures(4, 8, 8, 3)
    return {
        "pixel_values": squares[list(rows)].flatten(0, 1),
        "image_grid_thw": torch.tensor([[1, 2, 2]] * len(rows)),
    }


KINDS: dict[str, Kind] = {
    "qwen3_5": grids(ONE_FRAME, PARTLY, more=MARKED),
    "qwen3_5_moe": grids(ONE_FRAME, PARTLY, more=MARKED),
    "qwen4_exp": replace(
        grids(
            ONE_FRAME,
            {
                **AXES,
                "eos_token_id": 2,
                "number_of_conv_states": None,
                "hc_lowrank": 8,
                "ple_layer_ids": [2, 5],
                "ple_embed_dim": 32,
                "heads_per_ngram": 2,
                "ngram_vocab_size_base": 50,
                "make_ngram_vocab_size_divisible_by": 8,
                "split_ngram_parts": 1,
                "indexer_n_heads": 2,
                "indexer_kv_heads": 1,
                "indexer_head_dim": 8,
                "indexer_budget": 4,
                "indexer_compress_ratio": 2,
            },
            more=MARKED,
        ),
        prepare=drawn("ple.conv1d.weight"),
    ),
    "glm5_next": grids(
        {**ONE_FRAME, "projection_intermediate_size": 32},
        {"index_kpool": 2, "index_topk": 4, "index_head_dim": 8, "index_n_heads": 32, "qk_head_dim": None},
        more=MARKED,
    ),
    "minimax_m3_vl": replace(
        grids(
            ONE_FRAME,
            {
                "layer_types": ["full_attention", "minimax_m3_sparse"] * 4,
                "mlp_layer_types": ["dense"] * 2 + ["sparse"] * 6,
                "rotary_dim": 4,
                "index_n_heads": 2,
                "index_head_dim": 8,
                "index_block_size": 2,
                "index_topk_blocks": 2,
            },
            merged_hidden_size=None,
        ),
        text=ONE_LENGTH,
    ),
    "dots3_note": grids(
        {"adapter_in_dim": 32, "adapter_out_dim": 32, "mlp_layer_types": ["dense", "sparse"]},
        {
            "index_topk": 4,
            "index_head_dim": 8,
            "index_n_heads": 32,
            "head_dim": 12,
            "shared_experts_intermediate_size": 32,
            "per_layer_config": {i: {"kv_lora_rank": 8} for i in (2, 3, 4, 6, 7)},
        },
        audio_config={
            "adapter_input_size": 32,
            "adapter_out_dim": 32,
            "downsample_hidden_size": 8,
            "conv_output_size": None,
            "num_key_value_heads": 4,
        },
    ),
    "inkling2": Kind(
        config={
            "text_config": {
                "swa_num_attention_heads": 4,
                "swa_num_key_value_heads": 2,
                "swa_head_dim": 8,
                "sliding_window_size": 6,
                "d_rel": 4,
                "rel_extent": 8,
                "log_scaling_n_floor": 4,
                "n_layers_per_attn_res_block": 3,
                "layer_types": ["hybrid_sliding", "hybrid_sliding", "hybrid"] * 2 + ["hybrid_sliding"] * 2,
            },
            "vision_config": {"projection_hidden_dim": 32, "posemb_grid_size": 4},
        },
        image=a_picture(4),
        inputs=inkling2_pictures,
        prepare=drawn("query", "static_weight"),  # blocks choose among what earlier ones left
    ),
}
