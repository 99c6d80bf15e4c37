"""Where a model's prior enters, without labels: how much each layer owes to the image, and if that lasts.

Each prompt is answered once, with its twin (twins.py), which has not seen the image, beside it. What a layer
says with the image lies JSD(p_j, p_j of the twin) from what it says without. Where that falls again after a
peak before the end, later blocks give back what the image had told: there a method that goes back to earlier
layers has something to go back to. Where it rises to the end, going back would do harm.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .anatomy import Anatomy
from .detection import Mutations
from .divergence import js_divergence
from .processor import MutationLogitsProcessor
from .readout import Readout
from .trace import Trace
from .twins import with_twins

FEWEST = 10
"""Answers with tokens that depend on the image, below which nothing is concluded from them."""
RESAMPLES = 1000

Verdict = Literal["late", "early", "none"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What `diagnose` found. Readouts count 0..L; all but the counts is of tokens that depend on an image.

    Attributes:
        verdict: ``late`` if the image dependence falls after a peak before the end, by more than `margin`;
            ``early`` if it does not; ``none`` if too few tokens depend on the image, or it cannot be told.
        dependence: nats, at each readout 0..L, the mean over the tokens that depend on the image.
        peak: the readout at which it is largest.
        turn: the same of those before the end, 0..L-1; "late" is what comes after it.
        fall: nats, from `turn` to the end; negative where the dependence rises to the end.
        interval: the 95% interval of `fall`, by bootstrap over answers.
        falling: the share of tokens whose own dependence falls by more than `margin` after `turn`.
        toward_text: the share that comes nearer, after `turn`, to what the twin says in the end, by more than
            `margin` in JSD.
        toward_image: the share that goes that far away from it.
        answers, tokens: how many were read.
        dependent: how many tokens depend on the image: at some readout by more than `threshold`.
        threshold, margin: nats.
    """

    verdict: Verdict
    dependence: tuple[float, ...]
    peak: int
    turn: int
    fall: float
    interval: tuple[float, float]
    falling: float
    toward_text: float
    toward_image: float
    answers: int
    tokens: int
    dependent: int
    threshold: float
    margin: float

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, lists and strings."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def __str__(self) -> str:
        depth, (low, high) = len(self.dependence) - 1, self.interval
        counted = (
            f"{self.dependent} of {self.tokens} tokens in {self.answers} answers depend on the image: at "
            f"some readout by more than {self.threshold:g} nats."
        )
        if not self.dependent:
            return f"none: no token depends on the image.\n{counted}"
        says = {
            "late": f"late: the image counts most at readout {self.turn} of {depth}, and less in the end.",
            "early": f"early: the image counts most at readout {self.peak} of {depth}, and no less after it.",
            "none": "none: these answers cannot tell whether the image counts less in the end.",
        }
        curve = " ".join(f"{value:.3f}" for value in self.dependence)
        return (
            f"{says[self.verdict]}\n{counted}\n"
            f"image dependence at readouts 0..{depth}, nats: {curve}\n"
            f"fall from readout {self.turn} to the end: {self.fall:.3f} nats (95% {low:.3f} to {high:.3f}); "
            f"at {self.falling:.0%} of the tokens more than {self.margin:g}. "
            f"{self.toward_text:.0%} move toward the answer without the image, {self.toward_image:.0%} away."
        )


