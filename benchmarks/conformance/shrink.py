"""Miniatures of configurations: the defaults of a class, with every size that has a common name small."""

from collections.abc import Iterator, Mapping
from typing import Any

VOCAB, IMAGE, START, END, VIDEO, AUDIO = 120, 119, 118, 117, 116, 115
TEXT_IDS = range(2, 100)
"""Ids of plain text; those above are for pictures and whatever else a model marks in a prompt."""

BLOCKS, TOWER_BLOCKS = 8, 2
"""Of the decoder, and of vision towers and the like, whose blocks are not read."""

DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "layers", "depth")

SIZES: dict[str, int] = {
    name: size
    for size, names in {
        VOCAB: "vocab_size text_vocab_size unpadded_vocab_size",
        32: "hidden_size d_model n_embd embed_dim out_hidden_size projection_dim text_hidden_size "
        "word_embed_proj_dim encoder_hidden_size vision_hidden_size projector_hidden_size "
        "projection_hidden_size moe_intermediate_size shared_expert_intermediate_size "
        "shared_intermediate_size moe_shared_expert_intermediate_size vision_output_dim output_dim",
        64: "intermediate_size ffn_dim d_ff mlp_dim n_inner decoder_ffn_dim encoder_ffn_dim "
        "dense_intermediate_size",
        4: "num_attention_heads n_head num_heads attention_heads decoder_attention_heads "
        "encoder_attention_heads resampler_n_heads linear_num_value_heads num_experts n_routed_experts "
        "num_local_experts moe_num_experts patch_size qk_rope_head_dim image_seq_length num_query_tokens "
        "vision_soft_tokens_per_image resampler_n_latents latent_query_num",
        2: "num_key_value_heads num_key_value_heads_perceiver linear_num_key_heads linear_num_heads "
        "num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k encoder_layers",
        8: "head_dim d_kv v_head_dim qk_nope_head_dim resampler_head_dim linear_key_head_dim "
        "linear_value_head_dim linear_head_dim mamba_n_heads mamba_num_heads mamba_head_dim mamba_d_head "
        "decoder_layers num_decoder_layers",
        16: "kv_lora_rank q_lora_rank image_size num_position_embeddings mm_tokens_per_image "
        "num_image_tokens mamba_d_state ssm_state_size mamba_chunk_size",
        1: "n_group topk_group n_shared_experts first_k_dense_replace",
        6: "sliding_window attention_chunk_size",
        256: "max_position_embeddings n_positions original_max_position_embeddings",
    }.items()
    for name in names.split()
}
"""What the fields of configurations that give sizes are set to, at any depth, where they are not smaller."""

TOWERS = ("vision", "audio", "vq", "encoder", "qformer", "perceiver", "sam", "adapter")
"""Parts of the names under which configurations keep what is not the decoder."""

TOKENS: tuple[tuple[str, int | None], ...] = (
    ("pad", 0),
    ("bos", 1),
    ("eos", None),
    ("image_start", START),
    ("vision_start", START),
    ("boi", START),
    ("image_end", END),
    ("vision_end", END),
    ("eoi", END),
    ("image_token", IMAGE),
    ("video", VIDEO),
    ("audio", AUDIO),
)
"""What a marker is called, at the beginning of its field's name, and its id; the others get the next ones."""


def shrink(config_class: Any, changes: Mapping[str, Any]) -> Any:
    """A configuration of a class, small enough to be built with random weights in a moment.

    Args:
        changes: fields in place of the small or default ones, nested as configurations are; None for one that
            its class shall work out.
    """
    values = _small(config_class().to_dict(), "", iter(range(AUDIO - 1, TEXT_IDS.stop - 1, -1)))
    return config_class.from_dict(_merged(values, changes))


def _small(values: Mapping[str, Any], path: str, spare: Iterator[int]) -> dict[str, Any]:
    """The fields of one configuration and of those inside of it."""
    depth = next((values[name] for name in ("num_hidden_layers", "n_layer") if values.get(name)), 0)
    small: dict[str, Any] = {}
    for name, value in values.items():
        if name in ("dtype", "torch_dtype", "per_layer_config") or _one_a_block(value, depth):
            continue  # the class works it out
        if isinstance(value, Mapping) and _is_config(name):
            small[name] = _small(value, f"{path}.{name}", spare)
        elif isinstance(value, int) and not isinstance(value, bool):
            small[name] = _number(name, value, path, spare)
        elif name == "initializer_range":
            small[name] = max(value, 0.02)  # towers with 1e-10 would take every picture for the same one
        else:
            small[name] = value
    small.pop("qk_head_dim", None)  # a sum of two sizes
    if "kv_lora_rank" in small and "num_key_value_heads" in small:
        small["num_key_value_heads"] = small["num_attention_heads"]  # latent attention has no groups
    return small


def _is_config(name: str) -> bool:
    return name.endswith("config") or name in ("encoder", "decoder")


def _one_a_block(value: Any, depth: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == depth > 4


def _number(name: str, value: int, path: str, spare: Iterator[int]) -> int | None:
    if name.endswith(("token_id", "token_index")):
        known = [token for start, token in TOKENS if name.startswith(start)]
        return known[0] if known else (value if value < TEXT_IDS.stop else next(spare))
    if name in DEPTHS:
        in_tower = any(word in path for word in TOWERS)
        return min(TOWER_BLOCKS if in_tower else BLOCKS, value)
    size = SIZES.get(name, value)
    return size if name.endswith("vocab_size") else min(size, value)


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, change in changes.items():
        if change is None:
            merged.pop(name, None)
        elif isinstance(change, Mapping) and isinstance(merged.get(name), Mapping) and _is_config(name):
            merged[name] = _merged(merged[name], change)
        else:
            merged[name] = change
    return merged
