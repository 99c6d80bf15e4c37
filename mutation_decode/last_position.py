"""A call of a block, and the same call for the last of its positions alone."""

import inspect
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from .rollback import cache_layers, remember, reversible

FOR_QUERIES = ("mask", "bias", "alibi")
"""Parts of the names of arguments that have a row for each query (or one for all), an entry for each key."""


class BlockCall:
    """What a block is called with, kept before it runs, and the way back of what it writes to the cache.

    Args:
        entered: `[rows, positions, ...]` what stands before it, laid out as `states.States` says.
        signature: of the block's forward.
        indices: the numbers of the cache layers that the block may write to.
        whole: whether it writes keys of an image there, and no positions of the text.
        causal: whether positions attend to earlier ones only where no mask says anything.
        dims: what `position_dims` told of an earlier call of the block.

    Attributes:
        positions: how many positions it runs on.
        entered: `[rows, 1, ...]` the state that enters it at the last one.
        cacheless: whether it is called without a cache.
        reversible: whether what it writes to the cache at the last position can be taken back.

    Raises:
        ValueError: if nothing is known of a cache layer of that class.
    """

    def __init__(
        self,
        entered: Tensor,
        signature: inspect.Signature,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        indices: Sequence[int],
        *,
        whole: bool,
        causal: bool,
        dims: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.positions = entered.shape[1]
        self.entered = entered[:, -1:].clone()
        cache = next((value for value in (*args, *kwargs.values()) if isinstance(value, Cache)), None)
        self._cache, self.cacheless = cache, cache is None
        given = (*args, *kwargs.values())
        self._shared = [(value, dict(value)) for value in given if isinstance(value, MutableMapping)]
        self._layers = [] if cache is None else _layers(cache, indices)
        self.reversible = all(reversible(layer, self.positions) for layer in self._layers)
        self._whole = whole
        self._causal = causal
        self._dims = dims
        self._undo = [remember(layer, self.positions, whole=whole) for layer in self._layers]
        self._signature = signature
        # The states of the other positions need not be kept.
        self._args = (self.entered, *args[1:])
        self._kwargs = kwargs if args else dict(list(kwargs.items())[1:])

    @property
    def looks_ahead(self) -> bool:
        """Whether earlier positions of this call look at the last one; ask before the cache is taken back."""
        if self.positions == 1 or self._whole:
            return False
        mask = self._signature.bind(*self._args, **self._kwargs).arguments.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[-2] != self.positions:
            return not self._causal
        # A block that reads another one's keys has no cache layer that could tell.
        lengths = self.lengths() or ([] if self._cache is None else [int(self._cache.get_seq_length())])
        filled = lengths[0] if lengths else self.positions
        column = mask[:, :, :, min(filled, mask.shape[-1]) - 1]
        if mask.dtype == torch.bool:
            seen = column == column[..., -1:]  # the last one sees itself, whichever bool says so
        else:
            seen = column > torch.finfo(mask.dtype).min / 2
        return bool(seen[..., :-1].any())

    def again(
        self, *states: Tensor, handed_on: Mapping[int, Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Takes the last position out of the cache, and returns the arguments to run the block there.

        Args:
            states: its first arguments.
            handed_on: what takes the place of other arguments, under their ids: blocks before it, which have
                run again, made these anew.
        """
        for undo in self._undo:
            undo()
        bound = self._signature.bind(*self._args, **self._kwargs)
        for name, value in bound.arguments.items():
            bound.arguments[name] = self._now(name, value, handed_on)
        if self.positions > 1:
            self._mask_room(bound)
        bound.arguments.update(zip(bound.arguments, states, strict=False))
        return bound.args, bound.kwargs

    def position_dims(self) -> dict[str, tuple[int, ...]]:
        """Which dimensions of the arguments are the positions of the call, and not those before them too.

        Only a call for one position tells, where others came before it: there they have one entry.
        """
        if self.positions > 1 or max(self.lengths(), default=0) <= 1:
            return {}
        found: dict[str, tuple[int, ...]] = {}
        bound = self._signature.bind(*self._args, **self._kwargs)
        for argument, value in list(bound.arguments.items())[1:]:
            for name, tensor in _named(argument, value):
                dims = found.get(name, _position_dims(name, tensor))
                found[name] = tuple(dim for dim in dims if dim < tensor.dim() and tensor.shape[dim] == 1)
        return found

    def share_again(self) -> None:
        """Makes what blocks share in one mapping, such as keys, what it was before this call."""
        for mapping, before in self._shared:
            mapping.clear()
            mapping.update(before)

    def forget(self) -> None:
        """Leaves the cache as a block leaves it that will not run again."""
        for layer in self._layers:
            layer.__dict__.pop("update", None)

    @property
    def caches(self) -> set[str]:
        """The classes of the cache and of the layers of it that the block writes to."""
        return {type(held).__name__ for held in (self._cache, *self._layers)}

    def lengths(self) -> list[int]:
        """How many positions the cache layers of the block have seen; those of running states cannot tell."""
        return [int(layer.get_seq_length()) for layer in self._layers if hasattr(layer, "get_seq_length")]

    def _now(self, name: str, value: Any, handed_on: Mapping[int, Tensor]) -> Any:
        if isinstance(value, Tensor):
            return handed_on[id(value)] if id(value) in handed_on else self._last_of_tensor(name, value)
        if type(value) in (tuple, list):
            return type(value)(self._now(name, item, handed_on) for item in value)
        if type(value) is dict:
            return {key: self._now(str(key), item, handed_on) for key, item in value.items()}
        return value

    def _last_of_tensor(self, name: str, value: Tensor) -> Tensor:
        """The part of an argument that belongs to the last position; which dimension is told by its name."""
        if self.positions == 1 or value.dim() == 0:
            return value
        if value.dim() > 2 and any(word in name for word in FOR_QUERIES):
            return value if value.shape[-2] != self.positions else value[..., -1:, -self._window :]
        # Masks of two dimensions are of all keys as a rule, other arguments of the positions of the call.
        usual = () if "mask" in name else _position_dims(name, value)
        dims = self._dims.get(name, usual)
        dim = next((d for d in dims if value.shape[d] == self.positions), None)
        return value if dim is None else value.narrow(dim, self.positions - 1, 1)

    @property
    def _window(self) -> int:
        """How many keys a query at the last position will meet at most; 0 for all that it met before."""
        sliding = [layer for layer in self._layers if getattr(layer, "is_sliding", False)]
        static = [int(layer.max_cache_len) for layer in sliding if hasattr(layer, "max_cache_len")]
        recording = [int(layer.sliding_window) for layer in sliding if getattr(layer, "record_past", False)]
        return min(static + recording, default=0)

    def _mask_room(self, bound: inspect.BoundArguments) -> None:
        """A static cache has room that no key fills yet, which a lone token would attend to."""
        static = [layer for layer in self._layers if hasattr(layer, "max_cache_len")]
        masked = bound.arguments.get("attention_mask") is not None
        if static and not masked and "attention_mask" in self._signature.parameters:
            room = torch.arange(static[0].max_cache_len, device=self.entered.device)
            bound.arguments["attention_mask"] = (room <= static[0].get_seq_length())[None, None, None]


def is_causal(block: nn.Module) -> bool:
    """Whether a block without a mask looks back only; where modules say nothing of it, it does."""
    said = [m.is_causal for m in block.modules() if isinstance(getattr(m, "is_causal", None), bool)]
    return any(said) or not said


def _position_dims(name: str, value: Tensor) -> tuple[int, ...]:
    """The dimensions of an argument that may be its positions, the likeliest first; its name tells."""
    if name.endswith("states"):
        return ()  # of an image or an encoder
    return (-1,) if "position_ids" in name or value.dim() < 3 else (-2, 1, -1)


def _named(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """All tensors of an argument, those in mappings under the names that they have there."""
    if isinstance(value, Tensor) and value.dim():
        yield name, value
    elif type(value) in (tuple, list):
        for item in value:
            yield from _named(name, item)
    elif type(value) is dict:
        for key, item in value.items():
            yield from _named(str(key), item)


def _layers(cache: Cache, indices: Sequence[int]) -> list[Any]:
    layers = cache_layers(cache)
    missing = max(indices, default=-1) + 1 - len(layers)
    if missing > 0 and cache.layer_class_to_replicate is not None:
        # The cache would make them when the block first writes; that is too late to know what was before.
        layers.extend(cache.layer_class_to_replicate() for _ in range(missing))
    return [layers[index] for index in indices if index < len(layers)]
