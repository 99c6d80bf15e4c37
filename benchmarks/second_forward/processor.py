"""The processor that runs the model a second time, on other inputs, and hands on what is made of both."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from benchmarks.second_forward.apart import Apart
from benchmarks.second_forward.forward import Forward


class SecondForward(LogitsProcessor):
    """For one generate: a second forward that gets each token which the first one's scores led to.

    Args:
        model: the one that generates.
        inputs: of the second forward, a row for each of the first; of any length, padded on the left.
        combine: from the scores, the second logits, both `[rows, vocab]`, and the number of tokens chosen so
            far to the new scores.
        max_new_tokens: the most tokens that the cache has to have room for.

    Example::

        second = SecondForward(model, without_image, PAI().combine, max_new_tokens=64)
        model.generate(**inputs, max_new_tokens=64, logits_processor=[second])
    """

    def __init__(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        combine: Callable[[Tensor, Tensor, int], Tensor],
        *,
        max_new_tokens: int,
    ) -> None:
        self._apart = Apart(model)
        self._forward = Forward(model, inputs, max_new_tokens=max_new_tokens)
        self._rows = len(inputs["input_ids"])
        self._combine = combine
        self._seen: Tensor | None = None
        self._step = 0

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Raises: RuntimeError when the rows are not those of the call before and one token more."""
        if len(scores) != self._rows:
            raise RuntimeError(
                f"the second forward has {self._rows} rows and generate {len(scores)}; it takes one sequence "
                f"a prompt: num_beams=1 and num_return_sequences=1"
            )
        before, self._seen = self._seen, input_ids
        if before is not None and not torch.equal(input_ids[:, :-1], before):
            raise RuntimeError(
                f"the second forward follows rows that grow by one token; they went from "
                f"{tuple(before.shape)} to {tuple(input_ids.shape)}, or changed in what was there, as under "
                f"beams, assisted decoding or a second generate; give it to one greedy or sampling generate"
            )
        with self._apart.on():
            other = self._forward.begin() if before is None else self._forward.go_on(input_ids[:, -1:])
        step, self._step = self._step, self._step + 1
        return self._combine(scores, other.to(scores.device), step)
