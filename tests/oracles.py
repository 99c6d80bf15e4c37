"""What a family's model says under a processor, and what it ought to say, worked out without the library."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from families import Family
from torch import Tensor, nn

from mutation_decode import Detector, MutationLogitsProcessor

FULL = {"return_dict_in_generate": True, "output_logits": True}
ALWAYS = Detector(threshold=0.0)


def bare(family: Family, dtype: torch.dtype = torch.float32) -> Family:
    """The same family with a model that may be changed, and with pictures in its dtype."""

    def images(rows: Any, ids: Tensor) -> dict[str, Tensor]:
        found = family.images(rows, ids).items()
        return {name: x.to(dtype) if x.is_floating_point() else x for name, x in found}

    return replace(family, model=copy.deepcopy(family.model).to(dtype), images=images)


def treated(
    family: Family, strategy: Any, detector: Detector | None = None, *, exact: bool = False, **use: Any
) -> Any:
    """Answers to the family's prompts, with a processor of their own."""
    detector = detector or family.detector
    with MutationLogitsProcessor(family.model, strategy, detector=detector, exact=exact) as processor:
        return family.generate(0, 1, 2, logits_processor=[processor], **use)


@contextmanager
def hooked_out(
    blocks: Sequence[nn.Module], *, everywhere: bool = False, prompt: bool = True
) -> Iterator[None]:
    """Makes blocks the identity at the last position of every forward (not of the prompt), or everywhere."""

    def identity(_block: Any, args: Any, output: Any) -> Tensor:
        if not prompt and output.shape[1] > 1:
            return output
        return args[0] if everywhere else torch.cat([output[:, :-1], args[0][:, -1:]], dim=1)

    with ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_hook(identity).remove)
        yield


def by_hand(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """`[rows, L, vocab]` fp32: what the model's own norm and head make of each of its hidden states."""
    base = model.get_decoder() if hasattr(model, "get_decoder") else model.transformer
    norm = next(m for name, m in base.named_children() if name in ("norm", "ln_f", "final_layernorm"))
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states[:-1]
        layers = [model.get_output_embeddings()(norm(state[:, -1:])).float() for state in states]
    logits = torch.cat(layers, dim=1)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def same(one: Any, other: Any) -> bool:
    """Two outputs of generate, to the bit."""
    return torch.equal(one.sequences, other.sequences) and all(
        torch.equal(a, b) for a, b in zip(one.logits, other.logits, strict=True)
    )
