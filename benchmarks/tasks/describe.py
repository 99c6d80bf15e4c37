"""Plain descriptions of a folder of images: no truth is known, so the figures tell of length only.

Example: every .jpg and .png of a folder, "Please describe this image in detail."
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.statistics import Ratio
from benchmarks.tasks import Item, about
from benchmarks.tasks.images import images
from benchmarks.usage import UsageError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Describe:
    """Every image of a folder, by name; the file's name is the image's id."""

    images: str
    prompt: str
    max_new_tokens: int
    answer: ClassVar[str] = "caption"

    def items(self) -> list[Item]:
        folder = Path(self.images)
        if not folder.is_dir():
            raise UsageError(f"no folder {self.images}; task.describe.images must be a folder of images")
        files = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not files:
            raise UsageError(
                f"{self.images} is an empty data set: no file in it ends in {', '.join(SUFFIXES)}"
            )
        return [about({"image_id": name}, self.prompt, read) for name, read in images(folder, files).items()]

    def files(self) -> tuple[Path, ...]:
        return ()

    def score(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, Ratio]:
        return {}
