"""Two pictures of greedy decoding: mean js by block for kinds of words, and one caption's heat map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.batch import conversation
from benchmarks.models import Loaded
from benchmarks.plan import Job
from mutation_decode import Contrast, MutationLogitsProcessor, plot

SHOWN = ("correct", "hallucinated", "function")
MARK = "#B00020"


@runtime_checkable
class TellsWords(Protocol):
    """A task that can say of each word of an answer whether it is right."""

    def kinds(self, words: Sequence[str], image_id: str) -> Sequence[str]:
        """One of SHOWN, or anything else, for each word."""
        ...


@dataclass(frozen=True, slots=True)
class Caption:
    """One greedy answer: words (tokens as text), their kinds, and js ``[words, L]`` in nats."""

    words: Sequence[str]
    kinds: Sequence[str]
    js: np.ndarray


def observe(loaded: Loaded, jobs: Sequence[Job], captions: int, batch_size: int) -> list[Caption]:
    """Greedy answers, traced, to the first items of the first task that can tell right words from wrong ones.

    Returns: none when no task can.
    """
    job, task = next(((j, j.task) for j in jobs if isinstance(j.task, TellsWords)), (None, None))
    if job is None or task is None or captions < 1:
        return []
    found: list[Caption] = []
    untouched = Contrast(alpha=0.0, layer=0, always=True)  # reads every layer, changes no score
    with (
        torch.inference_mode(),
        MutationLogitsProcessor(loaded.model, untouched, detector=None, trace=True) as processor,
    ):
        items = job.items[:captions]
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            inputs = loaded.inputs([conversation(item)[0] for item in batch])
            loaded.model.generate(
                **inputs,
                max_new_tokens=job.task.max_new_tokens,
                do_sample=False,
                pad_token_id=loaded.processor.tokenizer.pad_token_id,
                logits_processor=[processor],
            )
            trace = processor.trace
            assert trace is not None
            for row, item in enumerate(batch):
                kept = trace.generated[row]
                words = [loaded.processor.decode([token]).strip() for token in trace.tokens[row, kept]]
                found.append(Caption(words, task.kinds(words, item.image_id), trace.js[row, kept].numpy()))
    return found


def draw(observed: Mapping[str, Sequence[Caption]], folder: Path) -> None:
    """js_by_layer.png and js_heatmap.png, one panel a model; neither when nothing was observed."""
    observed = {model: captions for model, captions in observed.items() if captions}
    if not observed:
        return
    figure = Figure(figsize=(6 * len(observed), 4), dpi=150, layout="constrained")
    for axes, (model, captions) in zip(
        figure.subplots(1, len(observed), squeeze=False)[0], observed.items(), strict=True
    ):
        plot.js_by_layer(by_kind(captions), axes)
        axes.set_title(f"{model}, greedy")
    figure.savefig(folder / "js_by_layer.png")
    shown = {model: typical(captions) for model, captions in observed.items()}
    rows = max(len(caption.words) for caption in shown.values())
    figure = Figure(figsize=(6 * len(shown), 1.2 + 0.19 * rows), dpi=150, layout="constrained")
    for axes, (model, caption) in zip(
        figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True
    ):
        plot.js_heatmap(caption.words, caption.js, axes)
        axes.set_title(f"{model}, greedy; hallucinated words in red")
        for label, kind in zip(axes.get_yticklabels(), caption.kinds, strict=True):
            if kind == "hallucinated":
                label.set(color=MARK, fontweight="bold")
    figure.savefig(folder / "js_heatmap.png")


def by_kind(captions: Sequence[Caption]) -> dict[str, np.ndarray]:
    """Kind -> js ``[words of that kind, L]``, for the kinds that occur."""
    js = np.concatenate([caption.js for caption in captions])
    kinds = np.array([kind for caption in captions for kind in caption.kinds])
    return {f"{kind} words": js[kinds == kind] for kind in SHOWN if (kinds == kind).any()}


def typical(captions: Sequence[Caption]) -> Caption:
    """The caption to show: with as few hallucinated words as possible, but one at least if there is such."""
    counts = [list(caption.kinds).count("hallucinated") for caption in captions]
    return min(zip(counts, captions, strict=True), key=lambda pair: pair[0] or len(captions))[1]
