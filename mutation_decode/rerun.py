"""The exact skip: the upper blocks run a second time at the last position, some of them left out.

A block that is left out is the identity for its rows: what enters it goes on to the next one. Its own entry
in the cache depends on its input alone and stays; the blocks above it forget the position (rollback.py) and
run again on what now reaches them, so that logits and cache are those of a model without the block there.
"""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .agreement import apart
from .anatomy import Anatomy
from .hooks import Heard
from .last_position import BlockCall, is_causal
from .lens import LogitLens, logits_of, with_logits
from .replay import Replay, around_the_blocks
from .rollback import cache_indices, reads_only_an_image
from .side_by_side import mixes_positions
from .states import ONE_STATE, States, tensors
from .trial import Decide, NoCacheError, NotTheSameError, nothing, try_on_text


class Rerun:
    """Leaves blocks out of forwards of a model, row by row, at the position that predicts the next token.

    Args:
        lens: says which forwards to look at, and has read their layers when it is time to decide.
        first: the lowest block that will ever be left out; those below it are not looked at.

    Raises:
        ValueError: if running the blocks again, with none left out, gives other logits than the model's.
            This is tried here, and again before blocks are first left out of a prompt and of a later token.
    """

    def __init__(self, lens: LogitLens, *, first: int = 0) -> None:
        self._lens = lens
        self._first = first
        self._parts: Anatomy = lens.anatomy
        self._bodies = around_the_blocks(self._parts)
        plain = self._parts.states is ONE_STATE  # other structures are known, with all that is in them
        self._between = _beside_the_blocks(self._parts, self._bodies) if plain else []
        self._mixes = mixes_positions(self._parts)
        self._decide: Decide | None = None
        self._forward: _Forward | None = None
        self._dims: dict[nn.Module, dict[str, tuple[int, ...]]] = {}  # those of blocks' arguments, once known
        self._tried: dict[tuple[str, ...], int] = {}  # for each kind of forward, the lowest block compared
        try_on_text(lens, self.deciding, first)
        self._tried.clear()

    @contextmanager
    def deciding(self, decide: Decide) -> Iterator[None]:
        """Asks `decide` after every forward made inside, once the lens, entered before, has read it."""
        self._decide, parts = decide, self._parts
        with ExitStack() as hooks:

            def put(handle: Any) -> None:
                hooks.callback(handle.remove)

            def here(hook: Any) -> Any:
                return Heard(hook, lambda: self._lens.listening)

            put(parts.owner.register_forward_pre_hook(here(self._begin), with_kwargs=True))
            for body in self._bodies:
                put(body.register_forward_hook(here(self._keep_body)))
            upper = [(number, block) for number, block in enumerate(parts.blocks) if number >= self._first]
            for number, module in (*upper, *((None, m) for m in self._between)):
                keep = here(self._keep_arguments(number, module))
                put(module.register_forward_pre_hook(keep, with_kwargs=True))
                put(module.register_forward_hook(here(self._keep_output), with_kwargs=True))
            put(parts.owner.register_forward_hook(here(self._end)))
            try:
                yield
            finally:
                for step in () if self._forward is None else self._forward.steps:
                    step.call.forget()
                self._forward = self._decide = None

    # The hooks, in the order in which a forward meets them.

    def _begin(self, _owner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._forward = _Forward(Replay(args, kwargs))

    def _keep_arguments(self, number: int | None, module: nn.Module) -> Any:
        # Of the class: what stands in for it on the instance, as offloading does, may not name its arguments.
        signature = inspect.signature(type(module).forward.__get__(module))
        indices, whole, causal = cache_indices(module), reads_only_an_image(module), is_causal(module)

        def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._forward is not None:
                dims = self._dims.setdefault(module, {})
                entered = self._states(number).entered(args, kwargs, number or 0)
                call = BlockCall(
                    entered, signature, args, kwargs, indices, whole=whole, causal=causal, dims=dims
                )
                if self._decide is nothing:
                    dims.update(call.position_dims())
                if call.cacheless and indices and number is not None:
                    raise NoCacheError(
                        f"block {number} ran without a KV cache that transformers knows, and Skip has to "
                        f"correct what later tokens will see; do not set use_cache=False, or use Contrast."
                    )
                self._forward.steps.append(_Step(number, module, call))

        return keep

    def _keep_output(self, _module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if self._forward is not None:
            step = self._forward.steps[-1]
            step.left = self._left(step, args, kwargs, output)[:, -1:].clone()
            step.beside = _beside_the_states(output)
            self._forward.replay.last = output

    def _states(self, number: int | None) -> States:
        return ONE_STATE if number is None else self._parts.states

    def _left(self, step: "_Step", args: Any, kwargs: dict[str, Any], output: Any) -> Tensor:
        return self._states(step.number).left(step.number or 0, args, kwargs, output)

    def _keep_body(self, body: nn.Module, _args: Any, output: Any) -> None:
        if self._forward is not None:
            self._forward.replay.body = (body, output)  # the outermost one returns last

    def _end(self, owner: nn.Module, _args: Any, output: Any) -> Any:
        forward, self._forward = self._forward, None
        if forward is None or not forward.steps:
            return None
        own = logits_of(output)
        # Where positions have a part in each other's results, the last of a prompt cannot run again alone.
        lowest = self._parts.depth if self._mixes and forward.kind == "prompt" else forward.lowest
        assert self._decide is not None, "steps are kept while there is somebody to decide"
        skip = self._decide(forward.replay.ids, lowest)
        chosen = skip.any(dim=0).nonzero().flatten().tolist()  # the one wait for the device
        left_out = [number for number in chosen if number in forward.numbers]
        if not left_out:
            return None
        if left_out[0] < self._tried.get(forward.alike, self._parts.depth):
            self._compare(forward, left_out[0], own)
        moved = self._run_again(forward, left_out[0], skip)
        return with_logits(output, own, torch.cat([own[:, :-1], moved.to(own.device)], dim=1))

    def _compare(self, forward: "_Forward", first: int, own: Tensor) -> None:
        """Runs the blocks above `first` again, all of them: the logits have to be the model's own."""
        nothing = torch.zeros(own.shape[0], self._parts.depth, dtype=torch.bool, device=own.device)
        lengths = [step.call.lengths() for step in forward.steps]
        own = own[:, -1:]
        try:
            again = self._run_again(forward, first, nothing)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            raise self._not_the_same(forward, f"fail ({type(error).__name__}: {error})") from error
        if lengths != [step.call.lengths() for step in forward.steps]:
            raise self._not_the_same(forward, "leave a cache of another length")
        off, allowed = apart(again, own, self._lens.dtype)
        if not off <= allowed:
            what = f"give logits {off:.3g} away from its own (allowed {allowed:.3g})"
            raise self._not_the_same(forward, what)
        self._tried[forward.alike] = first

    def _not_the_same(self, forward: "_Forward", what: str) -> "NotTheSameError":
        return NotTheSameError(
            f"{type(self._parts.owner).__name__}: its blocks, run a second time at the last position of a "
            f"{forward.kind}, {what}, as where they keep states outside of the cache, so Skip cannot leave "
            f"any out that it finds. Use Contrast, or Skip(layers=...), which runs nothing twice."
        )

    def _run_again(self, forward: "_Forward", first: int, skip: Tensor) -> Tensor:
        """The logits `[rows, 1, vocab]` with blocks left out; none below `first`, whose output is known."""
        start = forward.numbers[first]
        step = forward.steps[start]
        assert step.left is not None
        state = _where(skip[:, first], step.call.entered, step.left)
        if start + 1 < len(forward.steps):
            forward.steps[start + 1].call.share_again()
        handed_on: dict[int, Tensor] = {}  # in place of what blocks gave to later ones beside their states
        for step in forward.steps[start + 1 :]:
            given = self._states(step.number).given(state, step.number or 0)
            args, kwargs = step.call.again(*given, handed_on=handed_on)
            output = step.module.forward(*args, **kwargs)
            handed_on |= zip(map(id, step.beside), _beside_the_states(output), strict=True)
            left = self._left(step, args, kwargs, output)
            state = left if step.number is None else _where(skip[:, step.number], state, left)
        return forward.replay.logits(self._parts, state)


@dataclass(slots=True)
class _Step:
    """A block that ran (or, without a number, what changes the states between two of them)."""

    number: int | None
    module: nn.Module
    call: BlockCall
    left: Tensor | None = None
    beside: list[Tensor] = field(default_factory=list)


@dataclass(slots=True)
class _Forward:
    """One forward of the owner, as far as it has come: blocks that need an image may not have run."""

    replay: Replay
    steps: list[_Step] = field(default_factory=list)

    @property
    def numbers(self) -> dict[int, int]:
        """Which step each block was."""
        return {step.number: at for at, step in enumerate(self.steps) if step.number is not None}

    @property
    def lowest(self) -> int:
        """The lowest block that can be left out: all above it can run again at the last position alone.

        Where earlier positions look at the last one, all of them change with it, from the next block on; in
        the last block that is no matter.
        """
        last = self.steps[-1]
        stuck = [
            s.number for s in self.steps if not s.call.reversible or (s.call.looks_ahead and s is not last)
        ]
        return max((number for number in stuck if number is not None), default=0)

    @property
    def kind(self) -> str:
        return "prompt" if self.steps[0].call.positions > 1 else "token"

    @property
    def alike(self) -> tuple[str, ...]:
        """What forwards have in common that one of them is tried for: their kind, and that of their cache."""
        return (self.kind, *sorted({name for step in self.steps for name in step.call.caches}))


def _beside_the_blocks(parts: Anatomy, around: list[nn.Module]) -> list[nn.Module]:
    """Modules in other lists of the same module, such as cross-attention that runs between blocks."""
    lists = [m for m in [parts.owner, *around][-1].children() if isinstance(m, nn.ModuleList)]
    return [m for other in lists if not any(m is parts.blocks[0] for m in other) for m in other]


def _beside_the_states(output: Any) -> list[Tensor]:
    """What a block hands on beside its states."""
    return list(tensors(output))[1:]


def _where(skip: Tensor, one: Tensor, other: Tensor) -> Tensor:
    skip = skip.to(other.device).reshape(-1, *[1] * (other.dim() - 1))
    return torch.where(skip, one.to(other.device), other)
