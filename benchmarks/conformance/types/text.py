"""Families that read text only: one of each design, and those that vision-language models are built of.

What is set here is what the lens or the skip could trip over: layers of several kinds, what is done to the
logits after the head, windows, experts beside plain feed-forwards, one cache entry for several blocks.
"""

from benchmarks.conformance.kinds import Kind

SLIDING, FULL = "sliding_attention", "full_attention"
BOTH = [SLIDING, FULL] * 4
SCALED = {
    "logits_scaling": 0.5,
    "residual_multiplier": 0.7,
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.3,
}
LATENT = {"n_group": 2, "topk_group": 1, "head_dim": None, "first_k_dense_replace": 2}
SHARED_INDEX = {
    "index_topk": 4,
    "index_head_dim": 8,
    "index_n_heads": 16,
    "indexer_types": ["full", "shared"] * 4,
}
"""A block looks up the keys that matter for the next one too, fewer than prompts have."""

PLAIN = (
    "llama mistral qwen3 gemma phi phi3 gpt2 gpt_neox gpt_bigcode opt olmo2 olmo3 stablelm starcoder2 glm4 "
    "glm4_moe gpt_oss smollm3 exaone4 minicpm3 mixtral cohere cohere2 qwen3_next jamba mamba nemotron_h"
)
"""Those whose configuration has it all by itself."""

KINDS: dict[str, Kind] = {
    **{name: Kind() for name in PLAIN.split()},
    "ministral": Kind({"head_dim": 8, "layer_types": BOTH}),
    "qwen2": Kind({"use_sliding_window": True, "max_window_layers": 4}),
    "qwen3_moe": Kind({"decoder_sparse_step": 2}),
    "gemma2": Kind({"final_logit_softcapping": 4.0, "attn_logit_softcapping": 4.0}),
    "gemma3_text": Kind({"layer_types": BOTH, "final_logit_softcapping": 4.0}),
    "gemma3n_text": Kind(
        {
            "layer_types": BOTH,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": 120,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "final_logit_softcapping": 4.0,
        }
    ),
    "gptj": Kind({"rotary_dim": 4}),
    "codegen": Kind({"rotary_dim": 4}),
    "bloom": Kind({"n_layer": 8}),
    "mpt": Kind({"logit_scale": 0.5, "use_cache": True, "max_seq_len": 64}),
    "falcon": Kind({"alibi": True}),
    "granite": Kind(SCALED),
    "granitemoe": Kind(SCALED),
    "granitemoehybrid": Kind(SCALED | {"layer_types": ["mamba", "attention"] * 4}),
    "nemotron": Kind({"num_key_value_heads": 2}),
    "deepseek_v2": Kind(LATENT | {"num_experts_per_tok": 2, "topk_method": "group_limited_greedy"}),
    "deepseek_v3": Kind(LATENT),
    "longcat_flash": Kind(
        {"ffn_hidden_size": 64, "expert_ffn_hidden_size": 32, "head_dim": 4, "zero_expert_num": 2}
    ),
    "bamba": Kind({"attn_layer_indices": [2, 6]}),
    "falcon_h1": Kind({"mamba_d_ssm": 64}),
    "lfm2": Kind({"full_attn_idxs": [2, 6]}),
    "lfm2_moe": Kind({"layer_types": ["conv", FULL] * 4}),
    "mamba2": Kind({"head_dim": 16, "state_size": 16, "n_groups": 2, "chunk_size": 16}),
    "rwkv": Kind({"attention_hidden_size": None}),
    "recurrent_gemma": Kind({"lru_width": 32, "attention_window_size": 6, "logits_soft_cap": 4.0}),
    "minimax": Kind(),
    "kimi_linear": Kind(),
    "zaya": Kind({"router_hidden_size": 16}),
    "hy_v4": Kind(SHARED_INDEX),
    "glm_moe_dsa": Kind(SHARED_INDEX | {"head_dim": None}),
}
