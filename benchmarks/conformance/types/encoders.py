"""Types whose encoder reads the prompt and the picture, those that see patches, and those that are none.

An encoder's picture may stand beside its text, at its beginning, or be all that it reads. Of those that
make no token after the other, the reason is what their line says.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.conformance.kinds import Inputs, Kind, a_picture, pictures, pixels
from benchmarks.conformance.shrink import IMAGE, VOCAB

ONE_PROMPT = (((1,), ()),) * 3
"""For models that are given a picture and no text."""


def places(*shape: int) -> Tensor:
    """``[rows, patches, 2 + pixels]``: patches of three by two beside where they were cut out, from 1 on."""
    rows, columns = torch.meshgrid(torch.arange(1.0, 3.0), torch.arange(1.0, 4.0), indexing="ij")
    where = torch.stack([rows.flatten(), columns.flatten()], dim=1).expand(3, -1, -1)
    return torch.cat([where, pictures(6, *shape)], dim=2)


def pix2struct_inputs(rows: Sequence[int], ids: Tensor) -> dict[str, Any]:
    """Patches only."""
    patches = places(48)[list(rows)]
    return {"input_ids": None, "flattened_patches": patches, "attention_mask": torch.ones(patches.shape[:2])}


def kosmos_inputs(rows: Sequence[int], ids: Tensor) -> dict[str, Any]:
    """Patches, and where the queries that read them stand among the text."""
    return {"flattened_patches": places(48)[list(rows)], "image_embeds_position_mask": ids == IMAGE}


def page(side: int) -> Inputs:
    """A picture and nothing else."""
    values = pictures(3, side, side)
    return lambda rows, ids: {"input_ids": None, "attention_mask": None, "pixel_values": values[list(rows)]}


def udop_inputs(rows: Sequence[int], ids: Tensor) -> dict[str, Any]:
    """A page, and the box of each word on it."""
    corner = torch.arange(ids.shape[1])[:, None] / 40 + torch.tensor([0.1, 0.2, 0.15, 0.3])
    boxes = corner.expand(len(rows), -1, -1) * (ids > 0)[..., None]
    return {"bbox": boxes, "pixel_values": pictures(3, 16, 16)[list(rows)]}


KINDS: dict[str, Kind] = {
    "florence2": Kind(
        {
            "vision_config": {
                "depths": [1, 1],
                "patch_size": [3, 3],
                "patch_stride": [4, 2],
                "patch_padding": [1, 1],
                "patch_prenorm": [False, True],
                "embed_dim": [16, 32],
                "num_heads": [2, 4],
                "num_groups": [2, 4],
                "window_size": 2,
            },
        },
        image=a_picture(5),  # 2 x 2 patches and their mean
        inputs=pixels(3, 16, 16),
    ),
    "pix2struct": Kind(
        {"vision_config": {"patch_embed_hidden_size": 48}, "text_config": {"use_cache": True}},
        text=ONE_PROMPT,
        inputs=pix2struct_inputs,
    ),
    "pp_formulanet": Kind(
        {
            "vision_config": {
                "image_size": 32,
                "window_size": 2,
                "global_attn_indexes": [1],
                "output_channels": 8,
                "post_conv_in_channels": 8,
                "post_conv_mid_channels": 8,
                "post_conv_out_channels": 8,
                "decoder_hidden_size": 32,
            },
        },
        text=ONE_PROMPT,
        inputs=page(32),
    ),
    "t5gemma2": Kind(
        {
            "image_token_index": IMAGE,
            "encoder": {"mm_tokens_per_image": 4, "vision_config": {"image_size": 16, "patch_size": 4}},
            "decoder": {"layer_types": ["sliding_attention", "full_attention"] * 4},
        },
        image=a_picture(4),
        inputs=pixels(3, 16, 16),
    ),
    # As many blocks in its encoder: its cache counts those.
    "udop": Kind({"num_layers": 8, "num_decoder_layers": 8}, inputs=udop_inputs),
    "vision-encoder-decoder": Kind(
        {
            "encoder": {
                "model_type": "vit",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": 16,
                "patch_size": 8,
            },
            "decoder": {
                "model_type": "trocr",
                "vocab_size": VOCAB,
                "d_model": 32,
                "decoder_layers": 8,
                "decoder_attention_heads": 4,
                "decoder_ffn_dim": 64,
                "max_position_embeddings": 64,
                "pad_token_id": 0,
                "is_decoder": True,
                "add_cross_attention": True,
            },
        },
        text=ONE_PROMPT,
        inputs=page(16),
    ),
    "kosmos-2.5": Kind(
        {"vision_config": {"patch_embed_hidden_size": 48}}, image=a_picture(4), inputs=kosmos_inputs
    ),
    "mistral4": Kind({"head_dim": None, "rope_parameters": None, "first_k_dense_replace": 2}),
    "diffusion_gemma": Kind(
        {
            "canvas_length": 8,
            "text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32},
        }
    ),
    "pi0": Kind(),
}
