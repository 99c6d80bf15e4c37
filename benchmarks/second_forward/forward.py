"""A model on inputs of its own, token by token, prepared in every respect as its generate prepares them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Forward:
    """One forward over a prompt, then one for each token, with a cache of its own.

    The prompt is prepared by the model's own generate, whatever it does with masks, positions and images,
    and whether another model inside it generates (InstructBLIP): only the loop over the tokens is here.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Any], *, max_new_tokens: int) -> None:
        self._model = model
        self._inputs = inputs
        self._room = max_new_tokens
        self._ids = torch.empty(0)
        self._arguments: dict[str, Any] = {}

    def begin(self) -> Tensor:
        """The logits after the prompt, `[rows, vocab]`, fp32."""
        self._model.generate(
            **self._inputs,
            custom_generate=self._take,
            max_new_tokens=self._room,
            do_sample=False,
            num_beams=1,
            use_cache=True,
        )
        return self._run(is_first_iteration=True)

    def go_on(self, tokens: Tensor) -> Tensor:
        """The logits after one more token a row, `[rows, 1]`."""
        self._ids = torch.cat([self._ids, tokens.to(self._ids.device)], dim=-1)
        return self._run(next_sequence_length=1)

    def _take(self, model: Any, input_ids: Tensor, **given: Any) -> Tensor:
        """In place of generate's loop: keeps what it would have started from."""
        stays = ("logits_processor", "stopping_criteria", "generation_config", "synced_gpus", "streamer")
        self._model, self._ids = model, input_ids
        self._arguments = {key: value for key, value in given.items() if key not in stays}
        return input_ids

    def _run(self, **how: Any) -> Tensor:
        model = self._model
        outputs = model(**model.prepare_inputs_for_generation(self._ids, **how, **self._arguments))
        self._arguments = model._update_model_kwargs_for_generation(outputs, self._arguments)
        logits: Tensor = outputs.logits[:, -1].to(torch.float32, copy=True)  # a view keeps the prompt's alive
        return logits
