"""Labelled images of one's own: JSON Lines with an image, its objects and, if one likes, a caption."""

import json
from pathlib import Path
from typing import Any

from .asking import Example
from .encoding import opened

EXPECTED = '{"image": path, "objects": [names], "caption": text or left out}'
UNREADABLE = (OSError, ValueError, SyntaxError)
"""What Pillow raises on files that are not there, no image, or damaged."""


def read_examples(path: str | Path, limit: int | None = None) -> list[Example]:
    """Reads a file, a JSON object a line; image paths are relative to the file, and every image is opened.

    Args:
        limit: how many, from the first on; None for all.

    Raises:
        ValueError: naming file and line, on a line that is no example or has an image that cannot be read;
            or where no line has an object.
        OSError: if there is no such file.
    """
    file = Path(path)
    examples: list[Example] = []
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # other line ends may stand in a text
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected text in utf-8, got {error}.") from error
    for number, line in enumerate(lines, start=1):
        if limit is not None and len(examples) == limit:
            break
        if line.strip():
            examples.append(_example(line, file, f"{file}:{number}"))
    if not examples:
        raise ValueError(f"{file}: expected lines of {EXPECTED}, got none.")
    if not any(example.objects for example in examples):
        raise ValueError(f"{file}: no image shows an object, so nothing can be told; name those it shows.")
    return examples


def _example(line: str, file: Path, where: str) -> Example:
    try:
        told: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: expected {EXPECTED}, got no JSON ({error}).") from error
    if not isinstance(told, dict):
        raise ValueError(f"{where}: expected {EXPECTED}, got {type(told).__name__}.")
    if unknown := told.keys() - {"image", "objects", "caption"}:
        raise ValueError(f"{where}: expected {EXPECTED}, got also {', '.join(sorted(unknown))}.")
    image, objects, caption = (told.get(key) for key in ("image", "objects", "caption"))
    if not isinstance(image, str) or not image:
        raise ValueError(f"{where}: expected the path of an image, got {image!r}.")
    if not isinstance(objects, list) or not all(isinstance(o, str) and o.strip() for o in objects):
        raise ValueError(f"{where}: expected objects as a list of names, got {objects!r}.")
    if caption is not None and not (isinstance(caption, str) and caption.strip()):
        raise ValueError(f"{where}: expected a caption as text, or none at all, got {caption!r}.")
    at = file.parent / image
    try:
        opened(at)
    except UNREADABLE as error:
        raise ValueError(
            f"{where}: expected an image at {at}, got {type(error).__name__}: {error}."
        ) from error
    return Example(at, tuple(objects), caption)
