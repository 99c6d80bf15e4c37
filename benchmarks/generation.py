"""The loop: batches of prompts in, one line of JSON an item out, nothing lost when it is killed.

Batches are formed once, over all items, whatever is already there and however many processes there are: an
item always meets the same neighbours, so that float noise cannot move a token.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from benchmarks import processes
from benchmarks.answered import Answered, Line
from benchmarks.methods import Method
from benchmarks.models import Loaded, Messages
from benchmarks.tasks import Item


def generate(
    loaded: Loaded,
    method: Method,
    items: Sequence[Item],
    path: Path,
    *,
    answer: str,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    title: str,
) -> list[Line]:
    """Answers every item into ``path`` (JSON Lines), keeping finished batches that are there already.

    An item whose image cannot be read gets a line with ``error`` in place of an answer.

    Returns: the lines, in the order of the items.

    Raises: UsageError when ``path`` holds other items than these.
    """
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    answered = Answered(path, batches)
    if answered.open:
        arguments = {"max_new_tokens": max_new_tokens, "do_sample": False, **method.generate}
        mine = answered.open[processes.rank() :: processes.count()]
        with (
            answered.appending() as append,
            method.on(loaded.model) as processor,
            torch.inference_mode(),
            _bar(title, items, batches, mine) as bar,
        ):
            for number in mine:
                torch.manual_seed(seed + number)
                append(number, list(_answer(loaded, processor, batches[number], arguments, answer)))
                bar.update(len(batches[number]))
    return answered.lines()


def _bar(title: str, items: Sequence[Item], batches: Sequence[Sequence[Item]], mine: Sequence[int]) -> Any:
    """One bar for all processes, the first one's; it does not know how far the others are."""
    here, others = sum(len(batches[number]) for number in mine), processes.count() - 1
    if others:
        title += f" (and {others} other process{'es' if others > 1 else ''})"
    total, there = (here, 0) if others else (len(items), len(items) - here)
    settings: dict[str, Any] = {"unit": " images", "desc": title, "smoothing": 0.1}
    return tqdm(total=total, initial=there, disable=processes.rank() > 0, **settings)


def _answer(
    loaded: Loaded,
    processor: Any,
    batch: Sequence[Item],
    arguments: dict[str, Any],
    answer: str,
) -> Iterator[Line]:
    asked = [_asked(item) for item in batch]
    readable = [messages for messages in asked if not isinstance(messages, str)]
    answers = iter(_answers(loaded, processor, readable, arguments) if readable else ())
    for item, messages in zip(batch, asked, strict=True):
        if isinstance(messages, str):
            yield {**item.record, "error": messages}
        else:
            text, numbers = next(answers)
            yield {**item.record, answer: text, **numbers}


def _answers(
    loaded: Loaded, processor: Any, batch: Sequence[Messages], arguments: dict[str, Any]
) -> Iterator[tuple[str, dict[str, int]]]:
    """(text, numbers of its tokens) of each item of one batch."""
    model, pad = loaded.model, loaded.processor.tokenizer.pad_token_id
    inputs = loaded.inputs(batch)
    used = {} if processor is None else {"logits_processor": [processor]}
    output = model.generate(**inputs, pad_token_id=pad, **arguments, **used)
    made = output[:, inputs["input_ids"].shape[1] :].cpu()
    ends = torch.isin(made, torch.as_tensor(model.generation_config.eos_token_id or [], dtype=torch.long))
    generated = ends.cumsum(1) - ends.long() == 0
    acted = generated & processor.trace.acted if processor is not None else torch.zeros_like(generated)
    texts = loaded.processor.batch_decode(made, skip_special_tokens=True)
    for row, text in enumerate(texts):
        yield (
            text.strip(),
            {
                "tokens": int(generated[row].sum()),
                "fired": int(acted[row].sum()),
                "truncated": int(not ends[row].any()),
            },
        )


def messages(item: Item) -> Messages:
    """The conversation with its images read, as RGB. Raises: OSError and others when one cannot be read."""
    return [
        {
            "role": turn.role,
            "content": [
                *({"type": "image", "image": read().convert("RGB")} for read in turn.images),
                {"type": "text", "text": turn.text},
            ],
        }
        for turn in item.turns
    ]


def _asked(item: Item) -> Messages | str:
    """The conversation, or why an image of it cannot be read."""
    try:
        return messages(item)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{type(error).__name__}: {error}"
