"""Training batches: the image prefix and several independent turns about it in one sequence (tree packing).

A turn sees the prefix and itself, its positions restart after the prefix, and the loss falls on its answer
alone. So one forward answers a dozen questions about a picture, each as a conversation of its own would.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import LlavaProcessor

from benchmarks.miniature import world

IGNORED = -100
FUNCTION_WEIGHT = 0.2  # of a word of the grammar in the loss; nouns, colours, answers and stops have 1


@dataclass(frozen=True, slots=True)
class Turn:
    """One prompt and its answer; ``hidden`` are words of the answer that are shown but not learned."""

    prompt: str
    answer: str
    hidden: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one step; targets are of the next token.

    ``pixels [n, 3, 48, 48]``; ``ids``, ``positions``, ``targets``, ``weights`` ``[n, T]``; additive
    ``mask [n, 1, T, T]``. ``cells [n, T]``: for noun tokens of the turns the cell of that thing (0..8), 9 for
    "not there", else -100; ``colours [n, T]``: its colour where it is there.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    mask: torch.Tensor
    cells: torch.Tensor
    colours: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, name).to(device) for name in self.__slots__))


class Packer:
    """Packs scenes and turns for one processor."""

    def __init__(self, processor: LlavaProcessor) -> None:
        tokenizer = processor.tokenizer
        self.word = tokenizer.get_vocab()
        self.prefix = [self.word[w] for w in ("<s>", "user", ":", *["<image>"] * world.GRID**2)]
        self.function = {self.word[w] for w in world.FUNCTION_WORDS if w != "there"}  # "there" is the way on
        self.nouns = {self.word[noun]: noun for noun in world.NOUNS}
        self.mean = torch.tensor(processor.image_processor.image_mean)[:, None, None]
        self.std = torch.tensor(processor.image_processor.image_std)[:, None, None]

    def pixels(self, scenes: Sequence[world.Scene]) -> torch.Tensor:
        """What the image processor makes of the scenes' pictures, ``[n, 3, 48, 48]``."""
        raw = torch.from_numpy(np.stack([scene.pixels() for scene in scenes])).permute(0, 3, 1, 2)
        return (raw / 255 - self.mean) / self.std

    def pack(self, scenes: Sequence[world.Scene], turns: Sequence[Sequence[Turn]]) -> Batch:
        rows = [self._row(scene, asked) for scene, asked in zip(scenes, turns, strict=True)]
        width = max(len(row["ids"]) for row in rows)
        fill = {"ids": self.word["<pad>"], "positions": 0, "targets": IGNORED, "weights": 0.0, "branch": -1,
                "cells": IGNORED, "colours": IGNORED}  # fmt: skip
        columns = {
            name: torch.tensor([row[name] + [value] * (width - len(row[name])) for row in rows])
            for name, value in fill.items()
        }
        branch = columns.pop("branch")
        own = branch[:, :, None] == branch[:, None, :]
        seen = (own | (branch[:, None, :] == 0)) & torch.ones(width, width, dtype=torch.bool).tril()
        mask = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)[:, None]
        return Batch(pixels=self.pixels(scenes), mask=mask, **columns)

    def _row(self, scene: world.Scene, turns: Sequence[Turn]) -> dict[str, list]:
        start = len(self.prefix)
        there = {thing.noun: thing for thing in scene.visible}
        row = {"ids": [*self.prefix], "positions": [*range(start)], "branch": [0] * start}
        row |= {"targets": [IGNORED] * start, "weights": [0.0] * start}
        row |= {"cells": [IGNORED] * start, "colours": [IGNORED] * start}
        for number, turn in enumerate(turns, 1):
            prompt = [self.word[w] for w in (*turn.prompt.split(), "assistant", ":")]
            answer = [*(self.word[w] for w in turn.answer.split()), self.word["</s>"]]
            ids = prompt + answer
            learned = [IGNORED if i in turn.hidden else token for i, token in enumerate(answer)]
            targets = [IGNORED] * (len(prompt) - 1) + learned + [IGNORED]
            row["ids"] += ids
            row["positions"] += range(start, start + len(ids))
            row["branch"] += [number] * len(ids)
            row["targets"] += targets
            row["weights"] += [
                FUNCTION_WEIGHT if t in self.function else float(t != IGNORED) for t in targets
            ]
            things = [there.get(self.nouns.get(token, "")) for token in ids]
            row["cells"] += [
                thing.cell if thing else world.GRID**2 if token in self.nouns else IGNORED
                for token, thing in zip(ids, things, strict=True)
            ]
            row["colours"] += [COLOUR_INDEX[thing.colour] if thing else IGNORED for thing in things]
        return row


COLOUR_INDEX = {colour: index for index, colour in enumerate(world.COLOURS)}
