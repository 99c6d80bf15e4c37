"""Pictures inside the page: data URIs, small ones."""

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from benchmarks.batch import UNREADABLE
from benchmarks.tasks import Item
from benchmarks.tasks.images import rgb

WIDEST = 320
"""Pixels of the longer side of a photograph, which becomes a JPEG."""

FEW = 128
"""Pixels of the longer side up to which an image keeps every one of them."""


def png(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def png_file(path: Path) -> str | None:
    """A picture of the run folder, if it is there."""
    return png(path.read_bytes()) if path.is_file() else None


def of(item: Item) -> tuple[Sequence[str], Sequence[str]]:
    """The images of an item, and for each that cannot be read why."""
    found, missing = list[str](), list[str]()
    for read in (read for turn in item.turns for read in turn.images):
        try:
            found.append(small(read()))
        except UNREADABLE as error:
            missing.append(f"{type(error).__name__}: {error}")
    return found, missing


def small(image: Image.Image) -> str:
    """An image of any mode as a data URI, scaled down to WIDEST; a drawing of few pixels as it is."""
    shown, file = rgb(image), BytesIO()
    if max(shown.size) <= FEW:
        shown.save(file, "PNG")
        return png(file.getvalue())
    shown.thumbnail((WIDEST, WIDEST))
    shown.save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
