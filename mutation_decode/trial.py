"""Tries on a few tokens of text whether blocks can be left out of a model, before any real input.

Two ways have to come to the same logits: the upper blocks run a second time, and the same blocks hooked out
while everything runs once. What a model's own loop remembers of its states between blocks shows only there.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .agreement import apart
from .lens import LogitLens, logits_of
from .probe import probe_inputs, undisturbed, works
from .removal import Removal

Decide = Callable[[Tensor | None, int], Tensor]
"""From the ids of this forward `[rows, positions]` (None if it was not given ids), and the lowest block that
can be left out in it, to the blocks to leave out, `[rows, L]` bool."""

Deciding = Callable[[Decide], AbstractContextManager[None]]


class NoCacheError(ValueError):
    """A block ran without a cache that its later tokens would read."""


class NotTheSameError(ValueError):
    """A second run of the same blocks came to another result."""


def nothing(ids: Tensor | None, lowest: int) -> Tensor:
    """Leaves no block out."""
    return torch.zeros(1, 1, dtype=torch.bool)


def try_on_text(lens: LogitLens, deciding: Deciding, first: int) -> None:
    """A prompt and one more token; what a model cannot run on text is tried on its first real input only.

    Args:
        deciding: see `Rerun.deciding`.
        first: the lowest block that will ever be left out.

    Raises:
        ValueError: if the blocks cannot run again, or come to another result.
    """
    owner = lens.anatomy.owner
    inputs = probe_inputs(owner)
    try:
        with lens, deciding(nothing), undisturbed(owner):  # to learn what the blocks are given
            _two_steps(owner, inputs)
        _without_every_other(lens, deciding, first, inputs)
    except NotTheSameError:
        raise
    except Exception as error:
        # Some make no cache by themselves: generate does.
        if not isinstance(error, NoCacheError) and works(lambda: _two_steps(owner, inputs), owner):
            raise ValueError(
                f"{type(owner).__name__}: its blocks cannot be run a second time, so Skip cannot leave "
                f"any out ({type(error).__name__}: {error}). Use Contrast."
            ) from error


def _two_steps(
    owner: nn.Module, inputs: Mapping[str, Any], *around: AbstractContextManager[None]
) -> list[Tensor]:
    """The logits `[rows, vocab]` of a prompt and of one more token, each made inside of a context."""
    at_prompt, at_token = around or (nullcontext(), nullcontext())
    ids = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
    with at_prompt:
        prompt = owner(**inputs, use_cache=True)
    with at_token:
        more = {**inputs, ids: inputs[ids][:, -1:]}
        token = owner(**more, past_key_values=prompt.past_key_values, use_cache=True)
    return [logits_of(out)[:, -1] for out in (prompt, token)]


def _without_every_other(lens: LogitLens, deciding: Deciding, first: int, inputs: Mapping[str, Any]) -> None:
    """Leaves every other block out of the prompt and of the token, as far up as each of them allows."""
    owner, depth = lens.anatomy.owner, lens.anatomy.depth
    sets: list[range] = []

    def every_other(ids: Tensor | None, lowest: int) -> Tensor:
        sets.append(range(max(lowest, first), depth, 2))
        chosen = torch.zeros(1, depth, dtype=torch.bool)
        chosen[:, list(sets[-1])] = True
        return chosen

    with lens, deciding(every_other), undisturbed(owner):
        found = _two_steps(owner, inputs)
    with lens, undisturbed(owner):
        hooked = [Removal(lens, blocks, prompt=False).on() for blocks in sets]
        wanted = _two_steps(owner, inputs, *hooked)
    for kind, one, other in zip(("prompt", "token"), found, wanted, strict=True):
        off, allowed = apart(one, other, lens.dtype)
        if not off <= allowed:
            raise NotTheSameError(
                f"{type(owner).__name__}: blocks that are left out of a {kind} by running those above them "
                f"again give logits {off:.3g} away from those of one run without them (allowed {allowed:.3g})"
                f", as where the model remembers states between its blocks: Skip cannot leave any out that "
                f"it finds. Use Contrast, or Skip(layers=...), which runs nothing twice."
            )
