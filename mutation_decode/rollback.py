"""Takes a cache layer back by its last position, so that a block can run on that position once more.

Every class of cache layer keeps what it has seen in its own way, so each has its own way back. A class that
is not listed is refused: a cache that is only nearly right gives an answer that is only nearly wrong.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import Cache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

Undo = Callable[[], None]


def cache_layers(cache: Cache) -> list[Any]:
    """The layers that a decoder's self-attention writes to.

    Raises:
        ValueError: if the cache moves its layers away and back by itself, or is of a class of its own, which
            may hold more than its layers (MiniMax keeps running states beside them).
    """
    cache = self_attention(cache)
    if type(cache).__module__ != Cache.__module__:
        raise ValueError(
            f"{type(cache).__name__} is none of transformers' own caches and may hold more than its layers, "
            f"which Skip could not take back; use Contrast."
        )
    if getattr(cache, "offloading", False):
        raise ValueError(
            "an offloaded cache moves a block's keys away as soon as it has run, and Skip runs blocks twice"
            "; pass another cache, or use Contrast."
        )
    layers: list[Any] = cache.layers
    return layers


def self_attention(cache: Cache) -> Cache:
    """The part of a cache that grows with the answer."""
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache


def cache_indices(block: nn.Module) -> list[int]:
    """The numbers of the cache layers that a block may write to; the modules inside carry them, or itself."""
    numbers = {m: i for m in block.modules() if isinstance(i := getattr(m, "layer_idx", None), int)}
    inside = {i for m, i in numbers.items() if m is not block}
    return sorted(inside or numbers.values())


def reads_only_an_image(block: nn.Module) -> bool:
    """Whether all that a block writes to the cache are keys of an image (mllama's cross-attention blocks)."""
    writers = [type(m).__name__ for m in block.modules() if isinstance(getattr(m, "layer_idx", None), int)]
    return bool(writers) and all("Cross" in name for name in writers)


def remember(layer: Any, positions: int, *, whole: bool) -> Undo:
    """To be called before a block runs on `positions` new positions.

    Args:
        whole: the block writes the keys of an image, and will write them all again.

    Returns:
        What takes the last of them out of the layer again; nothing if the block does not write to it.

    Raises:
        ValueError: if nothing is known of a layer of this class.
    """
    ways = WAYS_BACK[known(layer)]
    steps = [_as_before(layer)] if whole else [way(layer, positions) for way in ways]

    def undo() -> None:
        for step in steps:
            step()

    return undo


def known(layer: Any) -> str:
    """The name of the layer's class. Raises: ValueError if its way back is not known."""
    name = type(layer).__name__
    if name not in WAYS_BACK:
        raise ValueError(
            f"Skip cannot take a step back in a cache layer of class {name}; it can in "
            f"{', '.join(WAYS_BACK)}. Leave cache_implementation and past_key_values out, or use Contrast."
        )
    return name


def reversible(layer: Any, positions: int) -> bool:
    """Whether `remember` can take back the last of these positions: not if a state has run over several."""
    states = getattr(layer, "has_previous_state", None)
    # A layer has room for as many states as any of them needs; where one was there before, all it has were.
    return states is None or (positions == 1 and any(tree_leaves(states)))


def _dynamic(layer: Any, positions: int) -> Undo:
    before, numbered = layer.get_seq_length(), getattr(layer, "indexer_position_ids", None)

    def undo() -> None:
        grown = layer.get_seq_length() - before
        if grown == positions and hasattr(layer, "conv_states"):
            DynamicLayer.crop(layer, -1)  # its own would crop its states too, and cannot
        elif grown == positions:
            layer.crop(-1)
            if hasattr(layer, "indexer_position_ids"):
                layer.indexer_position_ids = numbered  # not by the block, which will not do so again

    return undo


def _as_before(layer: Any) -> Undo:
    before = int(layer.get_seq_length())

    def undo() -> None:
        grown = int(layer.get_seq_length()) - before
        if hasattr(layer, "max_cache_len"):
            layer.cumulative_length.sub_(grown)
        elif grown > 0:
            layer.crop(-grown)

    return undo


def _dynamic_sliding(layer: Any, positions: int) -> Undo:
    # The layer drops what leaves the window, but the way back needs it: keep what it returns. The block then
    # meets as many keys as before, as do later blocks that it shares them with, and masks fit as they are.
    seen: list[tuple[Tensor, Tensor]] = []
    plain = layer.update

    def update(*args: Any, **kwargs: Any) -> Any:
        layer.__dict__.pop("update", None)
        seen.append(plain(*args, **kwargs))
        return seen[-1]

    layer.update = update

    def undo() -> None:
        layer.__dict__.pop("update", None)
        for keys, values in seen:
            kept = getattr(layer, "prefill_cumulative_length", 0)  # some keep the prompt before the window
            if kept and not layer.cumulative_length:
                layer.crop(-1)
            else:
                layer.keys, layer.values = keys[:, :, kept:-1], values[:, :, kept:-1]
                layer.cumulative_length -= 1

    return undo


def _static(layer: Any, positions: int) -> Undo:
    def undo() -> None:
        for name, length in vars(layer).items():  # of the keys, and of those that an indexer looks at
            if name.endswith("cumulative_length") and isinstance(length, Tensor):
                length.sub_(1)  # the next update writes over the position

    return undo


def _static_sliding(layer: Any, positions: int) -> Undo:
    def undo() -> None:
        if layer.cumulative_length_int > layer.max_cache_len:
            # What the window lost is not needed: the next update moves everything to the left again.
            layer.keys.copy_(layer.keys.roll(1, dims=-2))
            layer.values.copy_(layer.values.roll(1, dims=-2))
        else:
            layer.cumulative_length.sub_(1)
        layer.cumulative_length_int -= 1

    return undo


def _linear(layer: Any, positions: int) -> Undo:
    if not reversible(layer, positions):
        return lambda: None  # the caller asks `reversible` before it runs a block again
    # A layer holds one state or, since transformers 5.14, a dict of them.
    states = tree_leaves((layer.conv_states, layer.recurrent_states))
    kept = [(state, state.clone()) for state in states if state is not None]

    def undo() -> None:
        for state, before in kept:
            state.copy_(before)

    return undo


WAYS_BACK: dict[str, tuple[Callable[[Any, int], Undo], ...]] = {
    "DynamicLayer": (_dynamic,),
    "DynamicIndexedLayer": (_dynamic,),
    "MiniMaxM3VLSparseCacheLayer": (_dynamic,),
    "DynamicSlidingWindowLayer": (_dynamic_sliding,),
    "UnlimitedOcrDynamicReferenceSlidingWindowLayer": (_dynamic_sliding,),
    "StaticLayer": (_static,),
    "StaticIndexedLayer": (_static,),
    "MiniMaxM3VLSparseStaticCacheLayer": (_static,),
    "StaticSlidingWindowLayer": (_static_sliding,),
    "LinearAttentionLayer": (_linear,),
    "LinearAttentionAndFullAttentionLayer": (_linear, _dynamic),
    "LinearAttentionAndSlidingWindowAttentionLayer": (_linear, _dynamic_sliding),
    "LinearAttentionAndStaticFullAttentionLayer": (_linear, _static),
    "LinearAttentionAndStaticSlidingWindowAttentionLayer": (_linear, _static_sliding),
    "DummyLayer": (),
}
