"""Watches plain answers to images with known objects, and says where invented words come from."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .anatomy import Anatomy
from .findings import Findings, find
from .observe import Observation, observe
from .words import Answer, Mentions, read


def examine(
    model: nn.Module,
    tokenizer: Any,
    batches: Iterable[tuple[Mapping[str, Any], Sequence[Collection[str]]]],
    *,
    mentions: Mentions,
    max_new_tokens: int = 128,
    seed: int = 0,
    anatomy: Anatomy | None = None,
) -> Findings:
    """Greedy answers, watched and read; no candidate is tried. `calibrate` does that as well.

    Args:
        model: a transformers model.
        tokenizer: its tokenizer.
        batches: inputs of generate, left-padded, and for each of their rows the objects that its image shows.
        mentions: from an answer to the objects it names: name, and where its word begins.
        max_new_tokens: the longest answer.
        seed: of the intervals; decoding is greedy.
        anatomy: the model's parts, if they cannot be found.

    Raises:
        ValueError: if there is no answer, or not one set of objects a row.
    """
    observed: list[Observation] = []
    answers: list[Answer] = []
    with torch.no_grad():
        for inputs, truths in batches:
            seen = observe(model, inputs, max_new_tokens=max_new_tokens, anatomy=anatomy)
            if len(seen) != len(truths):
                raise ValueError(f"expected objects for each of {len(seen)} rows, got {len(truths)} sets.")
            observed += seen
            answers += [
                read(one.tokens.tolist(), truth, tokenizer, mentions)
                for one, truth in zip(seen, truths, strict=True)
            ]
    return find(observed, answers, tokenizer, seed=seed)
