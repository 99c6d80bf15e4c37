"""The miniature LVLM: the real LLaVA classes (CLIP tower, projector, Llama decoder, processor), tiny."""

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from benchmarks.miniature import world

WIDTH = 128
IMAGE_TOKENS = world.GRID**2
SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} :"
    "{% for part in message['content'] %} "
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)


def build_processor() -> LlavaProcessor:
    """The processor: one token a word of the world, nine image tokens a picture, left padding."""
    words = {word: index for index, word in enumerate((*SPECIAL, *world.vocabulary()))}
    backend = Tokenizer(WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words["<s>"])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        model_max_length=256,
    )
    pictures = CLIPImageProcessorPil(
        do_resize=True,
        size={"height": world.SIZE, "width": world.SIZE},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.25, 0.25, 0.25],
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=world.CELL,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


def build_model(vocabulary: int, *, blocks: int) -> LlavaForConditionalGeneration:
    """An untrained miniature with ``blocks`` text blocks, in fp32."""
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=world.SIZE,
        patch_size=world.CELL,
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=344,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=0.05,
        pad_token_id=SPECIAL.index("<pad>"),
        bos_token_id=SPECIAL.index("<s>"),
        eos_token_id=SPECIAL.index("</s>"),
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=SPECIAL.index("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        pad_token_id=SPECIAL.index("<pad>"),
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = SPECIAL.index("<pad>")
    model.generation_config.bos_token_id = SPECIAL.index("<s>")
    model.generation_config.eos_token_id = SPECIAL.index("</s>")
    model.generation_config.do_sample = False
    model.generation_config.max_new_tokens = 64
    return model


def append_blocks(trunk: LlavaForConditionalGeneration, blocks: int) -> LlavaForConditionalGeneration:
    """A copy of ``trunk`` with more blocks before its final norm that add nothing until they are trained."""
    depth = trunk.config.text_config.num_hidden_layers
    model = build_model(trunk.config.text_config.vocab_size, blocks=depth + blocks)
    model.load_state_dict(trunk.state_dict(), strict=False)
    for block in model.model.language_model.layers[depth:]:
        torch.nn.init.zeros_(block.self_attn.o_proj.weight)
        torch.nn.init.zeros_(block.mlp.down_proj.weight)
    return model
