"""What leaving blocks out means, worked out a second time: one forward from scratch, with hooks.

Nothing of the library takes part but the list of blocks. The forward is the prefill of a generate call whose
prompt is the old prompt and the answer, so that masks and positions are those that generate makes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
)

from mutation_decode import Anatomy


class Prompted(Protocol):
    """A model and its prompts."""

    @property
    def model(self) -> Any:
        """A transformers model."""
        ...

    def batch(self, *rows: int, suffix: Tensor | None = None) -> dict[str, Tensor]:
        """Inputs for these prompts, each followed by its row of ``suffix``."""
        ...


@dataclass(frozen=True, eq=False)
class Reference:
    """The logits that predict each answered token, and what a cache holds after the last of these forwards.

    Attributes:
        logits: `[rows, tokens, vocab]` fp32.
        cache: for each layer of the cache its states under their names, with every position that was read.
        read: `[rows, positions]` bool, False where the cache holds padding.
        held: that cache itself.
    """

    logits: Tensor
    cache: list[dict[str, Tensor]]
    read: Tensor
    held: Any


def reference(
    family: Prompted, parts: Anatomy, rows: Sequence[int], answers: Tensor, skipped: Tensor
) -> Reference:
    """Runs the model once over these prompts and their answers, with blocks left out.

    Args:
        parts: where the blocks are.
        rows: which prompts.
        answers: `[rows, tokens]` what was generated for them.
        skipped: `[rows, tokens, L]` bool, where a block is the identity: its output at the position that
            predicts that token becomes its input there.
    """
    inputs = family.batch(*rows, suffix=answers[:, :-1])
    prompts = next(inputs[name] for name in ("decoder_input_ids", "attention_mask") if name in inputs)
    with leave_out(parts, lambda block: skipped[:, :, block]), _all_logits(parts) as logits:
        out = family.model.generate(
            **inputs,
            **_cache(family.model, prompts.shape[1] - answers.shape[1] + 1),
            max_new_tokens=1,
            do_sample=False,
            return_dict_in_generate=True,
        )
    assert len(logits) == 1, "one forward"
    if "decoder_input_ids" in inputs:
        read = torch.ones_like(inputs["decoder_input_ids"], dtype=torch.bool)
    else:
        # A generate may take off the end of the prompt, as that of BLIP does.
        read = inputs["attention_mask"].bool()[:, : logits[0].shape[1]]
    return Reference(
        logits=logits[0][:, -answers.shape[1] :],
        cache=[_states(layer) for layer in _layers(out.past_key_values)],
        read=read,
        held=out.past_key_values,
    )


def cache_error(cache: Any, want: Reference) -> float:
    """How far a cache is from the reference, at most, in the positions that it keeps; NaN if it holds one.

    What a cache holds of padding is not compared: nothing reads it.
    """
    layers = _layers(cache)
    assert len(layers) == len(want.cache)
    pairs = [
        pair
        for layer, states in zip(layers, want.cache, strict=True)
        for pair in _pairs(layer, states, want.read)
    ]
    return float(torch.stack([(got - other).abs().max() for got, other in pairs if got.numel()]).max())


def _pairs(layer: Any, want: dict[str, Tensor], read: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """What is held and what should be, cut to the same positions."""
    held = _states(layer)
    assert held.keys() == want.keys()
    for name, got in held.items():
        other = want[name]
        if "keys" in name or name == "values":
            kept, length = got.shape[-2], other.shape[-2]
            assert min(length, _least(layer, length)) <= kept <= length, f"the cache has {kept} of {length}"
            other = other[..., -kept:, :]
            if length == read.shape[1]:  # not so where a layer keeps what it saw of a picture
                there = read[:, None, -kept:, None]
                got, other = got.where(there, 0.0), other.where(there, 0.0)
        assert got.shape == other.shape
        yield got, other


@contextmanager
def leave_out(parts: Anatomy, where: Callable[[int], Tensor]) -> Iterator[None]:
    """Makes blocks the identity at the last positions of a forward: those where `where(block)` is True.

    A block that is left out runs all the same, so its keys and values are those of its input.
    """

    def hook(number: int) -> Any:
        def replace(_block: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
            before = args[0] if args else kwargs["hidden_states"]
            after = output if isinstance(output, Tensor) else output[0]
            chosen = where(number)
            in_front = before.shape[0] != len(chosen)  # several residual streams, before the rows
            if in_front:
                before, after = before.movedim(0, 2), after.movedim(0, 2)
            out = chosen.reshape(*chosen.shape, *[1] * (before.dim() - 2))
            last = slice(after.shape[1] - out.shape[1], None)
            states = after.clone()
            states[:, last] = torch.where(out, before[:, last], after[:, last])
            if in_front:
                states = states.movedim(2, 0)
            return states if isinstance(output, Tensor) else (states, *output[1:])

        return replace

    handles = [
        block.register_forward_hook(hook(number), with_kwargs=True)
        for number, block in enumerate(parts.blocks)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _all_logits(parts: Anatomy) -> Iterator[list[Tensor]]:
    """The logits of every position of each forward, where generate would ask for the last one only."""
    logits: list[Tensor] = []

    def ask(_owner: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {name: value for name, value in kwargs.items() if name != "logits_to_keep"}

    def keep(_owner: Any, _args: Any, output: Any) -> None:
        logits.append(output.logits.float())

    handles = [
        parts.owner.register_forward_pre_hook(ask, with_kwargs=True),
        parts.owner.register_forward_hook(keep),
    ]
    try:
        yield logits
    finally:
        for handle in handles:
            handle.remove()


def _least(layer: Any, length: int) -> int:
    """How many positions a layer of a cache has to keep, of so many."""
    if not getattr(layer, "is_sliding", False):
        return length
    return layer.max_cache_len if hasattr(layer, "max_cache_len") else layer.sliding_window - 1


def _cache(model: Any, prompt: int) -> dict[str, Any]:
    """A cache that forgets nothing, where the model's own would keep a window only.

    Some keep the prompt, of so many positions, and a window of what comes after it: they are told its end.
    """
    kinds = getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ()
    if not any("sliding" in kind for kind in kinds):
        return {}
    if model.config.is_encoder_decoder:
        return {"past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}
    cache = DynamicCache(config=model.config)
    for number, layer in enumerate(cache.layers):
        if isinstance(layer, DynamicSlidingWindowLayer) and hasattr(layer, "conv_states"):
            cache.layers[number] = LinearAttentionAndFullAttentionLayer(layer.number_of_states)
        elif hasattr(layer, "set_prefill_length"):
            layer.set_prefill_length(prompt)
        elif isinstance(layer, DynamicSlidingWindowLayer):
            cache.layers[number] = DynamicLayer()
    return {"past_key_values": cache}


def _layers(cache: Any) -> list[Any]:
    if isinstance(cache, EncoderDecoderCache):
        return [*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers]
    return list(getattr(cache, "layers", ()))  # some models keep their states elsewhere


def _states(layer: Any) -> dict[str, Tensor]:
    """What a layer of a cache holds, of any class; of a static one what was written."""
    states = {}
    if getattr(layer, "keys", None) is not None:
        filled = min(int(layer.get_seq_length()), layer.keys.shape[-2])
        states = {"keys": layer.keys[..., :filled, :], "values": layer.values[..., :filled, :]}
    for name in ("indexer_keys", "idx_keys", "prefill_keys", "prefill_values"):
        keys = getattr(layer, name, None)
        if keys is not None:
            states[name] = keys if keys.dim() == 4 else keys[:, None]
    for kind in ("conv_states", "recurrent_states"):
        for number, state in enumerate(tree_leaves(getattr(layer, kind, {}))):
            if state is not None:
                states[f"{kind} {number}"] = state
    return states
