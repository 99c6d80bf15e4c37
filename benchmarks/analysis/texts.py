"""The figure texts (the paper's fig. 5): answers of several methods side by side, words of objects marked."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from benchmarks.analysis.answer import about, starred
from benchmarks.analysis.drawn import Drawn, columns
from benchmarks.analysis.kept import Kept
from mutation_decode import plot

SIZE = 7.5
LINE = 0.14
"""Inches from line to line."""
DENSE = 1200
"""Dots in an inch at which letters are measured."""
MOST = 60
"""Lines of an answer: a picture is no higher than a page, and the table has the rest."""
LOOKS: dict[str, dict[str, Any]] = {
    "hallucinated": {"color": "#B34700", "fontweight": "bold"},
    "correct": {"color": plot.COLOURS[0], "fontstyle": "italic"},
    "": {},
}
"""How a word looks; hallucinated ones are underlined too."""


@dataclass(frozen=True, slots=True)
class Word:
    """Letters of one kind, and where they stand: inches from the left, and the line."""

    text: str
    kind: str
    left: float
    width: float
    line: int


def texts(kept: Kept) -> Drawn:
    """Greedy and the methods side by side."""
    names = ["greedy", *(name for name in kept.about["methods"] if name != "greedy")]
    across = min(len(names), 4)
    wide = (plot.WIDE - 0.1) / across
    measure = _Measure()
    set_ = {name: list(_set(kept, name, measure, wide - 0.15)) for name in names}
    rows = [names[start : start + across] for start in range(0, len(names), across)]
    heights = [max(_lines(set_[name]) for name in row) * LINE + 0.45 for row in rows]
    top = sum(heights) + 0.4
    figure = Figure(figsize=(plot.WIDE, top))
    for row, height in zip(rows, heights, strict=True):
        for place, name in enumerate(row):
            _write(figure, name, _acted(kept, name), set_[name], 0.08 + place * wide, top - 0.18)
        top -= height
    if kept.about["objects"] is not None:
        _legend(figure)
    header = ["method", "token", "id", "text", "kind", "acted", "skipped blocks"]
    table: list[Sequence[Any]] = [header]
    for name in names:
        trace, marks = kept.traces[name], kept.about["marks"][name]
        for told in columns(trace, marks):
            blocks = " ".join(map(str, trace.skipped[0, told[0]].nonzero().flatten().tolist()))
            table.append([name, *told, bool(trace.acted[0, told[0]]) and name != "greedy", blocks])
    long = any(word.line >= MOST for words in set_.values() for word in words)
    caption = (
        f"greedy beside {', '.join(names[1:]) or 'nothing else'}; above each text at how many of its tokens "
        f"the method acted; {about(kept)}{_marking(kept, names)}"
        f"{f'; only {MOST} lines of each, the rest is in the CSV' if long else ''}"
    )
    return Drawn([figure], table, caption)


def _marking(kept: Kept, names: Sequence[str]) -> str:
    looks = "an underline, in bold and orange; objects that are in the image are blue and italic"
    wrong = next((name for name in names if "hallucinated" in kept.about["marks"][name]), "greedy")
    return starred(kept, wrong, looks)


def _acted(kept: Kept, name: str) -> str:
    trace = kept.traces[name]
    count = trace.tokens.shape[1]
    return f"{count} tokens" if name == "greedy" else f"acted at {int(trace.acted.sum())} of {count} tokens"


def _words(kept: Kept, name: str) -> Iterator[list[tuple[str, str]]]:
    """What stands between blanks, in parts of one kind each, such as a word and the full stop after it."""
    pieces, marks = (kept.traces[name].texts or ((),))[0], kept.about["marks"][name]
    text = "".join(pieces)
    kinds = [kind for piece, kind in zip(pieces, marks, strict=True) for _ in piece]
    for found in re.finditer(r"\n|\S+", text):
        letters = zip(found[0], kinds[found.start() : found.end()], strict=True)
        parts = [(kind, "".join(c for c, _ in some)) for kind, some in groupby(letters, key=itemgetter(1))]
        yield [(part if part == "\n" or part.isprintable() else "\ufffd", kind) for kind, part in parts]


def _set(kept: Kept, name: str, measure: "_Measure", wide: float) -> Iterator[Word]:
    """Every word in its place, in lines of ``wide`` inches."""
    left, line = 0.0, 0
    for word in _words(kept, name):
        if word[0][0] == "\n":
            left, line = 0.0, line + 1
            continue
        if left and left + sum(measure(*part) for part in word) > wide:
            left, line = 0.0, line + 1
        for text, kind in (cut for part in word for cut in measure.cut(*part, wide)):
            width = measure(text, kind)
            if left and left + width > wide:
                left, line = 0.0, line + 1
            yield Word(text, kind, left, width, line)
            left += width
        left += measure.blank


def _lines(words: Sequence[Word]) -> int:
    return min(max((word.line for word in words), default=0) + 1, MOST)


class _Measure:
    """How wide text is, in inches."""

    def __init__(self) -> None:
        self._figure = Figure(dpi=DENSE)  # or letters would be rounded to whole dots
        self._renderer = FigureCanvasAgg(self._figure).get_renderer()
        self.blank = self("n n", "") - self("nn", "")

    def __call__(self, text: str, kind: str) -> float:
        shown = Text(0, 0, text, fontsize=SIZE, figure=self._figure, parse_math=False, **LOOKS[kind])
        return float(shown.get_window_extent(self._renderer).width) / DENSE

    def cut(self, text: str, kind: str, wide: float) -> list[tuple[str, str]]:
        """What is wider than a line, in parts that are not."""
        if self(text, kind) <= wide or len(text) < 2:
            return [(text, kind)]
        half = len(text) // 2
        return self.cut(text[:half], kind, wide) + self.cut(text[half:], kind, wide)


def _write(figure: Figure, name: str, acted: str, words: Sequence[Word], left: float, top: float) -> None:
    _put(figure, left, top, name, fontweight="bold")
    _put(figure, left, top - LINE, acted, color="0.35", fontsize=plot.SMALL)
    if not words:
        _put(figure, left, top - 2.4 * LINE, "(empty)", color="0.35")
    for word in words:
        if word.line < MOST:
            at = left + word.left, top - (word.line + 2.4) * LINE
            _put(figure, *at, word.text, **LOOKS[word.kind])
            if word.kind == "hallucinated":
                _underline(figure, *at, word.width)


def _put(figure: Figure, left: float, top: float, text: str, **look: Any) -> None:
    wide, high = figure.get_size_inches()
    look = {"fontsize": SIZE, **look}
    figure.text(left / wide, top / high, text, va="baseline", parse_math=False, **look)


def _underline(figure: Figure, left: float, top: float, width: float) -> None:
    wide, high = figure.get_size_inches()
    across, down = [left / wide, (left + width) / wide], [(top - 0.025) / high] * 2
    figure.add_artist(Line2D(across, down, color=LOOKS["hallucinated"]["color"], linewidth=0.9))


def _legend(figure: Figure) -> None:
    _put(figure, 0.08, 0.1, "hallucinated", **LOOKS["hallucinated"], fontsize=plot.SMALL)
    _underline(figure, 0.08, 0.1, 0.68)
    _put(figure, 0.95, 0.1, "an object that is in the image", **LOOKS["correct"], fontsize=plot.SMALL)
