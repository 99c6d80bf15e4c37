"""Forwards of our own: on a few tokens of text, and such that nothing of them is left behind."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .states import tensors
from .uncompiled import uncompiled


def probe_inputs(owner: nn.Module, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Four ordinary tokens of text: no id that the configuration reserves for images, padding or the like.

    Args:
        given: inputs in their place, as generate takes them; a decoder that waits for an encoder gets the
            tokens all the same.
    """
    config = getattr(owner, "config", None)
    encodes = getattr(config, "is_encoder_decoder", False)
    if given is not None and (not encodes or not given.keys().isdisjoint(DECODER_INPUTS)):
        return dict(given)
    reserved = set(_reserved_ids(config.to_dict())) if config is not None else set()
    ids = [token for token in range(_vocabulary(owner)) if token not in reserved][:4]
    device = first_parameter(owner).device
    tokens = torch.tensor([ids], device="cpu" if device.type == "meta" else device)
    rows = 1 if given is None else len(next(tensors(given)))
    decoder = {"decoder_input_ids": tokens.expand(rows, -1)} if encodes else {}
    return {**({"input_ids": tokens} if given is None else given), **decoder}


DECODER_INPUTS = {"decoder_input_ids", "decoder_inputs_embeds"}


def _vocabulary(owner: nn.Module) -> int:
    """How many ids there are."""
    try:
        table = owner.get_input_embeddings()  # type: ignore[operator]
    except NotImplementedError:  # transformers does not know where a few models have theirs
        vocab: int = owner.config.get_text_config(decoder=True).vocab_size  # type: ignore[union-attr, operator]
        return vocab
    # A quantised table has no parameter, and not every table that has one counts its rows.
    return getattr(table, "num_embeddings", None) or first_parameter(table).shape[0]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """A forward of ours leaves no gradient, does not move the random state and is not a compiled one.

    Only a model in training draws random numbers. That of others is not put back: it is the state of all
    threads, and one that samples meanwhile would draw the same numbers twice.
    """
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    gpus = sorted(i for i in devices if i is not None)
    draws = any(module.training for module in model.modules())
    with uncompiled(model), torch.no_grad(), torch.random.fork_rng(devices=gpus, enabled=draws):
        yield


def works(steps: Callable[[], object], model: nn.Module) -> bool:
    """Whether forwards of a model run to their end."""
    try:
        with undisturbed(model):
            steps()
    except Exception:
        return False
    return True


def first_parameter(module: nn.Module) -> Tensor:
    """Any parameter of a module, to learn where it lives and how large it is."""
    return next(module.parameters())


def _reserved_ids(config: Mapping[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _reserved_ids(value)
        elif str(key).endswith(("token_id", "token_index")) and isinstance(value, int):
            yield value
