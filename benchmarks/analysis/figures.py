"""The figures by name, and a model's folder of them."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from benchmarks.analysis.answer import js, probabilities, words
from benchmarks.analysis.clouds import no_image, questions, states
from benchmarks.analysis.drawn import Drawn, in_style
from benchmarks.analysis.kept import Kept
from benchmarks.analysis.texts import texts

FIGURES: Mapping[str, tuple[str, Callable[[Kept], Drawn]]] = {
    "probabilities": ("fig. 2", probabilities),
    "words": ("fig. 3", words),
    "js": ("fig. 4", js),
    "texts": ("fig. 5", texts),
    "states": ("fig. 6", states),
    "questions": ("fig. 7", questions),
    "no-image": ("sec. 6", no_image),
}
"""Name -> what it is in the paper, what draws it."""


def draw(kept: Kept, names: Collection[str], folder: Path) -> list[str]:
    """Writes the figures of one model; returns a line of captions.md for each.

    Raises: UsageError when there is no trace for one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name in names:
        where, figure = FIGURES[name]
        with in_style():
            drawn = figure(kept)
        files = ", ".join(f"`{folder.name}/{file}`" for file in drawn.save(folder, name))
        lines.append(f"- {files} ({where} of the paper): {drawn.caption}.")
    left_out = kept.about["left out"].items()
    return lines + [
        f"- `{folder.name}/{name}` ({FIGURES[name][0]}) is left out: {why}." for name, why in left_out
    ]
