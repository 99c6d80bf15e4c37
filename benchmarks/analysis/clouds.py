"""States and many images: states (fig. 6 of the paper), questions (fig. 7), no-image (sec. 6)."""

from collections import Counter
from typing import Any

import numpy as np

from benchmarks.analysis.answer import about
from benchmarks.analysis.drawn import Drawn, columns, page
from benchmarks.analysis.kept import Kept
from mutation_decode import plot

MOST = 5_000
"""Points of a t-SNE: a minute of one core."""


def states(kept: Kept) -> Drawn:
    """t-SNE of every token of the answer at every readout."""
    trace, marks = kept.traces["greedy"], kept.about["marks"]["greedy"]
    assert trace.states is not None
    count = trace.tokens.shape[1]
    step = -(-count * (trace.depth + 1) // MOST)
    chosen = list(range(0, count, step))
    places = plot.embedded(trace.states[0, chosen])
    figure = page(4.6, 3.6)
    plot.states_of_answer(trace, chosen, places, figure.add_subplot())
    told = columns(trace, marks)
    table = [["token", "id", "text", "kind", "readout", "x", "y"]] + [
        [*told[token], readout, *map(float, place)]
        for token, by_readout in zip(chosen, places, strict=True)
        for readout, place in enumerate(by_readout)
    ]
    some = "" if step == 1 else f", every {step}th of {count} tokens"
    caption = (
        f"the states at the positions that predict the tokens of one answer, a point for each token and "
        f"readout ({len(chosen)} x {trace.depth + 1}{some}), in the plane by t-SNE after MaxAbs scaling; "
        f"{about(kept)}"
    )
    return Drawn([figure], table, caption)


def questions(kept: Kept) -> Drawn:
    """t-SNE of the first token of the answers to one question about many images."""
    trace, answers = kept.traces["question"], list(kept.about["answers"])
    assert trace.states is not None
    places = plot.embedded(trace.states[:, 0])
    shown = _forms(answers)
    figure = page(4.6, 3.6)
    plot.states_of_images(trace, shown, places, figure.add_subplot())
    table = [["image", "answer", "readout", "x", "y"]] + [
        [image, answer, readout, *map(float, place)]
        for image, answer, by_readout in zip(kept.about["images"], answers, places, strict=True)
        for readout, place in enumerate(by_readout)
    ]
    caption = (
        f"the states at the position that predicts the answer to one question about {len(answers)} images, a "
        f"point for each image and readout 0 to {trace.depth}, in the plane by t-SNE after MaxAbs scaling; "
        f'{kept.about["model"]}, "{kept.about["question"]}"; forms are answers'
    )
    return Drawn([figure], table, caption)


def no_image(kept: Kept) -> Drawn:
    """The mean change at every block with and without the image."""
    seen, unseen = kept.traces["with-image"], kept.traces["without-image"]
    figure = page(4.6, 3.0)
    axes = plot.with_and_without_image(seen, unseen, figure.add_subplot())
    table: list[list[Any]] = [["block", *(f"{line.get_label()}, mean js, nats" for line in axes.get_lines())]]
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()]
    table += [[block, *map(float, values)] for block, values in enumerate(zip(*lines, strict=True))]
    count = kept.about["described"]
    caption = (
        f"the mean change that every block makes over the tokens (n) of greedy answers, with the 95 % band "
        f'of the mean: {kept.about["model"]}, "{kept.about["description"]}" about {count} '
        f"image{'s' if count > 1 else ''}, and the same words without one"
    )
    return Drawn([figure], table, caption)


def _forms(answers: list[str]) -> list[str]:
    """The answers as far as there are forms of points; all rarer ones together."""
    common = [answer for answer, _ in Counter(answers).most_common(5)]
    return [(answer or "(empty)") if answer in common else "other answers" for answer in answers]
