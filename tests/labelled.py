"""A real tokenizer of made-up words for the tiny models, and labelled examples that they can be asked."""

from collections.abc import Sequence
from typing import Any

from families import VOCAB, Family
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from mutation_decode import Example

SPECIAL = ("<pad>", "<s>", "<unk>")


def word(token: int) -> str:
    """The word of an id."""
    return SPECIAL[token] if token < len(SPECIAL) else f"thing{token}"


def tokenizer() -> Any:
    """One word a token."""
    words = models.WordLevel({word(token): token for token in range(VOCAB)}, unk_token="<unk>")
    made = Tokenizer(words)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", unk_token="<unk>"
    )


def encode(family: Family) -> Any:
    """Images are numbers of the family's prompts."""
    return lambda images: family.batch(*images)


def examples(family: Family, rows: Sequence[int] = (0, 1, 2)) -> list[Example]:
    """Every other word of each greedy answer is an object that is there; so is one that nobody names."""
    answers: Tensor = family.answers(0, 1, 2)
    return [Example(row, {"thing3", *(word(t) for t in answers[row, ::2].tolist())}) for row in rows]
