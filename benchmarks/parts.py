"""A gate by the part of the sentence: object words alone, or all the others. For the miniatures' words."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from benchmarks.miniature import world
from benchmarks.miniature.model import build_processor
from mutation_decode import Gate, Mutations, Readout


@dataclass(frozen=True, slots=True)
class PartGate(Gate):
    """Opens where the model's own next word is one of a kind: ``objects`` or ``others``; None: any."""

    part: Literal["objects", "others"] | None = None

    def __post_init__(self) -> None:
        Gate.__post_init__(self)
        if self.part not in (None, "objects", "others"):
            raise ValueError(f"part is objects, others or None, got {self.part!r}.")

    def __call__(self, readout: Readout, mutations: Mutations) -> Tensor:
        open_ = Gate.__call__(self, readout, mutations)
        if self.part is None:
            return open_
        next_word = readout.logits_at(readout.depth).argmax(dim=-1)
        is_object = torch.isin(next_word, torch.tensor(_objects(), device=next_word.device))
        return open_ & (is_object if self.part == "objects" else ~is_object)


@cache
def _objects() -> tuple[int, ...]:
    vocabulary = build_processor().tokenizer.get_vocab()
    return tuple(vocabulary[noun] for noun in world.NOUNS)
