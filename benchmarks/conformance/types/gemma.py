"""Gemmas whose later blocks read the keys of earlier ones, and that give every block an input of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.conformance.kinds import Kind, a_picture, picture_tokens, pictures, pixels
from benchmarks.conformance.types.stand_in import PatchesConfig

VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}

GEMMA4 = {
    "layer_types": ["sliding_attention", "full_attention"] * 4,
    "num_kv_shared_layers": 4,
    "global_head_dim": 16,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "use_double_wide_mlp": True,
    "final_logit_softcapping": 30.0,
    "use_bidirectional_attention": "vision",
}
"""All that its sizes have, at once."""


def _gemma3n_scales(model: torch.nn.Module) -> None:
    """A new model multiplies its per-layer inputs by zero."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("correct_output_scale"):
                weight.fill_(1.0)


def _placed_patches(rows: Sequence[int], ids: Tensor) -> dict[str, Tensor]:
    """Flattened patches, with the column and the row of each."""
    side, size = 4, 48
    places = torch.tensor([[x, y] for y in range(side) for x in range(side)])
    return {
        "pixel_values": pictures(side * side, size)[list(rows)],
        "image_position_ids": places.expand(len(rows), -1, -1),
        "mm_token_type_ids": picture_tokens(ids),
    }


KINDS: dict[str, Kind] = {
    "gemma3n": Kind(
        config={
            "text_config": {
                "intermediate_size": 64,
                "layer_types": ["sliding_attention", "full_attention"] * 4,
                "activation_sparsity_pattern": [0.9] * 3 + [0.0] * 5,
                "num_kv_shared_layers": 4,
                "vocab_size_per_layer_input": 112,
                "hidden_size_per_layer_input": 8,
                "laurel_rank": 4,
            },
            "vision_config": PatchesConfig(hidden_size=32, vocab_size=8, vocab_offset=112),
            "audio_config": {"vocab_size": 8, "vocab_offset": 120, "conf_num_hidden_layers": 1},
        },
        image=a_picture(4),
        inputs=pixels(3, 8, 8),
        prepare=_gemma3n_scales,
    ),
    "gemma4": Kind(
        config={
            "text_config": {
                **GEMMA4,
                "vocab_size_per_layer_input": 120,
                "hidden_size_per_layer_input": 8,
                "enable_moe_block": True,
                "num_experts": 4,
                "top_k_experts": 2,
                "moe_intermediate_size": 32,
            },
            "vision_config": {
                **VISION,
                "num_key_value_heads": 4,
                "head_dim": 8,
                "patch_size": 4,
                "pooling_kernel_size": 2,
                "position_embedding_size": 4,
            },
        },
        image=a_picture(4),
        inputs=_placed_patches,
    ),
    "gemma4_unified": Kind(
        config={
            "text_config": GEMMA4,
            "vision_config": {
                "patch_size": 2,
                "pooling_kernel_size": 2,
                "mm_embed_dim": 32,
                "mm_posemb_size": 4,
                "output_proj_dims": 32,
            },
        },
        image=a_picture(16),
        inputs=_placed_patches,
    ),
}
