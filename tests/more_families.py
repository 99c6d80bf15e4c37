"""More tiny families, each for something that other models do not do between a block and the next.

Cross-attention blocks among the blocks (mllama) or between them (idefics), picture features added between
blocks (qwen3_vl), a generate inside another one (instructblip), a prefix that attends forwards (paligemma),
experts, recurrent states, scaled logits, sliding windows, an encoder.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from families import END, IMAGE, START, TEXT, VOCAB, Family, _pictures, _text
from torch import Tensor

from mutation_decode import Anatomy

GROUPED = {**TEXT, "num_key_value_heads": 2}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


class EncoderDecoder(Family):
    """A family whose prompts are read by an encoder; the answer begins with one start token."""

    def batch(self, *rows: int, suffix: Tensor | None = None) -> dict[str, Tensor]:
        """Inputs for these prompts; what was answered so far goes to the decoder."""
        inputs = super().batch(*rows)
        if suffix is not None:
            start = torch.full((len(rows), 1), self.model.generation_config.decoder_start_token_id)
            inputs["decoder_input_ids"] = torch.cat([start, suffix], dim=1)
        return inputs

    def answers(self, *rows: int, **kwargs: Any) -> Tensor:
        """Only the generated tokens, `[rows, tokens]`."""
        return self.generate(*rows, **kwargs)[:, 1:]


def qwen3_vl() -> Family:
    """Adds picture features to the states after its first blocks (deepstack); three-dimensional positions."""
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    config = transformers.Qwen3VLConfig(
        text_config={**GROUPED, "head_dim": 8, "rope_parameters": rope},
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 1,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=IMAGE,
        video_token_id=116,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    patches = torch.randn(3, 16, 48)
    return _pictures(
        "qwen3_vl",
        transformers.Qwen3VLForConditionalGeneration(config),
        lambda rows, ids: {
            "pixel_values": patches[list(rows)].flatten(0, 1),
            "image_grid_thw": torch.tensor([[1, 4, 4]] * len(rows)),
            "mm_token_type_ids": (ids == IMAGE).int(),
        },
    )


def mllama() -> Family:
    """Two of its blocks attend to the picture instead of the text, and cache no text positions."""
    config = transformers.MllamaConfig(
        text_config={**GROUPED, "cross_attention_layers": [2, 5]},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 4,
            "vision_output_dim": 64,
            "image_size": 16,
            "patch_size": 8,
            "max_num_tiles": 2,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        image_token_index=IMAGE,
    )
    model = transformers.MllamaForConditionalGeneration(config)
    with torch.no_grad():
        for name, gate in model.named_parameters():
            if "cross_attn_attn_gate" in name or "cross_attn_mlp_gate" in name:
                gate.fill_(0.6)  # a new model's gates are shut
    pixels = torch.randn(3, 1, 2, 3, 16, 16)

    def images(rows: Any, ids: Tensor) -> dict[str, Tensor]:
        sees = (ids == IMAGE).cumsum(dim=1) > 0  # a token sees the picture once it was shown
        return {
            "pixel_values": pixels[list(rows)],
            "aspect_ratio_ids": torch.full((len(rows), 1), 2),
            "aspect_ratio_mask": torch.ones(len(rows), 1, 2, dtype=torch.long),
            "cross_attention_mask": sees[:, :, None, None].expand(-1, -1, 1, 2).long(),
        }

    return _pictures("mllama", model, images)


def internvl() -> Family:
    config = transformers.InternVLConfig(
        vision_config={**VISION, "image_size": [16, 16], "patch_size": [4, 4]},
        text_config={**GROUPED, "model_type": "qwen2"},
        image_token_id=IMAGE,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    pixels = torch.randn(3, 3, 16, 16)
    return _pictures(
        "internvl",
        transformers.InternVLForConditionalGeneration(config),
        lambda rows, ids: {"pixel_values": pixels[list(rows)]},
    )


def idefics() -> Family:
    """Cross-attention modules outside of the list of blocks change the states between blocks.

    What enters block i is not what left block i-1; leaving block i out leaves what entered it.
    """
    config = transformers.IdeficsConfig(
        **TEXT,
        cross_layer_interval=2,
        alpha_initializer="ones",
        vision_config={
            "embed_dim": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 16,
            "patch_size": 8,
        },
    )
    pixels = torch.randn(3, 1, 3, 16, 16)

    def images(rows: Any, ids: Tensor) -> dict[str, Tensor]:
        sees = (ids == IMAGE).cumsum(dim=1) > 0
        return {"pixel_values": pixels[list(rows)], "image_attention_mask": sees[:, :, None].long()}

    return _pictures("idefics", transformers.IdeficsForVisionText2Text(config), images)


def instructblip() -> Family:
    """Its generate calls the generate of the language model that it holds, with embeddings."""
    config = transformers.InstructBlipConfig(
        vision_config={**VISION, "image_size": 16, "patch_size": 8, "initializer_range": 0.02},
        qformer_config={**VISION, "vocab_size": 40, "max_position_embeddings": 16},
        text_config={
            "model_type": "opt",
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": None,
        },
        num_query_tokens=4,
        image_token_index=IMAGE,
    )
    model = transformers.InstructBlipForConditionalGeneration(config)
    with torch.no_grad():
        model.query_tokens.normal_()  # a new model's are zero
    pixels, questions = torch.randn(3, 3, 16, 16), torch.randint(1, 40, (3, 5))
    # The generate that counts is the inner one: whoever sets the outer one's configuration means it.
    model.generation_config = model.language_model.generation_config
    return _pictures(
        "instructblip",
        model,
        lambda rows, ids: {
            "pixel_values": pixels[list(rows)],
            "qformer_input_ids": questions[list(rows)],
            "qformer_attention_mask": torch.ones_like(questions[list(rows)]),
        },
    )


def paligemma() -> Family:
    """Every position of the prompt attends to every other one, also to later ones."""
    config = transformers.PaliGemmaConfig(
        vision_config={
            **VISION,
            "model_type": "siglip_vision_model",
            "image_size": 16,
            "patch_size": 8,
            "vision_use_head": False,
        },
        text_config={**GROUPED, "model_type": "gemma", "head_dim": 8},
        image_token_index=IMAGE,
        projection_dim=32,
        hidden_size=32,
    )
    pixels = torch.randn(3, 3, 16, 16)
    family = _pictures("paligemma", transformers.PaliGemmaForConditionalGeneration(config), lambda *_: {})

    def images(rows: Any, ids: Tensor) -> dict[str, Tensor]:
        answered = torch.arange(ids.shape[1]) >= max(len(family.prompts[row]) for row in rows)
        return {"pixel_values": pixels[list(rows)], "token_type_ids": answered.expand_as(ids).long()}

    family.images = images
    return family


def qwen3_moe() -> Family:
    """Every second block has experts."""
    config = transformers.Qwen3MoeConfig(
        **GROUPED,
        head_dim=8,
        moe_intermediate_size=32,
        num_experts=4,
        num_experts_per_tok=2,
        decoder_sparse_step=2,
        norm_topk_prob=True,
    )
    return _text("qwen3_moe", transformers.Qwen3MoeForCausalLM(config))


def qwen3_next() -> Family:
    """Gated delta nets, and attention in every fourth block."""
    config = transformers.Qwen3NextConfig(
        **GROUPED,
        head_dim=8,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
        num_experts=4,
        num_experts_per_tok=2,
    )
    return _text("qwen3_next", transformers.Qwen3NextForCausalLM(config))


def bamba() -> Family:
    """Mamba 2, and attention in two blocks."""
    config = transformers.BambaConfig(
        **GROUPED,
        attn_layer_indices=[2, 6],
        mamba_n_heads=8,
        mamba_d_state=16,
        mamba_chunk_size=16,
    )
    return _text("bamba", transformers.BambaForCausalLM(config))


def falcon_h1() -> Family:
    """Mamba 2 and attention side by side in every block: one cache layer holds the states of both."""
    config = transformers.FalconH1Config(
        **GROUPED,
        mamba_d_ssm=64,
        mamba_n_heads=8,
        mamba_d_state=16,
        mamba_chunk_size=16,
    )
    return _text("falcon_h1", transformers.FalconH1ForCausalLM(config))


def lfm2() -> Family:
    """Short convolutions with no recurrent state, and attention in two blocks."""
    config = transformers.Lfm2Config(**GROUPED, full_attn_idxs=[2, 6], tie_word_embeddings=False)
    return _text("lfm2", transformers.Lfm2ForCausalLM(config))


def granite() -> Family:
    """Divides its logits after the head."""
    config = transformers.GraniteConfig(
        **GROUPED,
        logits_scaling=0.5,
        residual_multiplier=0.7,
        embedding_multiplier=3.0,
        attention_multiplier=0.3,
    )
    return _text("granite", transformers.GraniteForCausalLM(config))


def cohere2() -> Family:
    """Multiplies its logits after the head; attention and feed-forward side by side; sliding windows."""
    config = transformers.Cohere2Config(**GROUPED, logit_scale=2.0, sliding_window=6)
    return _text("cohere2", transformers.Cohere2ForCausalLM(config))


def florence2() -> Family:
    """An encoder reads picture and prompt; the decoder starts from one token."""
    config = transformers.Florence2Config(
        vision_config={
            "depths": [1, 1],
            "patch_size": [3, 3],
            "patch_stride": [4, 2],
            "patch_padding": [1, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [16, 32],
            "num_heads": [2, 4],
            "num_groups": [2, 4],
            "window_size": 2,
            "projection_dim": 32,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": VOCAB,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 8,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "max_position_embeddings": 256,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": None,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": None,
        },
        image_token_id=IMAGE,
    )
    pixels = torch.randn(3, 3, 16, 16)
    model = transformers.Florence2ForConditionalGeneration(config)
    image = [START, *[IMAGE] * 5, END]  # 2 x 2 patches and their mean
    prompts = [[1, *image, 5, 6, 7, 8], [1, *image, 40], [1, 30, *image, 70, 71]]
    return EncoderDecoder("florence2", model, prompts, lambda rows, ids: {"pixel_values": pixels[list(rows)]})


class _NoText(EncoderDecoder):
    """A family whose encoder reads patches, with no token of text."""

    def batch(self, *rows: int, suffix: Tensor | None = None) -> dict[str, Tensor]:
        """Patches, and what was answered so far."""
        inputs = super().batch(*rows, suffix=suffix)
        del inputs["input_ids"]
        return {**inputs, "attention_mask": torch.ones(inputs["flattened_patches"].shape[:2])}


def pix2struct() -> Family:
    """Its blocks return tuples, and what the first returns beside the states enters all others."""
    config = transformers.Pix2StructConfig(
        text_config={
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 8,
            "num_heads": 4,
            "dropout_rate": 0.0,
            "pad_token_id": 0,
            "eos_token_id": None,
            "decoder_start_token_id": 2,
            "use_cache": True,
        },
        vision_config={
            **VISION,
            "patch_embed_hidden_size": 48,
            "d_ff": 64,
            "d_kv": 8,
            "seq_len": 16,
            "initializer_range": 0.02,
        },
    )
    row, column = torch.meshgrid(torch.arange(1.0, 3), torch.arange(1.0, 4), indexing="ij")
    places = torch.stack([row.flatten(), column.flatten()], dim=1).expand(3, -1, -1)
    patches = torch.cat([places, torch.randn(3, 6, 48)], dim=2)
    model = transformers.Pix2StructForConditionalGeneration(config)
    # Every prompt is as long as the others: there is none.
    return _NoText(
        "pix2struct", model, [[1], [1], [1]], lambda rows, ids: {"flattened_patches": patches[list(rows)]}
    )


def zaya() -> Family:
    """Its blocks hand on what their routers came to, and routers of later blocks begin from that."""
    config = transformers.ZayaConfig(
        **GROUPED,
        head_dim=8,
        moe_intermediate_size=32,
        num_experts=4,
        num_experts_per_tok=1,
        router_hidden_size=16,
    )
    return _text("zaya", transformers.ZayaForCausalLM(config))


def rwkv() -> Family:
    """Its states are in no cache: blocks write them into tensors that they all are given."""
    config = transformers.RwkvConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=8,
        context_length=64,
        pad_token_id=0,
        eos_token_id=None,
    )
    return _text("rwkv", transformers.RwkvForCausalLM(config))


def chameleon() -> Family:
    """Its blocks return tuples, and it forbids tokens by writing into its logits after the head."""
    pieces = {f"IMGIMG{letter}Z": 100 + i for i, letter in enumerate("ABCDEFGH")}
    config = transformers.ChameleonConfig(
        **GROUPED,
        vq_config={
            "embed_dim": 8,
            "num_embeddings": len(pieces),
            "latent_channels": 8,
            "resolution": 4,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
        },
        vocabulary_map={"<image>": IMAGE, **pieces},
    )
    model = transformers.ChameleonForConditionalGeneration(config)
    with torch.no_grad():  # a new model takes every picture for the same one
        model.model.vqmodel.quantize.embedding.weight.normal_()
        model.model.vqmodel.quant_conv.weight.normal_()
    pixels = torch.randn(3, 3, 4, 4)
    return _pictures("chameleon", model, lambda rows, ids: {"pixel_values": pixels[list(rows)]})


MORE_FAMILIES = (
    qwen3_vl,
    mllama,
    internvl,
    idefics,
    instructblip,
    paligemma,
    qwen3_moe,
    qwen3_next,
    bamba,
    falcon_h1,
    lfm2,
    granite,
    cohere2,
    florence2,
    pix2struct,
    chameleon,
    zaya,
)


def anatomy(family: Family) -> Anatomy:
    """The parts of a family's model; idefics cannot run without a picture, so it needs one to be found."""
    return Anatomy.of(family.model, family.batch(0) if family.name == "idefics" else None)


def mild(make: Callable[[], Family]) -> Family:
    """A family whose blocks matter, with logits small enough that 1e-5 is a meaningful error in fp32."""
    torch.manual_seed(0)
    family = make()
    family.model.eval()
    config = family.model.generation_config
    config.eos_token_id, config.pad_token_id = None, 0
    config.suppress_tokens = [0, 116, END, START, IMAGE]
    model = family.model
    ends = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    tied = ends[0] is ends[1]
    kept = ("vision", "visual", "vqmodel", "conv", "norm")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(weight is end for end in ends):
                weight.normal_(std=0.1 if tied else 0.2)
            elif weight.dim() > 1 and not any(part in name for part in kept):
                weight.normal_(std=0.14 if tied else 0.08)
    return family
