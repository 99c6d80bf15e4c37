"""What passes between two blocks: in nearly every model one state a position, in a few more than that.

Where it is more, what stands after a block is laid out as one tensor `[rows, positions, states, d]`, and what
the model's own code makes of it before its final norm is written down here. Such a structure is known by what
its modules are called, and like every other it is believed only when it verifies.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Tail = tuple[Callable[[Tensor], Any], ...]
"""Applied one after the other to states `[rows, positions, ...]`, they give what enters the head."""


class States(Protocol):
    """How what passes between blocks is found in the calls of the blocks."""

    def entered(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], block: int = 0) -> Tensor:
        """What stood before a block, `[rows, positions, ...]`, from what that was called with."""
        ...

    def left(self, block: int, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Tensor:
        """What stood after a block, `[rows, positions, ...]`, from what that was called with and returned."""
        ...

    def given(self, states: Tensor, block: int) -> tuple[Tensor, ...]:
        """The first arguments of a block for what stands before it: `entered` the other way round."""
        ...


@dataclass(frozen=True, slots=True)
class OneState:
    """The first tensor that a block is given, and the first one that it returns."""

    def entered(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], block: int = 0) -> Tensor:
        """See `States`."""
        return first_tensor((*args, *kwargs.values()))

    def left(self, block: int, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Tensor:
        """See `States`."""
        return first_tensor(output)

    def given(self, states: Tensor, block: int) -> tuple[Tensor, ...]:
        """See `States`."""
        return (states,)


ONE_STATE = OneState()


@dataclass(frozen=True, slots=True)
class Streams:
    """Several residual streams in the first dimension (Gemma 3n's AltUp): `[streams, rows, positions, d]`.

    They leave as `[rows, positions, streams, d]`.
    """

    def entered(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], block: int = 0) -> Tensor:
        """See `States`."""
        return first_tensor((*args, *kwargs.values())).movedim(0, 2)

    def left(self, block: int, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Tensor:
        """See `States`."""
        return first_tensor(output).movedim(0, 2)

    def given(self, states: Tensor, block: int) -> tuple[Tensor, ...]:
        """See `States`."""
        return (states.movedim(2, 0),)


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """The mean of the streams, all but the first projected and brought to the first one's magnitude."""

    projections: Sequence[nn.Module]

    def __call__(self, states: Tensor) -> Tensor:
        """`[rows, positions, streams, d]` -> `[rows, positions, d]`."""
        first, *others = states.unbind(2)
        magnitude = first.square().mean(dim=-1, keepdim=True) ** 0.5
        merged = [first]
        for project, other in zip(self.projections, others, strict=True):
            projected = project(other).to(first)
            merged.append(projected * magnitude / projected.square().mean(-1, True).clamp(min=1e-5).sqrt())
        return torch.stack(merged).mean(dim=0)


@dataclass(frozen=True, slots=True)
class Residuals:
    """Beside the state, those that entered some earlier blocks, for the end to look back on (Inkling 2).

    A block that has not run yet adds what it would add if it and all before it changed nothing: the state.

    Attributes:
        boundaries: the blocks whose input is kept.
    """

    boundaries: tuple[int, ...]

    def entered(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], block: int = 0) -> Tensor:
        """See `States`."""
        state, kept, *_ = tensors((args, kwargs))
        missing = len(self.boundaries) + 1 - kept.shape[2]
        return torch.cat([kept.to(state), *[state.unsqueeze(2)] * missing], dim=2)

    def left(self, block: int, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Tensor:
        """See `States`."""
        state, kept, *_ = tensors((args, kwargs))
        added = [state.unsqueeze(2)] if block in self.boundaries else []
        after = first_tensor(output).unsqueeze(2)
        missing = len(self.boundaries) + 1 - kept.shape[2] - len(added)
        return torch.cat([kept.to(after), *added, *[after] * missing], dim=2)

    def given(self, states: Tensor, block: int) -> tuple[Tensor, ...]:
        """See `States`."""
        kept = sum(boundary < block for boundary in self.boundaries)
        return states[:, :, -1], states[:, :, :kept]


@dataclass(frozen=True, slots=True, eq=False)
class LookBack:
    """What the end makes of the state and of those that were kept."""

    attend: nn.Module

    def __call__(self, states: Tensor) -> Tensor:
        """`[rows, positions, kept + 1, d]` -> `[rows, positions, d]`."""
        return first_tensor(self.attend(states[:, :, :-1], states[:, :, -1]))


def more_than_one(owner: nn.Module, blocks: Sequence[nn.Module]) -> tuple[States, Tail] | None:
    """How to read a model whose blocks pass on more than one state a position; None for all others."""
    body: Any = [m for m in owner.modules() if any(_begins_with(c, blocks[0]) for c in m.children())][-1]
    if hasattr(body, "altup_unembed_projections"):
        return Streams(), (Merge(tuple(body.altup_unembed_projections)), body.norm)
    if hasattr(body, "final_input") and all(hasattr(block, "is_block_boundary") for block in blocks):
        boundaries = tuple(number for number, block in enumerate(blocks) if block.is_block_boundary)
        return Residuals(boundaries), (LookBack(body.final_input), body.norm)
    return None


def _begins_with(module: nn.Module, block: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList) and len(module) > 0 and module[0] is block


def first_tensor(value: Any) -> Tensor:
    """The states in what passes a module: the tensor itself, or the first one in a tuple or ModelOutput.

    Raises:
        TypeError: if there is none.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            if isinstance(item, Tensor):
                return item
    raise TypeError(f"expected a tensor or a tuple with one, got {type(value).__name__}.")


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)
