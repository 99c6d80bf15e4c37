"""Descriptions of COCO images, scored by CHAIR.

Data: cocodataset.org, 2014 (40,504 validation images, of which papers take 500) or 2017, in a folder with
annotations/ and val2014/. Example: COCO_val2014_000000226988.jpg, "Please describe this image in detail."
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.statistics import Ratio
from benchmarks.tasks import Item, Read, about, chair, coco
from benchmarks.tasks.coco_objects import VARIANTS, Objects, Vocabulary
from benchmarks.tasks.images import images
from benchmarks.tasks.missing import Missing
from benchmarks.tasks.placed import placed
from benchmarks.usage import UsageError, nearest

NAMES: Mapping[str, str] = {"2014": "COCO_val2014_{:012d}.jpg", "2017": "{:012d}.jpg"}
"""Year -> how the validation images are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """Images of COCO to describe: those of a list, or ``n`` drawn by ``seed`` among all validation images.

    The draw depends on the annotations alone, so that images that are not there do not change it.

    Args:
        root: the folder that holds annotations/ and val2014/ or val2017/.
        images: the folder of the images, if they are elsewhere.
        ground_truth: a JSON file, image id -> list of objects, in place of the annotations.
        list: a file with an image a line: 226988, or the name of its file.
        n: how many are drawn; None: all. Where there is a list, it is taken whole.
        after: leaves out as many, those that the same seed draws for n=after; so two draws share no image.
        variant, synonyms: as those of ``python -m benchmarks.score task=chair``.

    Raises: ValueError on an unknown variant and on n below 1.
    """

    root: str
    images: str | None
    ground_truth: str | None
    list: str | None
    n: int | None
    after: int
    seed: int
    variant: str
    synonyms: str | None
    prompt: str
    max_new_tokens: int
    answer: ClassVar[str] = "caption"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"unknown CHAIR variant {self.variant!r}: {nearest(self.variant, VARIANTS)}")
        if self.n is not None and self.n < 1:
            raise ValueError(f"n={self.n} is an empty data set; expected at least one image, or null for all")
        if self.after < 0 or (self.after and (self.n is None or self.list is not None)):
            raise ValueError(f"after={self.after} needs an n, no list, and to be 0 or more")

    def items(self) -> Sequence[Item]:
        """Checks what the score needs, too. Raises: UsageError, with all that is missing."""
        self._objects()
        missing, pool, readers = Missing(), dict[str, str](), dict[str, Read]()
        with missing:
            self.files()
            pool = self._pool()
        names = self._chosen(pool) if pool else ()
        with missing:
            readers = images(self._folder, names)
        missing.tell(self._advice)
        return [about({"image_id": name}, self.prompt, readers[name]) for name in names]

    def files(self) -> tuple[Path, ...]:
        """Not the list: the items are what it chooses, wherever the choice is from."""
        truth = coco.annotation_files(self._truth) if self.ground_truth is None else [self._truth]
        return (*truth, *([] if self.synonyms is None else [Path(self.synonyms)]))

    def score(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, Ratio]:
        """CHAIR_s, CHAIR_i, recall, objects."""
        objects, truth = self._objects(), self.truth()
        captions = {coco.image_id(line["image_id"]): line[self.answer] for line in lines}
        return chair.score({key: objects(text) for key, text in captions.items()}, truth).figures()

    def shown(self, image_id: str) -> frozenset[str]:
        """The objects of one image."""
        return self.truth()[coco.image_id(image_id)]

    def named(self, text: str) -> Sequence[tuple[str, int]]:
        """The objects that a description names, and where."""
        return placed(self._objects(), text)

    def truth(self) -> dict[str, frozenset[str]]:
        """Image id -> objects, of all images of the task; read once, which takes half a minute."""
        keys = tuple(map(coco.image_id, self._chosen(self._pool())))
        return _ground_truth(self._truth, self.synonyms, self.variant, keys)

    def _objects(self) -> Objects:
        return _objects(self.synonyms, self.variant)

    @property
    def _truth(self) -> Path:
        return Path(self.root, "annotations") if self.ground_truth is None else Path(self.ground_truth)

    @property
    def _year(self) -> str:
        """The year of which the most is there."""

        def there(year: str) -> int:
            folder = Path(self.root, f"val{year}") if self.images is None else Path(self.images)
            files = (Path(self.root, "annotations", f"{name}{year}.json") for name in coco.FILES)
            return (folder.name == f"val{year}" and folder.is_dir()) + sum(file.is_file() for file in files)

        return max(coco.YEARS, key=there)

    @property
    def _folder(self) -> Path:
        return Path(self.root, f"val{self._year}") if self.images is None else Path(self.images)

    @property
    def _advice(self) -> str:
        year = self._year
        return (
            f"get val{year}.zip and annotations_trainval{year}.zip from cocodataset.org/#download and unpack "
            f"both in {self.root}, for {self.root}/val{year}/{NAMES[year].format(42)} and "
            f"{self.root}/annotations/instances_val{year}.json"
        )

    def _chosen(self, pool: Mapping[str, str]) -> Sequence[str]:
        """File names of the images of the task."""
        if self.list is not None:
            return [pool[key] for key in _listed(Path(self.list), pool)]
        if self.n is None:
            return [*pool.values()]
        if self.n + self.after > len(pool):
            told = f"n={self.n}" + (f" after {self.after} others" if self.after else "")
            raise UsageError(f"{told} is more than the {len(pool)} images that there are; n=null takes all")
        before = {*_drawn([*pool.values()], self.after, self.seed)}
        return _drawn([name for name in pool.values() if name not in before], self.n, self.seed)

    def _pool(self) -> dict[str, str]:
        """Image id -> file name, of all images that have a truth, in the order of their ids."""
        if self.ground_truth is None:
            return _validation(Path(self.root, "annotations", f"captions_val{self._year}.json"))
        known = coco.ground_truth(self._truth, self._objects())
        return {key: NAMES[self._year].format(int(key)) for key in sorted(known, key=int)}


