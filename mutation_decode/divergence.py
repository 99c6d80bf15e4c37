"""Divergences between next-token distributions, straight from logits; Jensen-Shannon unless told otherwise.

All are computed in fp32 whatever the dtype of the logits, and no constant added to a row's logits matters.
Thresholds written for one of them do not fit another.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20
"""fp32 logits of one pass of `adjacent`: 152k words x 29 readouts x 16 rows would be 280 MB at once."""

Divergence = Literal["js", "kl", "reverse_kl", "tv", "hellinger"]
"""How far the distribution q after a block lies from p before it:

- ``js``: Jensen-Shannon, nats, in [0, ln 2]; symmetric;
- ``kl``: KL(q || p), nats, from 0 on: what the block adds, counted where it ends up; infinite where it gives
  probability to a word that had none;
- ``reverse_kl``: KL(p || q), nats, from 0 on; infinite where it takes all probability from a word;
- ``tv``: total variation, half the sum of |p - q|, a probability in [0, 1]; symmetric;
- ``hellinger``: the Hellinger distance sqrt(1 - sum sqrt(p q)), in [0, 1]; symmetric.
"""

_NEVER = -1e30
"""Stands for the logarithm of 0, so that differences stay defined."""


def js_divergence(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the distributions that two sets of logits stand for.

    With d = log p - log q it is ln 2 - 1/2 sum(p softplus(-d) + q softplus(d)), which is
    ln 2 - 1/2 sum((p + q) log(1 + exp(-|d|)) + min(p, q) |d|): no logarithm of a probability is taken, so
    peaked pairs give no NaN, and near-identical ones lose no digits.

    Args:
        p_logits: `[..., vocab]`, any constant per row added; -inf stands for probability 0.
        q_logits: `[..., vocab]`, broadcastable against `p_logits`.

    Returns:
        `[...]`, fp32, nats, in [0, ln 2]; absolute error below 1e-6.

    Raises:
        ValueError: if the vocabularies differ.

    Source: Lin 1991; eq. 3-4 of "Towards Understanding How Knowledge Evolves in Large Vision-Language
        Models".
    """
    return between(p_logits, q_logits, "js")


def between(p_logits: Tensor, q_logits: Tensor, divergence: Divergence) -> Tensor:
    """A divergence of q from p, of the distributions that two sets of logits stand for.

    Args:
        p_logits: `[..., vocab]`, before; -inf stands for probability 0.
        q_logits: `[..., vocab]`, after; broadcastable against `p_logits`.

    Returns:
        `[...]`, fp32, in the unit and range of the divergence.

    Raises:
        ValueError: if the vocabularies differ.
    """
    if p_logits.shape[-1] != q_logits.shape[-1]:
        raise ValueError(
            f"{divergence}_divergence compares distributions over one vocabulary, got logits of shape "
            f"{tuple(p_logits.shape)} and {tuple(q_logits.shape)}; pass two tensors with the same last size."
        )
    p, q = _log_softmax(p_logits), _log_softmax(q_logits)
    return MEASURES[divergence].formula(p, q, p.exp(), q.exp())


def adjacent_js(logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence between every readout and the next: the change each block makes.

    Args:
        logits: `[rows, readouts, vocab]`, readouts in the order of depth, at least two of them.

    Returns:
        `[rows, readouts - 1]`, fp32, nats; entry i compares readouts i and i + 1.

    Raises:
        ValueError: if `logits` is not of that shape.
    """
    return adjacent(logits, "js")


def adjacent(logits: Tensor, divergence: Divergence) -> Tensor:
    """A divergence of every readout from the one before it; see `adjacent_js` and `between`."""
    if logits.dim() != 3 or logits.shape[1] < 2:
        raise ValueError(
            f"adjacent_{divergence} expects logits [rows, readouts, vocab] with two readouts or more, "
            f"got shape {tuple(logits.shape)}."
        )
    formula = MEASURES[divergence].formula
    rows, readouts, vocab = logits.shape
    step = max(1, CHUNK_BYTES // (4 * readouts * vocab))
    out = torch.empty(rows, readouts - 1, dtype=torch.float32, device=logits.device)
    for start in range(0, rows, step):
        log_probs = _log_softmax(logits[start : start + step])
        probs = log_probs.exp()
        out[start : start + step] = formula(log_probs[:, :-1], log_probs[:, 1:], probs[:, :-1], probs[:, 1:])
    return out


def _log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32).clamp_min(_NEVER)


# Each from the logarithms of p and q, and p and q themselves.


def _js(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> Tensor:
    distance = (log_p - log_q).abs()
    shared = (p + q) * torch.log1p((-distance).exp()) + torch.minimum(p, q) * distance
    return (math.log(2) - 0.5 * shared.sum(dim=-1)).clamp(0.0, math.log(2))


def _kl(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> Tensor:
    # The sums of p and q are both 1; with them no term is negative, and small divergences lose fewer digits.
    terms = q * (log_q - log_p) - q + p
    return terms.masked_fill((log_p <= _NEVER) & (q > 0), math.inf).sum(dim=-1).clamp_min(0.0)


def _reverse_kl(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> Tensor:
    return _kl(log_q, log_p, q, p)


def _tv(_log_p: Tensor, _log_q: Tensor, p: Tensor, q: Tensor) -> Tensor:
    return (0.5 * (p - q).abs().sum(dim=-1)).clamp_max(1.0)


def _hellinger(_log_p: Tensor, _log_q: Tensor, p: Tensor, q: Tensor) -> Tensor:
    # 1 - sum sqrt(p q) would lose all digits near 0.
    return (0.5 * (p.sqrt() - q.sqrt()).square().sum(dim=-1)).sqrt().clamp_max(1.0)


@dataclass(frozen=True, slots=True)
class Measure:
    """A divergence: its formula, its name and unit, and its largest value, also in words."""

    formula: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    name: str
    unit: str
    largest: float
    at_most: str


MEASURES: Mapping[Divergence, Measure] = {
    "js": Measure(_js, "JSD", " nats", math.log(2), " and at most ln 2 = 0.693"),
    "kl": Measure(_kl, "KL divergence", " nats", math.inf, " and finite"),
    "reverse_kl": Measure(_reverse_kl, "KL divergence", " nats", math.inf, " and finite"),
    "tv": Measure(_tv, "total variation distance", "", 1.0, " and at most 1"),
    "hellinger": Measure(_hellinger, "Hellinger distance", "", 1.0, " and at most 1"),
}
