"""One HTML page of one prompt: its answers word by word, and what the layers did at each word.

The page holds all it needs, asks the network for nothing, and can be read without a mouse, without colour and
without JavaScript. Needs bokeh, which brings Jinja2 (`pip install 'mutation-decode[inspect]'`).
"""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..divergence import MEASURES
from ..trace import Trace
from .data import RISKS, acted, facts, packed, pieces
from .differing import differing

if TYPE_CHECKING:
    from PIL.Image import Image

TITLE = "An answer, word by word"
IMAGE_SIDE = 800
SMALL = 256
"""Images up to this side lose nothing, and are shown larger than they are."""


def write(
    path: str | Path,
    answers: Mapping[str, Trace],
    *,
    prompt: str,
    image: "Image | None" = None,
    title: str = TITLE,
    marked: Mapping[str, Sequence[Sequence[int]]] | None = None,
    marks: str = "marked words",
    library: str | None = None,
) -> None:
    """Writes the page, whole or not at all.

    Args:
        answers: name -> a trace of one row that was `named`; words that differ between the first and the
            others are pointed out. What a `Record` keeps is shown where it is there.
        prompt: what was asked.
        image: what it was asked about; scaled to 800 pixels at most.
        marked: name of an answer -> words to mark in it, each as the numbers of its tokens, from 0.
        marks: what these words are, for the legend.
        library: name of a file beside the page that `write_library` wrote, for many pages in one folder, each
            1.3 MB smaller then; None puts everything into the page.

    Raises:
        ValueError: without answers, or if one of them is no named trace of one row, or if a mark is none of
            its tokens.
        ImportError: without bokeh.
    """
    rows = {name: _one_row(name, trace) for name, trace in _some(answers).items()}
    texts = [pieces(row) for row in rows.values()]
    noted = [_marked(name, row, marked or {}) for name, row in rows.items()]
    told = [
        {"name": name, "tokens": facts(row, texts[i], unlike, noted[i]), **_summary(row)}
        for i, ((name, row), unlike) in enumerate(zip(rows.items(), differing(texts), strict=True))
    ]
    page = _template().render(
        title=title,
        prompt=prompt,
        image=None if image is None else _data_uri(image),
        answers=told,
        risks=RISKS,
        marks=marks if any(noted) else None,
        model=next((row.model for row in rows.values() if row.model), None),
        measures=sorted({_measure(row) for row in rows.values()}),
        data=packed(rows),
        library=library,
        **_charts(),
    )
    _write(Path(path), page)


def write_library(path: str | Path) -> None:
    """Writes the script that pages with `library` share. Raises: ImportError without bokeh."""
    _write(Path(path), str(_charts()["bokeh"]))


def _write(target: Path, text: str) -> None:
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(text.encode("utf-8"))
    os.replace(part, target)


def style() -> str:
    """The CSS that the pages of this project share: type, colours (light and dark), tables, panels."""
    return (Path(__file__).parent / "parts" / "shared.css").read_text(encoding="utf-8")


def _some(answers: Mapping[str, Trace]) -> Mapping[str, Trace]:
    if not answers:
        raise ValueError("expected one answer or more, as name -> trace, got none.")
    return answers


def _one_row(name: str, trace: Trace) -> Trace:
    if len(trace.tokens) != 1:
        raise ValueError(
            f"answer {name!r}: expected a trace of one row, got {len(trace.tokens)} rows; "
            f"take one with row(i)."
        )
    if trace.texts is None or trace.names is None:
        raise ValueError(f"answer {name!r}: expected a trace with texts; make it with named(tokenizer).")
    return trace.row(0)


def _marked(name: str, row: Trace, marked: Mapping[str, Sequence[Sequence[int]]]) -> set[int]:
    tokens = {token for word in marked.get(name, ()) for token in word}
    count = row.tokens.shape[1]
    if wrong := sorted(token for token in tokens if not 0 <= token < count):
        raise ValueError(f"answer {name!r}: marked tokens are 0 to {count - 1}, got {wrong[0]}.")
    return tokens


def _measure(row: Trace) -> str:
    measure = MEASURES[row.divergence]
    return f"{measure.name} ({measure.unit.strip()})" if measure.unit else measure.name


def _summary(row: Trace) -> dict[str, Any]:
    share = float(100 * acted(row).float().mean())
    return {"fired": row.percent_fired, "acted": share, "recorded": row.top_ids is not None}


@cache
def _template() -> Any:
    try:
        from jinja2 import Environment, FileSystemLoader
    except ImportError as error:
        raise _missing(error) from error
    folder = FileSystemLoader(Path(__file__).parent / "parts")
    pages = Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    # Bokeh's JSON names a thing where it first occurs: sorted keys would break it.
    pages.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    return pages.get_template("answer.html")


def _charts() -> dict[str, Any]:
    """Bokeh itself, and the three charts, which the page fills."""
    try:
        from .charts import charts
    except ImportError as error:
        raise _missing(error) from error
    return charts()


def _missing(error: ImportError) -> ImportError:
    return ImportError(f"the page needs bokeh; pip install 'mutation-decode[inspect]' ({error}).")


def _data_uri(image: "Image") -> str:
    """Small ones as PNG, larger ones as JPEG; what lets light through on white."""
    from PIL import Image

    shown = image.copy()
    if shown.has_transparency_data:
        shown = shown.convert("RGBA")
        shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
    elif shown.mode.startswith("I;16"):
        shown = shown.point(lambda value: value / 256, "L")
    shown = shown.convert("RGB")
    shown.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    kind = "PNG" if max(shown.size) <= SMALL else "JPEG"
    file = io.BytesIO()
    shown.save(file, kind, **({"quality": 88} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
