"""A byte-level tokenizer of about 300 pieces, which reads any text, with the special tokens of a class."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

TEXTS = (
    "Please describe this image in detail. Is there a dog in the image? Please answer yes or no. "
    "Describe this image. There is a cat on the table, and a person near the window. USER: ASSISTANT: "
    "user assistant system yes no the a an is are of in on and to with Question: Short answer:"
)
PLAIN = ("<pad>", "<s>", "</s>")


@cache
def _pieces() -> str:
    """A byte-level tokenizer of about 300 pieces: it reads any text."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=320,
        show_progress=False,
        special_tokens=list(PLAIN),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator([TEXTS], trainer)
    return backend.to_str()


def build(tokens: Mapping[str, str], more: Sequence[str]) -> Any:
    backend = Tokenizer.from_str(_pieces())
    special = (*tokens.values(), *more)
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=1024,
        extra_special_tokens=dict(tokens) or list(more),
        clean_up_tokenization_spaces=False,
    )
