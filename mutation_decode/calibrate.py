"""Fits a detector and a strategy to a model from images whose objects are known."""

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .anatomy import Anatomy
from .asking import Asking, Example
from .calibration import Calibration, warned
from .encoding import PROMPT, Encode, encoder
from .findings import Findings, find
from .gain import Gain, Measured, counted
from .propose import BUDGET, REMEDIES, Proposal, Remedy
from .resampling import Interval, Plain
from .saved import fingerprint, plain
from .words import Mentions, Vocabulary, names_of

FEW = 50
"""Images below which intervals are wide."""


def calibrate(
    model: nn.Module,
    processor: Any,
    examples: Sequence[Example],
    *,
    prompt: str = PROMPT,
    encode: Encode | None = None,
    objects: Collection[str] | None = None,
    mentions: Mentions | None = None,
    max_new_tokens: int = 128,
    batch_size: int = 8,
    budget: int = BUDGET,
    kinds: Sequence[Remedy] = REMEDIES,
    seed: int = 0,
    progress: bool = False,
    anatomy: Anatomy | None = None,
) -> Calibration:
    """Measures greedy answers layer by layer, tries what the measurement suggests, and keeps what helps.

    A candidate qualifies if on the same images its CHAIR_i is below greedy's, its recall no lower, its length
    and number of objects within greedy's intervals, and fewer than half of the tokens fire; the one of the
    lowest CHAIR_i is chosen. As the images that choose also measure, gains are a little too good: score other
    images afterwards. About 200 are enough; the model answers each `1 + budget * len(kinds)` times.

    Args:
        model: a transformers model that takes images.
        processor: its processor; a tokenizer is enough beside `encode`.
        examples: images with their objects.
        prompt: what to ask of each image.
        encode: from a list of images to the inputs of generate, in place of the processor's chat template.
        objects: more names to look for in answers than those that the examples show.
        mentions: finds object words, in place of whole words and simple plurals of all those names.
        max_new_tokens: the longest answer.
        budget: the most candidates of each kind.
        kinds: contrast, skip, or both.
        seed: of the intervals; decoding is greedy.
        progress: say on stderr how far it is.
        anatomy: the model's parts, if they cannot be found.

    Warns:
        UserWarning: where nothing helps, where a gain is within its interval, where images are few.

    Raises:
        ValueError: without examples, or where an answer or the processor cannot be used.
    """
    if not examples or min(batch_size, max_new_tokens, budget) < 1:
        raise ValueError(
            f"expected examples, and at least 1 for batch_size, max_new_tokens and budget, got "
            f"{len(examples)} examples, {batch_size}, {max_new_tokens} and {budget}."
        )
    if not kinds or not set(kinds) <= set(REMEDIES):
        raise ValueError(f"kinds are {' and '.join(REMEDIES)}, got {tuple(kinds)!r}.")
    shown = (name for example in examples for name in names_of(example.objects))
    names = {*names_of(objects or ()), *shown}
    asking = Asking(
        model,
        getattr(processor, "tokenizer", processor),
        examples,
        encode or encoder(model, processor, prompt),
        mentions or Vocabulary.of(names),
        max_new_tokens,
        batch_size,
        (lambda said: print(said, file=sys.stderr, flush=True)) if progress else lambda said: None,
    )
    with torch.no_grad():
        anatomy = anatomy or asking.anatomy()
        answers, observed, read_of = asking.watched(anatomy)
        findings = find(observed, read_of, asking.tokenizer, seed=seed)
        tried = {kind: findings.propose(kind, budget) for kind in kinds}
        measured = Measured(counted(answers, [0] * len(answers)), seed=seed)
        gains = asking.tried([one for kind in kinds for one in tried[kind]], anatomy, measured)
    return _chosen(model, findings, measured, tried, gains)


def _chosen(
    model: nn.Module,
    findings: Findings,
    measured: Measured,
    tried: Mapping[Remedy, Sequence[Proposal]],
    gains: Mapping[Proposal, Gain | str],
) -> Calibration:
    """The best of each kind, and of all."""
    good = {
        kind: [(gain.figures["CHAIR_i"].value, at) for at, one in enumerate(candidates)
               if isinstance(gain := gains[one], Gain) and not gain.against]
        for kind, candidates in tried.items()
    }  # fmt: skip
    best = {kind: min(found) for kind, found in good.items() if found}
    recommended = min(best, key=lambda kind: best[kind][0], default=None)
    notes = []
    if findings.images < FEW:
        notes.append(f"calibrated on {findings.images} images: the intervals are wide; about 200 are enough.")
    if recommended is None:
        notes.append("nothing that was tried helps this model without cost; generate without a strategy.")
    else:
        winner = gains[tried[recommended][best[recommended][1]]]
        assert isinstance(winner, Gain)
        if not winner.differences["CHAIR_i"].high < 0:
            notes.append("the gain is within its interval: it may be chance; calibrate on more images.")
    report = {
        **findings.to_json(),
        "greedy": _figures(measured.figures),
        "trials": {kind: [_trial(one, gains[one]) for one in found] for kind, found in tried.items()},
        "chosen": {kind: at for kind, (_, at) in best.items()},
        "notes": warned(notes),
    }
    remedies = {kind: tried[kind][at] for kind, (_, at) in best.items()}
    return Calibration(findings.verdict, remedies, recommended, fingerprint(model), report)


def _trial(one: Proposal, gain: Gain | str) -> dict[str, Any]:
    knobs = {
        "strategy": {type(one.strategy).__name__: plain(one.strategy)},
        "detector": plain(one.detector),
        "gate": plain(one.gate),
    }
    if isinstance(gain, str):
        return {**knobs, "figures": None, "differences": None, "against": [gain]}
    told = {"figures": _figures(gain.figures), "differences": _figures(gain.differences)}
    return {**knobs, **told, "against": list(gain.against)}


def _figures(figures: Mapping[str, Interval]) -> dict[str, Plain]:
    return {name: told.plain() for name, told in figures.items()}
