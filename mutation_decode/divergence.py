"""Jensen-Shannon divergence between next-token distributions, straight from logits.

Everything here is in nats, in [0, ln 2], and computed in fp32 whatever the dtype of the logits.
"""

import math

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20
"""fp32 logits of one pass of `adjacent_js`: 152k words x 29 readouts x 16 rows would be 280 MB at once."""


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
    if p_logits.shape[-1] != q_logits.shape[-1]:
        raise ValueError(
            f"js_divergence compares distributions over one vocabulary, got logits of shape "
            f"{tuple(p_logits.shape)} and {tuple(q_logits.shape)}; pass two tensors with the same last size."
        )
    p, q = _log_softmax(p_logits), _log_softmax(q_logits)
    return _js(p, q, p.exp(), q.exp())


def adjacent_js(logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence between every readout and the next: the change each block makes.

    Args:
        logits: `[rows, readouts, vocab]`, readouts in the order of depth, at least two of them.

    Returns:
        `[rows, readouts - 1]`, fp32, nats; entry i compares readouts i and i + 1.

    Raises:
        ValueError: if `logits` is not of that shape.
    """
    if logits.dim() != 3 or logits.shape[1] < 2:
        raise ValueError(
            f"adjacent_js expects logits [rows, readouts, vocab] with two readouts or more, "
            f"got shape {tuple(logits.shape)}."
        )
    rows, readouts, vocab = logits.shape
    step = max(1, CHUNK_BYTES // (4 * readouts * vocab))
    out = torch.empty(rows, readouts - 1, dtype=torch.float32, device=logits.device)
    for start in range(0, rows, step):
        log_probs = _log_softmax(logits[start : start + step])
        probs = log_probs.exp()
        out[start : start + step] = _js(log_probs[:, :-1], log_probs[:, 1:], probs[:, :-1], probs[:, 1:])
    return out


def _log_softmax(logits: Tensor) -> Tensor:
    """fp32 log-probabilities; log 0 is a low finite number, so that differences stay defined."""
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32).clamp_min(-1e30)


def _js(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> Tensor:
    distance = (log_p - log_q).abs()
    shared = (p + q) * torch.log1p((-distance).exp()) + torch.minimum(p, q) * distance
    return (math.log(2) - 0.5 * shared.sum(dim=-1)).clamp(0.0, math.log(2))
