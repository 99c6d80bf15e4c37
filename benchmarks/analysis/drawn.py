"""What a figure is made of, and how it is written: PNG and SVG of every page, its numbers, its caption."""

import csv
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from mutation_decode import Trace, plot

OTHERS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans", "Microsoft YaHei"),
    *("Noto Sans", "Arial Unicode MS", "Noto Emoji"),
)
"""Fonts for letters that matplotlib's own font lacks."""
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": plot.SMALL,
    "ytick.labelsize": plot.SMALL,
    "legend.fontsize": plot.SMALL,
    "svg.hashsalt": "mutation-decode",  # or ids would be new in every file
}
"""Points at the size of the file, which is that of a page in print."""
PAGE = 60
"""Tokens of an answer in one picture: more would be higher than a page."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure: its pages, the table of its numbers with a header, what it shows in one line."""

    pages: Sequence[Figure]
    table: Sequence[Sequence[Any]]
    caption: str

    def save(self, folder: Path, name: str) -> list[str]:
        """Writes name.png, name.svg (of several pages name-1.png, ...), name.csv; returns the PNGs' names."""
        for old in (*folder.glob(f"{name}.*"), *folder.glob(f"{name}-[0-9]*.*")):
            old.unlink()
        one = len(self.pages) == 1
        stems = [name if one else f"{name}-{number}" for number in range(1, len(self.pages) + 1)]
        with in_style():
            for stem, page in zip(stems, self.pages, strict=True):
                page.savefig(folder / f"{stem}.png", dpi=200)
                page.savefig(folder / f"{stem}.svg", metadata={"Date": None})
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([[_cell(v) for v in row] for row in self.table])
        return [f"{stem}.png" for stem in stems]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.9g}" if isinstance(value, float) else str(value)


@contextmanager
def in_style() -> Iterator[None]:
    """Letters at the size of print, in fonts that this machine has; one without a letter shows a box."""
    there = {*fontManager.get_font_names()}
    family = ["DejaVu Sans", *(name for name in OTHERS if name in there)]
    with rc_context({**STYLE, "font.family": family}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def page(width: float, height: float) -> Figure:
    """An empty figure in inches; to be made and filled within `in_style`."""
    return Figure(figsize=(min(width, plot.WIDE), height), layout="constrained")


def parts(tokens: int) -> list[range]:
    """The tokens of each page; one page without tokens too."""
    return [range(start, min(start + PAGE, tokens)) for start in range(0, max(tokens, 1), PAGE)]


def columns(trace: Trace, marks: Sequence[str]) -> list[list[Any]]:
    """What a line of a table of tokens begins with: token, id, text, kind."""
    texts = trace.texts[0] if trace.texts else [""] * trace.tokens.shape[1]
    ids = trace.tokens[0].tolist()
    return [list(line) for line in zip(range(len(ids)), ids, texts, marks, strict=True)]