def _drawn(names: Sequence[str], n: int, seed: int) -> Sequence[str]:
    return random.Random(seed).sample(names, n)


def _listed(path: Path, pool: Mapping[str, str]) -> Sequence[str]:
    """Image ids of a list file. Raises: UsageError that names the lines that are wrong."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the list of images {path}: {error}") from None
    found, wrong = dict[str, None](), list[str]()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            key = coco.image_id(line.strip())
        except UsageError:
            wrong.append(f"line {number} is no COCO image: {line.strip()!r}")
            continue
        if key in found:
            wrong.append(f"line {number}: {line.strip()} stands there twice")
        elif key not in pool:
            wrong.append(f"line {number}: {line.strip()} is none of the {len(pool)} images with a truth")
        found[key] = None
    if wrong:
        raise UsageError(f"{path}: {len(wrong)} wrong: {'; '.join(wrong[:5])}")
    if not found:
        raise UsageError(f"{path} is an empty data set; expected an image a line, such as 226988")
    return [*found]


@cache
def _validation(path: Path) -> dict[str, str]:
    """Image id -> file name, of the images that COCO's captions list."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["images"]
        names = {str(image["id"]): str(image["file_name"]) for image in listed}
        return {key: names[key] for key in sorted(names, key=int)}
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not in the form of COCO's captions: {error!r}") from None


@cache
def _objects(synonyms: str | None, variant: str) -> Objects:
    return Objects(Vocabulary.read(synonyms), variant)


@cache
def _ground_truth(
    path: Path, synonyms: str | None, variant: str, keys: tuple[str, ...]
) -> dict[str, frozenset[str]]:
    return coco.ground_truth(path, _objects(synonyms, variant), keys)
