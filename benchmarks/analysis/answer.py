"""Figures of one greedy answer: probabilities (the paper's fig. 2), words (fig. 3), js (fig. 4)."""

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.analysis.drawn import Drawn, columns, page, parts
from benchmarks.analysis.kept import Kept
from mutation_decode import plot

ROW = 0.15
"""Inches of a token's row."""


def probabilities(kept: Kept) -> Drawn:
    """What every readout gives the emitted token."""
    trace, marks = kept.traces["greedy"], kept.about["marks"]["greedy"]
    assert trace.prob is not None
    pages = []
    for part in parts(len(marks)):
        figure = page(1.9 + 0.25 * (trace.depth + 1), 0.9 + ROW * max(len(part), 4))
        _marked(plot.token_probabilities(trace, part, figure.add_subplot()), marks, part)
        pages.append(figure)
    header = ["token", "id", "text", "kind", *(f"readout_{at}" for at in range(trace.depth + 1))]
    numbers = trace.prob[0].tolist()
    table = [header, *([*told, *row] for told, row in zip(columns(trace, marks), numbers, strict=True))]
    caption = (
        f"the probability that every readout gives the token that greedy emitted; readout 0 is what enters "
        f"the first block, {trace.depth} the model's answer; {about(kept)}{starred(kept)}"
    )
    return Drawn(pages, table, caption)


def js(kept: Kept) -> Drawn:
    """The change at every block, true and as the released scripts have it."""
    trace, marks = kept.traces["greedy"], kept.about["marks"]["greedy"]
    assert kept.released is not None
    scaled = kept.released / kept.released.abs().amax(dim=0).clamp_min(torch.finfo().tiny)
    true, labels, pages = trace.js[0], plot.labels(trace), []
    for part in parts(len(marks)):
        figure = page(plot.WIDE, 1.1 + ROW * max(len(part), 4))
        left, right = figure.subplots(1, 2)
        rows, told = list(part), [labels[at] for at in part]
        _marked(plot.js_heatmap(told, true[rows].numpy(), left), marks, part)
        left.set_title("true JSD, through the final norm")
        label = "each block's largest value = 1 (no unit)"
        _marked(plot.js_heatmap(told, scaled[rows].numpy(), right, label=label), marks, part)
        right.set_title("as in the released scripts")
        for axes, table in ((left, true), (right, scaled)):
            for image in axes.images:
                image.set_clim(0, float(table.nan_to_num(0.0).max()))  # one scale on all pages
        pages.append(figure)
    header = ["token", "id", "text", "kind", "variant", *(f"block_{at}" for at in range(trace.depth))]
    tables = {"js, nats": true, "released": kept.released, "released, scaled": scaled}
    lines = [
        [*told, variant, *row]
        for variant, table in tables.items()
        for told, row in zip(columns(trace, marks), table.tolist(), strict=True)
    ]
    caption = (
        f"the change that every block makes; left the Jensen-Shannon divergence in nats, right the released "
        f"scripts' variant: KL divergences the other way round, means over the vocabulary, states without "
        f"the final norm, each block divided by its largest value; {about(kept)}{starred(kept)}"
    )
    return Drawn(pages, [header, *lines], caption)


def words(kept: Kept) -> Drawn:
    """Hallucinated words against what led before, by readout."""
    trace, shown = kept.traces["greedy"], kept.about["words"]
    rows = -(-len(shown) // 2)
    figure = page(plot.WIDE if len(shown) > 1 else 3.6, 2.3 * max(rows, 1))
    table: list[list[Any]] = [
        ["token", "kind", "role", "id", "text", *(f"readout_{at}" for at in range(trace.depth + 1))]
    ]
    panels = figure.subplots(max(rows, 1), min(len(shown), 2) or 1, squeeze=False).flat
    for axes, word in zip(panels, shown, strict=False):
        token, ids = word["token"], {"said": int(trace.tokens[0, word["token"]]), "rival": word["rival"]}
        plot.rivals(trace, token, word["rival"], axes)
        where = f"token {token}" + (f", {word['kind']}" if word["kind"] else "")
        axes.set_title(where + (": rival is in the image" if word["rival kind"] == "correct" else ""))
        for role, id_ in ids.items():
            kind = word["kind"] if role == "said" else word["rival kind"]
            name = (trace.names or {}).get(id_, "")
            table.append([token, kind, role, id_, name, *plot.probability_of(trace, token, id_).tolist()])
    for axes in list(panels):
        axes.set_axis_off()
    wrong = any(word["kind"] == "hallucinated" for word in shown)
    which = "hallucinated words" if wrong else "the words at which late blocks change most"
    which = which if shown else "nothing, as the answer has no word; else words"
    known = 0 if trace.top_ids is None else trace.top_ids.shape[-1]
    caption = (
        f"{which} by readout, each with a rival: the likeliest other token before the largest late change, "
        f"the last block's left out as in the paper's recipe (dotted line); of tokens that name an object of "
        f"the image, if one does; a gap is where the rival is not among the likeliest {known}; {about(kept)}"
        f"{'' if wrong else unmarked(kept)}"
    )
    return Drawn([figure], table, caption)


def about(kept: Kept, key: str = "prompt") -> str:
    """Of whose answer to what a figure is."""
    return f'{kept.about["model"]}, "{kept.about[key]}" about {kept.about["of"]}{_cut(kept)}'


def _cut(kept: Kept) -> str:
    pieces = (kept.traces["greedy"].texts or ((),))[0]
    cut = len(pieces) >= kept.about["max_new_tokens"] and pieces[-1]  # the end itself adds no text
    return f", cut off at {len(pieces)} tokens" if cut else ""


def starred(kept: Kept, name: str = "greedy", how: str = "a star, in bold and orange") -> str:
    """How hallucinated words are marked, or why none is."""
    return (
        f"; hallucinated words have {how}" if "hallucinated" in kept.about["marks"][name] else unmarked(kept)
    )


def unmarked(kept: Kept) -> str:
    """Why no word is marked."""
    if kept.about["objects"] is None:
        return "; which words are hallucinated is not known (objects= says what is in the image)"
    searched = kept.about["searched"]
    return "; no word is hallucinated" + (f", nor in {searched - 1} other scenes" if searched > 1 else "")


def _marked(axes: Any, marks: Sequence[str], part: range) -> None:
    plot.mark(axes, [row for row, at in enumerate(part) if marks[at] == "hallucinated"])
