"""Forwards of our own: on a few tokens of text, and such that nothing of them is left behind."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .uncompiled import uncompiled


def probe_inputs(owner: nn.Module) -> dict[str, Tensor]:
    """Four ordinary tokens of text: no id that the configuration reserves for images, padding or the like."""
    config = getattr(owner, "config", None)
    reserved = set(_reserved_ids(config.to_dict())) if config is not None else set()
    table = owner.get_input_embeddings()  # type: ignore[operator]
    # A quantised table has no parameter, and not every table that has one counts its rows.
    vocab = getattr(table, "num_embeddings", None) or first_parameter(table).shape[0]
    ids = [token for token in range(vocab) if token not in reserved][:4]
    device = first_parameter(owner).device
    tokens = torch.tensor([ids], device="cpu" if device.type == "meta" else device)
    decoder = {"decoder_input_ids": tokens} if getattr(config, "is_encoder_decoder", False) else {}
    return {"input_ids": tokens, **decoder}


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """A forward of ours leaves no gradient, does not move the random state and is not a compiled one."""
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    gpus = sorted(i for i in devices if i is not None)
    with uncompiled(model), torch.no_grad(), torch.random.fork_rng(devices=gpus):
        yield


def of_this_thread(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, deaf to forwards that other threads make of the model meanwhile."""
    mine = threading.get_ident()

    def heard(*args: Any) -> None:
        if threading.get_ident() == mine:
            hook(*args)

    return heard


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
