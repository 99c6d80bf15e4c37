"""The loop: batches of prompts in, one line of JSON an item out, nothing lost when it is killed.

Batches are formed once, over all items, whatever is already there; a run that goes on starts at a batch's
beginning and meets the same neighbours, so that float noise cannot move a token. Lines are in the order of
the items.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from benchmarks.methods import Method
from benchmarks.models import Loaded
from benchmarks.tasks import Item
from benchmarks.usage import UsageError

Line = dict[str, Any]


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
    path.parent.mkdir(parents=True, exist_ok=True)
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    lines = finished(path, batches)
    if len(lines) == len(items):
        return lines
    arguments = {"max_new_tokens": max_new_tokens, "do_sample": False, **method.generate}
    with (
        path.open("a") as file,
        method.on(loaded.model) as processor,
        torch.inference_mode(),
        tqdm(total=len(items), initial=len(lines), unit=" images", desc=title, smoothing=0.1) as bar,
    ):
        for number, batch in enumerate(batches):
            if number * batch_size < len(lines):
                continue
            torch.manual_seed(seed + number)
            made = list(_answer(loaded, processor, batch, arguments, answer))
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in made)
            file.flush()
            lines += made
            bar.update(len(batch))
    return lines


def finished(path: Path, batches: Sequence[Sequence[Item]]) -> list[Line]:
    """The lines of the whole batches in ``path``; what follows them, half-written or not, is cut off.

    Raises: UsageError when the lines are not those of ``batches``.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    written = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
    keep = 0
    for batch in batches:
        if keep + len(batch) > len(written):
            break
        keep += len(batch)
    try:
        lines = [json.loads(line) for line in written[:keep]]
        same = all(
            line[key] == value
            for line, item in zip(lines, (item for batch in batches for item in batch), strict=False)
            for key, value in item.record.items()
        )
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise UsageError(
            f"{path} holds answers to other items than this run's; replace them with overwrite=true"
        )
    with path.open("r+b") as file:
        file.truncate(sum(map(len, written[:keep])))
    return lines


def _answer(
    loaded: Loaded,
    processor: Any,
    batch: Sequence[Item],
    arguments: dict[str, Any],
    answer: str,
) -> Iterator[Line]:
    images = [_read(item) for item in batch]
    readable = [
        (item, image) for item, image in zip(batch, images, strict=True) if isinstance(image, Image.Image)
    ]
    answers = iter(_answers(loaded, processor, readable, arguments) if readable else ())
    for item, image in zip(batch, images, strict=True):
        if isinstance(image, Image.Image):
            text, numbers = next(answers)
            yield {**item.record, answer: text, **numbers}
        else:
            yield {**item.record, "error": image}


def _answers(
    loaded: Loaded, processor: Any, batch: Sequence[tuple[Item, Image.Image]], arguments: dict[str, Any]
) -> Iterator[tuple[str, dict[str, int]]]:
    """(text, numbers of its tokens) of each item of one batch."""
    model, pad = loaded.model, loaded.processor.tokenizer.pad_token_id
    inputs = loaded.inputs([item.prompt for item, _ in batch], [image for _, image in batch])
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


def _read(item: Item) -> Image.Image | str:
    """The image, or why it cannot be read."""
    try:
        return item.image()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{type(error).__name__}: {error}"