def diagnose(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    *,
    max_new_tokens: int = 64,
    twins: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    threshold: float = 0.05,
    margin: float = 0.02,
    norm: bool = True,
    anatomy: Anatomy | None = None,
) -> Diagnosis:
    """Answers prompts about images greedily, each beside its twin, and compares the two layer by layer.

    Args:
        model: a transformers model that answers about images.
        batches: inputs of generate, with images, left padded; a hundred answers give a narrow interval.
        max_new_tokens: of each answer.
        twins: makes the twins of a batch, where their image cannot be masked, or another one is wanted; see
            `with_twins`.
        threshold: nats; a token depends on the image if it does so at some readout by more than this.
        margin: nats; what counts as a fall, and as a move.
        norm, anatomy: see `LogitLens`.

    Raises:
        ValueError: if there is no twin without the image (see `with_twins`), the model's parts do not verify,
            or there are no batches.

    Example:
        print(diagnose(model, batches))
    """
    reads = _BothWays()
    with_image, to_text, answer, answers = [], [], [], 0
    with MutationLogitsProcessor(
        model, reads, detector=None, norm=norm, trace="watched", anatomy=anatomy
    ) as processor:
        for batch in batches:
            both = with_twins(model, batch, twins=twins and twins(batch), check=answers == 0)
            reads.steps.clear()
            settings = {"max_new_tokens": max_new_tokens, "do_sample": False, "num_beams": 1}
            model.generate(**{**both, **settings}, logits_processor=[processor])  # type: ignore[operator]
            generated = _of_the_rows(processor.trace)
            found = torch.stack(reads.steps, dim=2)[..., : generated.shape[1], :].cpu()
            with_image.append(found[0][generated])
            to_text.append(found[1][generated])
            answer.append(answers + generated.nonzero()[:, 0])
            answers += len(generated)
    if answers == 0:
        raise ValueError("there are no batches to diagnose from; pass inputs of generate with images.")
    return _concluded(
        torch.cat(with_image), torch.cat(to_text), torch.cat(answer), answers, threshold, margin
    )


class _BothWays:
    """A strategy that gives twins the scores of their rows, and keeps how the readouts of the two compare.

    Attributes:
        steps: for each token `[2, rows, L + 1]`, nats: from the readouts of a row to the same ones of its
            twin, and to its twin's last.
    """

    always = True

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def readouts(self, depth: int) -> range:
        return range(depth)

    def __call__(self, readout: Readout, mutations: Mutations, scores: Tensor) -> Tensor:
        final = readout.logits_at(readout.depth).chunk(2)[1]
        pairs = [readout.logits_at(j).chunk(2) for j in readout.indices]
        same = torch.stack([js_divergence(row, twin) for row, twin in pairs], dim=1)
        last = torch.stack([js_divergence(row, final) for row, _ in pairs], dim=1)
        self.steps.append(torch.stack([same, last]))
        return torch.cat([scores.chunk(2)[0]] * 2)


def _of_the_rows(trace: Trace | None) -> Tensor:
    """`[rows, tokens]` bool, where they have answered."""
    assert trace is not None
    return trace.generated[: len(trace.generated) // 2]


def _concluded(
    found: Tensor, to_text: Tensor, answer: Tensor, answers: int, threshold: float, margin: float
) -> Diagnosis:
    """From `[tokens, L + 1]` both ways, and which answer each token is of."""
    tokens, depth = len(found), found.shape[1] - 1
    depends = found.amax(dim=1) > threshold
    found, to_text, answer = found[depends], to_text[depends], answer[depends]
    curve = found.mean(dim=0) if len(found) else torch.zeros(depth + 1)
    turn = int(curve[:-1].argmax())
    low, high = _interval(found[:, turn] - found[:, -1], answer, answers)
    enough = int(answer.bincount(minlength=1).count_nonzero()) >= FEWEST
    nearer = to_text[:, turn] - to_text[:, -1]

    def share(which: Tensor) -> float:
        return float(which.float().mean()) if len(which) else 0.0

    return Diagnosis(
        verdict="late" if enough and low > margin else "early" if enough and high < margin else "none",
        dependence=tuple(curve.tolist()),
        peak=int(curve.argmax()),
        turn=turn,
        fall=float(curve[turn] - curve[-1]),
        interval=(low, high),
        falling=share(found[:, turn] - found[:, -1] > margin),
        toward_text=share(nearer > margin),
        toward_image=share(nearer < -margin),
        answers=answers,
        tokens=tokens,
        dependent=len(found),
        threshold=threshold,
        margin=margin,
    )


def _interval(values: Tensor, answer: Tensor, answers: int) -> tuple[float, float]:
    """95% interval of the mean of `values`, drawing answers with all of their tokens."""
    if not len(values):
        return (0.0, 0.0)
    sums = torch.zeros(answers).index_add_(0, answer, values)
    counts = torch.zeros(answers).index_add_(0, answer, torch.ones_like(values))
    means = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(RESAMPLES):
        drawn = torch.randint(answers, (answers,), generator=generator)
        means.append(sums[drawn].sum() / counts[drawn].sum().clamp_min(1))
    low, high = torch.stack(means).quantile(torch.tensor([0.025, 0.975])).tolist()
    return (low, high)
