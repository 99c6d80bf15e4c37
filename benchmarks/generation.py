"""The loop: batches of prompts in, one line of JSON an item out, nothing lost when it is killed.

Batches are formed once, over all items, whatever is already there and however many processes there are: an
item always meets the same neighbours, so that float noise cannot move a token.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import processes
from benchmarks.answered import Answered, Line
from benchmarks.batch import Asking
from benchmarks.cost import keep
from benchmarks.methods import Method
from benchmarks.models import Loaded
from benchmarks.tasks import Item

WINDOW = 16
"""Batches among whose items the longest come first, so that those of one batch are padded little."""


def generate(
    loaded: Loaded,
    method: Method,
    items: Sequence[Item],
    path: Path,
    cost: Path,
    *,
    answer: str,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    retry: bool,
    title: str,
) -> list[Line]:
    """Answers every item into ``path`` (JSON Lines), keeping finished batches that are there already.

    An item that cannot be asked gets a line with ``error`` in place of an answer.

    Args:
        cost: the file that what each batch took is appended to.
        retry: ask again for the batches with errors among them.

    Returns: the lines, in the order of the items; in the file they are in the order of the batches.

    Raises: UsageError when ``path`` holds other items than these, or the model does not take the method.
    """
    order = in_order([sum(len(turn.text) for turn in item.turns) for item in items], batch_size)
    batches = [
        [items[index] for index in order[at : at + batch_size]] for at in range(0, len(items), batch_size)
    ]
    answered = Answered(path, batches, retry=retry)
    if answered.open:
        arguments = {"max_new_tokens": max_new_tokens, "do_sample": False, **method.generate}
        mine = answered.open[processes.rank() :: processes.count()]
        cost.parent.mkdir(parents=True, exist_ok=True)
        with (
            answered.appending() as append,
            method.on(loaded.model) as processor,
            torch.inference_mode(),
            _bar(title, items, batches, mine) as bar,
        ):
            asking = Asking(loaded, processor, arguments, answer, method.second)
            for number in mine:
                lines, spent = asking.lines(batches[number], seed + number)
                append(number, lines)
                keep(cost, number, spent)
                bar.update(len(batches[number]))
    found = dict(zip(order, answered.lines(), strict=True))
    return [found[index] for index in range(len(items))]


def in_order(lengths: Sequence[int], batch_size: int) -> list[int]:
    """The items' numbers, longest first within windows of WINDOW batches; equals stay as they are."""
    width = WINDOW * batch_size
    windows = (range(len(lengths))[start : start + width] for start in range(0, len(lengths), width))
    return [index for window in windows for index in sorted(window, key=lambda one: -lengths[one])]


def _bar(title: str, items: Sequence[Item], batches: Sequence[Sequence[Item]], mine: Sequence[int]) -> Any:
    """One bar for all processes, the first one's; it does not know how far the others are."""
    here, others = sum(len(batches[number]) for number in mine), processes.count() - 1
    if others:
        title += f" (and {others} other process{'es' if others > 1 else ''})"
    total, there = (here, 0) if others else (len(items), len(items) - here)
    settings: dict[str, Any] = {"unit": " images", "desc": title, "smoothing": 0.1}
    return tqdm(total=total, initial=there, disable=processes.rank() > 0, **settings)
