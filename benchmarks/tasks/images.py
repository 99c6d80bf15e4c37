"""Images of a folder, each read when its turn comes, by Hugging Face datasets.

An image that says how it was turned (EXIF) is read upright, which Pillow alone does not do.
"""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from traceback import clear_frames
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.tasks import Read
from benchmarks.usage import UsageError


def images(folder: str | Path, names: Iterable[str]) -> dict[str, Read]:
    """File name -> what reads it, as it is, of any mode; each name once. No file is opened yet.

    Files that are missing or damaged raise OSError or ValueError when they are read.

    Args:
        names: relative to the folder.

    Raises: UsageError when there is no such folder, or none of these files is in it.
    """
    paths = {name: Path(os.path.abspath(folder), name) for name in names}
    if not Path(folder).is_dir():
        raise UsageError(f"there is no folder of images {folder}")
    if paths and not any(path.is_file() for path in paths.values()):
        raise UsageError(f"{folder} has none of {len(paths)} images, such as {next(iter(paths))}")
    return dict(zip(paths, _readers(list(paths.values())), strict=True))


def _readers(paths: list[Path]) -> list[Read]:
    if not paths:
        return []
    import datasets  # a second, and only these tasks need it

    column = datasets.Dataset.from_dict({"image": [os.fspath(path) for path in paths]})
    column = column.cast_column("image", datasets.Image())
    return [Reader(path, column, number) for number, path in enumerate(paths)]


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads one image of a column of datasets, that of the file at ``path``."""

    path: Path
    column: Any
    number: int

    def __call__(self) -> Image.Image:
        return _read(self.column, self.number)


def _read(column: Any, number: int) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Pillow leaves some damaged files open
        try:
            return column[number]["image"]
        except Exception as error:
            _let_go(error)
            if isinstance(error, OSError | ValueError | MemoryError):
                raise
            # Pillow's readers raise nearly anything on damaged files
            raise ValueError(f"{type(error).__name__}: {error}") from None


def _let_go(error: BaseException | None) -> None:
    """Frees what the frames of an error hold, the open file above all."""
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__context__


def rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB; of 16 bits a channel the upper 8, where Pillow makes all of it white."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    return image.convert("RGB")
