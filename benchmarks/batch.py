"""One batch of items and one line each: answers, and what speaks against an answer, item by item.

What is wrong with one item (an image that cannot be read, a conversation that the model does not take, a
prompt longer than its context) ends as that item's ``error``, and the others are answered. A batch that does
not fit into memory is answered in halves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from PIL import Image
from torch import Tensor

from benchmarks.answered import Line
from benchmarks.cost import FirstToken, Spent, Watch
from benchmarks.models import Loaded, Messages
from benchmarks.placement import entrance
from benchmarks.second_forward import Second, SecondForward
from benchmarks.tasks import Item
from benchmarks.tasks.images import rgb

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises on files that are not there, no image, damaged, or absurdly large."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How a batch is asked: the model, the processor of the method, if it has one, arguments of generate.

    ``answer`` is the name that the answer has in a line; ``second`` is a method that runs the model a second
    time on other inputs, which are made for each batch.
    """

    loaded: Loaded
    processor: Any
    arguments: dict[str, Any]
    answer: str
    second: Second | None = None

    def lines(self, batch: Sequence[Item], seed: int = 0) -> tuple[list[Line], Spent]:
        """A line for each item, and what all of them took; ``seed`` is the batch's, for samples and noise."""
        lines = [dict[str, Any](item.record) for item in batch]
        spent, asked = Spent(), list[tuple[Line, Messages]]()
        for line, item in zip(lines, batch, strict=True):
            try:
                messages, modes = conversation(item)
            except UNREADABLE as error:
                line["error"] = f"{type(error).__name__}: {error}"
                continue
            asked.append((line, messages))
            if modes:
                line["converted"] = modes
        for (line, _), told in zip(
            asked, self._answers([messages for _, messages in asked], spent, seed), strict=True
        ):
            line.update(told)
        return lines, spent

    def _answers(self, batch: Sequence[Messages], spent: Spent, seed: int) -> list[Line]:
        """What each line of a batch is to hold beside the record."""
        if not batch:
            return []
        torch.manual_seed(seed)  # here, so that samples do not depend on how far a failed attempt came
        try:
            return self._sound(batch, spent, seed)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if len(batch) == 1:
                return [{"error": f"out of memory, alone in its batch: {str(error).splitlines()[0]}"}]
        # Here and not in the handler, whose traceback keeps the tensors of the failed call alive.
        clear_device_cache(garbage_collection=True)
        half = (len(batch) + 1) // 2
        spent.halved += 1
        return self._answers(batch[:half], spent, seed) + self._answers(batch[half:], spent, seed + half)

    def _sound(self, batch: Sequence[Messages], spent: Spent, seed: int) -> list[Line]:
        """The same, where those that the model does not take are told apart from the others."""
        inputs, other, errors = self._prepared(batch, seed)
        if not any(errors):
            return self._generate(inputs, other, spent)
        kept = [messages for messages, error in zip(batch, errors, strict=True) if not error]
        answers = iter(self._answers(kept, spent, seed))
        return [{"error": error} if error else next(answers) for error in errors]

    def _prepared(self, batch: Sequence[Messages], seed: int) -> tuple[Any, Any, list[str]]:
        """What the model gets, what it gets when it is run a second time, if it is, and for each conversation
        why it cannot be asked; empty where it can.
        """
        other = None
        try:
            inputs = self.loaded.inputs(batch)
            if self.second is not None:
                other = self.second.other(self.loaded, batch, inputs, seed)
        except ValueError as error:
            if len(batch) == 1:
                return None, None, [f"the model does not take this: {error}"]
            errors = [self._prepared([messages], seed)[2][0] for messages in batch]
            if not any(errors):
                raise
            return None, None, errors
        context, new = self.loaded.context, self.arguments["max_new_tokens"]
        prompts = [self.loaded.lengths(each) for each in (inputs, other) if each is not None]
        errors = [
            f"a prompt of {length} tokens and max_new_tokens={new} exceed the model's context of {context}"
            if context is not None and length + new > context
            else ""
            for length in map(max, zip(*prompts, strict=True))
        ]
        return inputs, other, errors

    def _generate(self, inputs: Any, other: Any, spent: Spent) -> list[Line]:
        loaded, tokenizer, first = self.loaded, self.loaded.processor.tokenizer, FirstToken()
        used = {} if self.processor is None else {"logits_processor": [self.processor]}
        if self.second is not None:
            new = self.arguments["max_new_tokens"]
            twice = SecondForward(loaded.model, other, self.second.combine, max_new_tokens=new)
            used = {"logits_processor": [twice]}
        with Watch(entrance(loaded.model), first) as watch:
            output = loaded.model.generate(
                **inputs,
                pad_token_id=tokenizer.pad_token_id,
                stopping_criteria=[first],
                **self.arguments,
                **used,
            )
            # Some models return the prompt too, others (fed with embeddings) a part of it or nothing.
            made = output[:, first.before :].cpu()
        generated, ended = self._ends(made)
        acted = generated if self.second is not None else torch.zeros_like(generated)
        if self.processor is not None:
            acted = generated & self.processor.trace.acted
        spent.add(watch, items=len(made), tokens=int(generated.sum()))
        texts = loaded.processor.batch_decode(made, skip_special_tokens=True)
        return [
            {
                self.answer: text.strip(),
                "tokens": int(generated[row].sum()),
                "fired": int(acted[row].sum()),
                "truncated": int(not ended[row]),
            }
            for row, text in enumerate(texts)
        ]

    def _ends(self, made: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the new ids `[rows, tokens]` were generated, and which rows have come to an end.

        A row may also end at a stop string, or by rules of the model's own generate: then it is filled up, or
        the whole batch stops before ``max_new_tokens``.
        """
        settings = self.loaded.model.generation_config
        ids = self.arguments.get("eos_token_id", settings.eos_token_id)
        ends = torch.isin(made, torch.as_tensor([] if ids is None else ids, dtype=torch.long))
        generated = ends.cumsum(1) - ends.long() == 0
        pad = self.loaded.processor.tokenizer.pad_token_id
        if pad is not None and not torch.isin(pad, torch.as_tensor([] if ids is None else ids)):
            generated &= ~(made == pad).long().flip(1).cumprod(1).flip(1).bool()
        early = made.shape[1] < self.arguments["max_new_tokens"]
        return generated, ends.any(1) | ~generated.all(1) | early


def conversation(item: Item) -> tuple[Messages, list[str]]:
    """The turns of an item with their images read, as RGB, and the modes of those that were not RGB before.

    Raises: any of UNREADABLE.
    """
    messages, modes = [], []
    for turn in item.turns:
        content: list[dict[str, Any]] = []
        for read in turn.images:
            image = read()
            if image.mode != "RGB":
                modes.append(image.mode)
            content.append({"type": "image", "image": rgb(image)})
        messages.append({"role": turn.role, "content": [*content, {"type": "text", "text": turn.text}]})
    return messages, modes


def outline(item: Item) -> Messages:
    """The turns of an item with a place for each image, which is not read."""
    return [
        {
            "role": turn.role,
            "content": [*({"type": "image"} for _ in turn.images), {"type": "text", "text": turn.text}],
        }
        for turn in item.turns
    ]
