"""Models that take a picture as one tensor of pixels, with one place among the text or none."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.conformance.kinds import ROWS, Inputs, Kind, a_picture, picture_tokens, pictures, pixels
from benchmarks.conformance.shrink import END, IMAGE, VIDEO

COARSE = {"patch_size": 8}
"""A vision tower that makes four patches of a picture, and not sixteen."""

FINE = {"image_size": [16, 16], "patch_size": [4, 4]}
FOUR = a_picture(4)
SEEN = pixels(3, 16, 16)

CODES = range(100, 108)
"""Ids of the vocabulary that stand for the entries of a codebook of pictures."""

CODEBOOK = {
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "num_res_blocks": 1,
    "num_embeddings": len(CODES),
}

ONE_LENGTH = (((1,), (5, 6, 7, 8)), ((1,), (40, 41, 42, 43)), ((1, 30), (70, 71, 72)))
"""Prompts without padding."""


def beside(values: Inputs, **more: Callable[[Sequence[int], Tensor], Tensor]) -> Inputs:
    """Further inputs beside the pixels, each made from the numbers of rows and their ids."""
    return lambda rows, ids: {**values(rows, ids), **{name: make(rows, ids) for name, make in more.items()}}


def drawn(*ends: str) -> Callable[[Any], None]:
    """Draws the weights with these ends of names: a new model has them at zero, or takes pictures for one."""

    def prepare(model: Any) -> None:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith(ends):
                    weight.normal_()

    return prepare


def ended(rows: Sequence[int], ids: Tensor) -> Tensor:
    """The ids with the token at their end that tokenizers of BLIP put there, and its generate takes off."""
    return ids if (ids[:, -1] == END).all() else torch.cat([ids, torch.full((len(ids), 1), END)], dim=1)


def questions(rows: Sequence[int], ids: Tensor) -> Tensor:
    """What the Q-Former reads beside the picture."""
    return torch.tensor([[3, 4, 5], [6, 7, 8], [9, 10, 11]])[list(rows)]


def answered(rows: Sequence[int], ids: Tensor) -> Tensor:
    """0 in the prompt, whose positions all attend to one another, and 1 in the answer."""
    prompts = Kind(image=FOUR).prompts()
    return (torch.arange(ids.shape[1]) >= max(len(prompts[row]) for row in rows)).expand_as(ids).long()


def proteins(rows: Sequence[int], ids: Tensor) -> dict[str, Tensor]:
    """Chains of amino acids."""
    chains = torch.randint(5, 25, (ROWS, 7), generator=torch.Generator().manual_seed(1))[list(rows)]
    return {"protein_input_ids": chains, "protein_attention_mask": torch.ones_like(chains)}


MARKED = beside(SEEN, token_type_ids=lambda rows, ids: picture_tokens(ids))

KINDS: dict[str, Kind] = {
    "llava": Kind(config={"vision_config": COARSE}, image=FOUR, inputs=SEEN),
    "vipllava": Kind(
        config={"vision_config": COARSE, "vision_feature_layer": [-2, -1]},
        image=FOUR,
        inputs=SEEN,
    ),
    "video_llava": Kind(config={"vision_config": COARSE}, image=FOUR, inputs=SEEN),
    "aya_vision": Kind(image=FOUR, inputs=SEEN),
    "cohere2_vision": Kind(image=FOUR, inputs=SEEN),
    "blip": Kind(
        inputs=beside(SEEN, input_ids=ended, attention_mask=lambda rows, ids: ended(rows, ids).sign())
    ),
    "blip-2": Kind(
        config={"image_token_index": IMAGE},
        image=[IMAGE] * 4,
        inputs=SEEN,
        prepare=drawn("query_tokens"),
    ),
    "instructblip": Kind(
        config={"image_token_index": IMAGE},
        image=[IMAGE] * 4,
        inputs=beside(SEEN, qformer_input_ids=questions),
        prepare=drawn("query_tokens"),
    ),
    "instructblipvideo": Kind(
        config={"video_token_index": VIDEO},
        image=[VIDEO] * 8,
        inputs=beside(pixels(2, 3, 16, 16), qformer_input_ids=questions),
        prepare=drawn("query_tokens"),
    ),
    "chameleon": Kind(
        config={
            "vq_config": {
                **CODEBOOK,
                "embed_dim": 8,
                "latent_channels": 8,
                "resolution": 4,
            },
            "vocabulary_map": {"<image>": IMAGE, **{f"IMGIMG{chr(c - 35)}Z": c for c in CODES}},
        },
        image=FOUR,
        inputs=pixels(3, 4, 4),
        prepare=drawn("vqmodel.quantize.embedding.weight", "vqmodel.quant_conv.weight"),
    ),
    "emu3": Kind(
        config={
            "vq_config": {**CODEBOOK, "codebook_size": len(CODES)},
            "vocabulary_map": {
                "<image>": IMAGE,
                "<|extra_200|>": CODES.stop,
                **{f"<|visual token {code:06d}|>": id for code, id in enumerate(CODES)},
            },
        },
        image=a_picture(6),
        inputs=beside(pixels(3, 4, 4), image_sizes=lambda rows, ids: torch.tensor([[4, 4]] * len(rows))),
        prepare=drawn("vqmodel.quantize.embedding.weight", "vqmodel.quant_conv.conv.weight"),
    ),
    "janus": Kind(
        config={
            "vision_config": {**COARSE, "num_image_tokens": 4},
            "vq_config": {**CODEBOOK, "latent_channels": 32, "image_token_embed_dim": 32},
        },
        image=FOUR,
        inputs=SEEN,
    ),
    "deepseek_vl": Kind(config={"vision_config": COARSE}, image=FOUR, inputs=SEEN),
    "deepseek_vl_hybrid": Kind(
        config={
            "vision_config": COARSE,
            "high_res_vision_config": {"output_channels": 8, "global_attn_indexes": [1]},
        },
        image=FOUR,
        inputs=beside(
            SEEN,
            high_res_pixel_values=lambda rows, ids: pictures(3, 16, 16, seed=2)[list(rows)],
        ),
        prepare=drawn("model.high_res_vision_alpha"),
    ),
    # Reads proteins. Its configuration has the cache off; with it on, steps fail where there is padding.
    "evolla": Kind(
        config={
            "aligner_num_add_layers": 4,
            "resampler_depth": 1,
            "resampler_num_latents": 4,
            "use_cache": True,
        },
        inputs=proteins,
        text=ONE_LENGTH,
        prepare=drawn("gate_attention", "gate_ffw"),
    ),
    # The towers of these two need timm; others take their place.
    "fast_vlm": Kind(
        config={
            "vision_config": {
                "model_type": "resnet",
                "embedding_size": 8,
                "hidden_sizes": [8, 32],
                "depths": [1, 1],
                "hidden_size": 32,
            }
        },
        image=FOUR,
        inputs=SEEN,
    ),
    "perception_lm": Kind(
        config={
            "vision_config": {
                "model_type": "clip_vision_model",
                "model_args": {"embed_dim": 32},
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": 16,
                "patch_size": 4,
            },
            "projector_pooling_ratio": 2,
        },
        image=FOUR,
        inputs=pixels(1, 3, 16, 16),
    ),
    "gemma3": Kind(
        config={"mm_tokens_per_image": 4},
        image=FOUR,
        inputs=MARKED,
    ),
    "shieldgemma2": Kind(
        config={"mm_tokens_per_image": 4},
        image=FOUR,
        inputs=MARKED,
    ),
    "got_ocr2": Kind(image=[IMAGE], inputs=SEEN),
    "pp_chart2table": Kind(image=[IMAGE], inputs=SEEN),
    "internvl": Kind(config={"vision_config": FINE}, image=FOUR, inputs=SEEN),
    "qianfan_ocr": Kind(config={"vision_config": FINE}, image=FOUR, inputs=SEEN),
    # Its steps count padding in their positions, and its prompts do not.
    "kosmos-2": Kind(
        image=FOUR,
        inputs=beside(SEEN, image_embeds_position_mask=lambda rows, ids: picture_tokens(ids)),
    ),
    "llama4": Kind(
        config={
            "vision_config": {
                "intermediate_size": 128,
                "projector_input_dim": 32,
                "projector_output_dim": 32,
            },
            "text_config": {
                "intermediate_size_mlp": 64,
                "floor_scale": 4,
                "interleave_moe_layer_step": 2,
                "moe_layers": None,
            },
        },
        image=FOUR,
        inputs=SEEN,
    ),
    "ovis2": Kind(
        config={"vision_config": COARSE, "visual_indicator_token_ids": [118, 117, 116, 115, 114]},
        image=FOUR,
        inputs=SEEN,
    ),
    "paligemma": Kind(
        config={"vision_config": COARSE},
        image=FOUR,
        inputs=beside(SEEN, token_type_ids=answered),
    ),
    "git": Kind(config={"num_hidden_layers": 8}, inputs=SEEN),
    "aria": Kind(
        config={"projector_patch_to_query_dict": {16: 4}, "max_value_projector_patch_to_query_dict": 4},
        image=FOUR,
        inputs=SEEN,
        prepare=drawn("projector.query"),
    ),
    "fuyu": Kind(image=FOUR, inputs=pixels(4, 48)),
}
