"""Ground truth of COCO images for CHAIR: the annotated objects, and those that the five captions mention.

Official code: github.com/LisaAnne/Hallucination (utils/chair.py at a967f2f); data: cocodataset.org.
Example: image 226988 (COCO_val2014_000000226988.jpg): dining table, person, pizza.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from benchmarks.tasks.coco_objects import Objects
from benchmarks.usage import UsageError

FILES = ("instances_train", "instances_val", "captions_train", "captions_val")
YEARS = ("2014", "2017")
"""Both divide the same images; the official code reads 2014."""

KEPT = frozenset({"annotations", "categories", "id", "name", "image_id", "category_id", "caption"})
"""What is used of a COCO file."""

NUMBERS = re.compile(r":\s*\[[\s\[]*-?[0-9][-+0-9.,eE\s\[\]]*\]")
"""Outlines and boxes, most of a file of up to 450 MB: they go before it is parsed, or it would take 2 GB."""

CHUNK = 2**24
"""Characters read at a time."""

IMAGE = re.compile(r"(?:COCO_(?:train|val|test)[0-9]{4}_)?([0-9]+)(?:\.(?:jpg|png))?")


def image_id(value: int | str) -> str:
    """COCO's own form, "226988", of 226988, "000000226988.jpg" or "COCO_val2014_000000226988.jpg".

    Raises: UsageError on anything else.
    """
    found = IMAGE.fullmatch(str(value).rpartition("/")[2])
    if found is None:
        raise UsageError(
            f"expected a COCO image such as 226988 or 'COCO_val2014_000000226988.jpg', got {value!r}"
        )
    return str(int(found[1]))


def ground_truth(
    path: str | Path, objects: Objects, image_ids: Iterable[int | str] | None = None
) -> dict[str, frozenset[str]]:
    """Image id -> the objects that are in the image; in the order of ``image_ids``, where these are given.

    Args:
        path: a folder with COCO's instances and captions of both splits, of 2014 or 2017; or a JSON file,
            image id -> list of objects, which is taken as it is.
        objects: finds the objects of the captions; the one that reads what is to be scored.
        image_ids: the images wanted, in any form that ``image_id`` takes; None: all there are. Captions of
            others are not read, which saves minutes.

    Raises: UsageError on files that are missing, damaged or of another form, and on unknown images.
    """
    path = Path(path)
    wanted = None if image_ids is None else dict.fromkeys(map(image_id, image_ids))
    truth = _annotated(path, objects, wanted) if path.is_dir() else _prepared(path, objects)
    if wanted is None:
        return truth
    unknown = [key for key in wanted if key not in truth]
    if unknown:
        raise UsageError(f"{path} knows nothing of {len(unknown)} images, the first of them {unknown[:5]}")
    return {key: truth[key] for key in wanted}


def _prepared(path: Path, objects: Objects) -> dict[str, frozenset[str]]:
    table = _load(path)
    if not isinstance(table, dict) or not all(isinstance(listed, list) for listed in table.values()):
        raise UsageError(f"{path}: expected a JSON object, image id -> list of objects")
    known = objects.vocabulary.objects
    for key, listed in table.items():
        strange = [name for name in listed if name not in known]
        if strange:
            raise UsageError(f"{path}: image {key} has {strange[:5]}, which the synonym table does not list")
    truth = {image_id(key): frozenset(listed) for key, listed in table.items()}
    if len(truth) != len(table):
        raise UsageError(f"{path} lists {len(table) - len(truth)} images twice, under two forms of their id")
    return truth


def _annotated(
    folder: Path, objects: Objects, wanted: Mapping[str, None] | None
) -> dict[str, frozenset[str]]:
    words, truth = objects.vocabulary.words, dict[str, set[str]]()
    for file in annotation_files(folder):
        for key, text in entries(file, wanted):
            if file.name.startswith("captions"):
                found = objects(text)
            elif text in words:
                found = [words[text]]
            else:
                raise UsageError(f"the synonym table lacks the category {text!r} of {file}")
            truth.setdefault(key, set()).update(found)
    return {key: frozenset(found) for key, found in truth.items()}


def entries(file: Path, wanted: Mapping[str, None] | None) -> list[tuple[str, str]]:
    """(image id, category or caption) of each annotation of a wanted image."""
    data = _load(file, KEPT)
    try:
        names = {category["id"]: category["name"] for category in data.get("categories", ())}
        return [
            (key, line["caption"] if "caption" in line else names[line["category_id"]])
            for line in data["annotations"]
            if (key := str(line["image_id"])) and (wanted is None or key in wanted)
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is not in the form of COCO's annotations: {error!r}") from error


def annotation_files(folder: Path) -> list[Path]:
    """The four files of the year of which the folder has the most."""
    years = {year: [folder / f"{name}{year}.json" for name in FILES] for year in YEARS}
    year = max(YEARS, key=lambda year: sum(file.is_file() for file in years[year]))
    there = [file.name for file in years[year] if file.is_file()]
    missing = [file.name for file in years[year] if not file.is_file()]
    if missing:
        raise UsageError(
            f"{folder} has {', '.join(there) or 'none of the annotations'} and lacks {', '.join(missing)}: "
            f"they are in annotations_trainval{year}.zip of cocodataset.org/#download"
        )
    return years[year]


def _load(path: Path, kept: frozenset[str] | None = None) -> Any:
    """A JSON file; with ``kept`` one of COCO's, of whose objects only these entries are wanted."""
    try:
        with path.open(encoding="utf-8") as file:
            if kept is None:
                return json.load(file)
            text = "".join(_without_numbers(file))
        return json.loads(text, object_pairs_hook=lambda pairs: {k: v for k, v in pairs if k in kept})
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path} as JSON: {error}") from error


def _without_numbers(file: TextIO) -> Iterator[str]:
    """A file's text with 0 for every list of numbers; cut at quotes, which no such list holds."""
    rest = ""
    while part := file.read(CHUNK):
        whole, quote, rest = (rest + part).rpartition('"')
        yield NUMBERS.sub(":0", whole) + quote
    yield NUMBERS.sub(":0", rest)
