"""Watches answers being made, through the public extension point: what every readout says of every token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LogitsProcessor

from .anatomy import Anatomy
from .detection import Mutations
from .processor import MutationLogitsProcessor
from .readout import Readout


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """One answer of T tokens of a model of L blocks; each entry is of the position that predicted the token.

    Attributes:
        tokens: `[T]` ids, that of the end of the text included where the model said it.
        js: `[T, L]` nats, the change that each block made.
        leaders: `[T, L+1]` ids, the first choice of every readout.
        log_probs: `[T, L+1]` nats, what every readout gives the token that was emitted.
        entropy: `[T]` nats, of the model's own distribution.
        max_prob: `[T]` the probability of the model's own first choice.
    """

    tokens: np.ndarray
    js: np.ndarray
    leaders: np.ndarray
    log_probs: np.ndarray
    entropy: np.ndarray
    max_prob: np.ndarray

    @property
    def depth(self) -> int:
        """L, the number of blocks."""
        return int(self.js.shape[1])


def observe(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    max_new_tokens: int = 64,
    captions: Sequence[Sequence[int]] | None = None,
    anatomy: Anatomy | None = None,
) -> list[Observation]:
    """Greedy answers to a batch, watched at every readout; no score is changed, and no vocabulary is kept.

    Args:
        model: a transformers model.
        inputs: what its generate takes, left-padded.
        captions: token ids of an answer for each row, which are forced in place of the model's own choices:
            what is measured is what the model thinks of them. `max_new_tokens` then means nothing.
        anatomy: the model's parts, if they cannot be found.

    Raises:
        ValueError: if there is not one caption a row, one is empty, or one goes on after its end.
    """
    ends = _end_tokens(model)
    if captions is not None:
        _refuse_if_unfit(captions, ends)
    watching = _Watching()
    noting = _Noting(watching, captions, next(iter(ends), 0))
    longest = max_new_tokens if captions is None else max(map(len, captions))
    with MutationLogitsProcessor(model, watching, detector=None, trace=True, anatomy=anatomy) as processor:
        model.generate(  # type: ignore[operator]
            **inputs,
            max_new_tokens=longest,
            do_sample=False,
            num_beams=1,
            logits_processor=[processor, noting],
        )
    trace = processor.trace
    assert trace is not None
    columns = {name: torch.stack(steps, dim=1).cpu().numpy() for name, steps in noting.columns.items()}
    lengths = trace.generated.sum(dim=1).tolist() if captions is None else [len(ids) for ids in captions]
    return [
        Observation(
            tokens=trace.tokens[row, :length].numpy(),
            js=trace.js[row, :length].numpy(),
            **{name: column[row, :length] for name, column in columns.items()},
        )
        for row, length in enumerate(lengths)
    ]


class _Watching:
    """A strategy that reads all layers and leaves every score as it is."""

    always = True

    def __init__(self) -> None:
        self.readout: Readout | None = None

    def readouts(self, depth: int) -> range:
        return range(depth)

    def __call__(self, readout: Readout, mutations: Mutations, scores: Tensor) -> Tensor:
        self.readout = readout
        return scores


class _Noting(LogitsProcessor):
    """The last processor of a call: it knows the token to come, or sets it, and notes what readouts say."""

    def __init__(self, watching: _Watching, forced: Sequence[Sequence[int]] | None, end: int) -> None:
        self.columns: dict[str, list[Tensor]] = {
            "leaders": [],
            "log_probs": [],
            "entropy": [],
            "max_prob": [],
        }
        self._watching, self._forced, self._end = watching, forced, end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._forced is not None:
            scores = self._force(self._forced, scores)
        emitted = scores.argmax(dim=-1, keepdim=True)
        readout, self._watching.readout = self._watching.readout, None
        assert readout is not None
        leaders, log_probs = [], []
        for index in readout.indices:
            told = readout.log_probs(index)
            leaders.append(told.argmax(dim=-1))
            log_probs.append(told.gather(1, emitted)[:, 0])
        self.columns["leaders"].append(torch.stack(leaders, dim=-1))
        self.columns["log_probs"].append(torch.stack(log_probs, dim=-1))
        self.columns["entropy"].append(torch.special.entr(told.exp()).sum(dim=-1))
        self.columns["max_prob"].append(told.amax(dim=-1).exp())
        return scores

    def _force(self, forced: Sequence[Sequence[int]], scores: Tensor) -> Tensor:
        if len(forced) != len(scores):
            raise ValueError(f"expected a caption for each row: {len(scores)} rows, {len(forced)} captions.")
        step = len(self.columns["leaders"])
        ids = [ids[step] if step < len(ids) else self._end for ids in forced]
        only = torch.full_like(scores, -torch.inf)
        return only.scatter(1, torch.tensor(ids, device=scores.device)[:, None], 0.0)


def _refuse_if_unfit(captions: Sequence[Sequence[int]], ends: Sequence[int]) -> None:
    for ids in captions:
        if not len(ids):
            raise ValueError("an empty caption cannot be measured; leave it out.")
        early = [token for token in ids[:-1] if token in ends]
        if early:
            raise ValueError(
                f"a caption holds the token {early[0]}, which ends an answer, before its end; nothing after "
                f"that could be measured. Take it out."
            )


def _end_tokens(model: nn.Module) -> list[int]:
    """The tokens that end a row; the first one fills rows that are at their end."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return [] if ends is None else [int(end) for end in (ends if isinstance(ends, list | tuple) else [ends])]
