"""``python -m benchmarks.prepare task=amber root=DIR``: whether a folder of data is whole, before a long run.

Reads every file, opens every image, and says what is there, what is missing or damaged, and where to get it.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.predictions import checksum
from benchmarks.score import command, once
from benchmarks.tasks import Item, Task, coco, pope_questions
from benchmarks.tasks.amber_task import Discriminative, Generative
from benchmarks.tasks.captions import NAMES, Captions
from benchmarks.tasks.missing import MissingError
from benchmarks.tasks.pope_questions import STRATEGIES
from benchmarks.tasks.pope_task import Pope
from benchmarks.usage import UsageError, nearest

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Data:
    """What a folder should hold: the tasks over it, its keys with their defaults, where its images are."""

    tasks: Callable[[Settings], dict[str, Task]]
    keys: Settings
    source: str


def _chair(given: Settings) -> dict[str, Task]:
    how: Settings = {"ground_truth": None, "after": 0, "variant": "original", "synonyms": None}
    return {"captions": Captions(**given, **how, prompt="", max_new_tokens=1)}


def _amber(given: Settings) -> dict[str, Task]:
    how: Settings = {"nouns": "table", "similarity": "exact", "similarity_table": None}  # asks for no package
    return {
        "generative": Generative(**given, **how, prompt=None, max_new_tokens=1),
        "discriminative": Discriminative(**given, parser="official", prompt=None, max_new_tokens=1),
    }


def _pope(given: Settings) -> dict[str, Task]:
    root, n = Path(os.path.abspath(given["root"])), given["n"]  # of . too there is a parent
    if given["build"] == "true":
        _build(root, Path(given["annotations"] or root.parent / "coco" / "annotations"), n, given["seed"])
        n = None
    how: Settings = {"n": n, "parser": "official", "prompt": None, "max_new_tokens": 1}
    images = given["images"] or str(root.parent / "coco" / "val2014")
    return {name: Pope(questions=str(root / _file(name)), images=images, **how) for name in STRATEGIES}


def _file(strategy: str) -> str:
    return f"coco_pope_{strategy}.json"


DATA: Mapping[str, Data] = {
    "chair": Data(
        _chair,
        {"root": None, "images": None, "list": None, "n": None, "seed": 0},
        "val2014.zip of cocodataset.org/#download",
    ),
    "amber": Data(
        _amber,
        {"root": None, "images": None, "n": None},
        "what the README of github.com/junyangwang0410/AMBER links to",
    ),
    "pope": Data(
        _pope,
        {"root": None, "images": None, "n": None, "build": "false", "seed": 1, "annotations": None},
        "val2014.zip of cocodataset.org/#download",
    ),
}


def run(words: Sequence[str]) -> None:
    """Prints what was found. Raises: UsageError on a word that means nothing, and on a folder not whole."""
    name, given = _settings(words)
    wrong, files, items = list[str](), list[Path](), list[Item]()
    for part, task in DATA[name].tasks(given).items():
        try:
            asked = task.items()
            print(f"{part}: {len(asked):,} items; {_truth(task)}")
        except UsageError as error:
            wrong += error.parts if isinstance(error, MissingError) else [str(error)]
            continue
        items += asked
        files += task.files()
    for path in dict.fromkeys(files):
        print(f"{path}: {path.stat().st_size:,} bytes, {checksum(path)}")
    wrong += _unread(items, DATA[name].source)
    for line in dict.fromkeys(wrong):
        print(f"not whole: {line}")
    if wrong:
        raise UsageError(f"{given['root']} is not whole; what is missing or damaged stands above")
    print(f"{given['root']} is whole")


def _truth(task: Task) -> str:
    """What there is to score by. Raises: UsageError when it cannot be read."""
    match task:
        case Captions():
            truth = task.truth()
            return f"their images hold {sum(map(len, truth.values())):,} objects, by annotation or caption"
        case Pope():
            read = pope_questions.read(*task.files())
            typos = f", {read.typos:,} of which spell it imange" if read.typos else ""
            return f"the file has {read.count:,} questions{typos}; official ones have 3,000, or 2,910"
        case Generative():
            return "officially 1,004"
        case _:
            return "officially 14,216"


def _settings(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    given: dict[str, Any] = dict(once(words))
    name = given.pop("task", "")
    if name not in DATA:
        raise UsageError(f"unknown task {name!r}: {nearest(name, DATA)}; give task=...")
    known = DATA[name].keys
    for key in given.keys() - known.keys():
        raise UsageError(f"unknown key {key}: {nearest(key, {'task', *known})}")
    settings = {**known, **{key: None if value == "null" else value for key, value in given.items()}}
    if not settings["root"]:
        raise UsageError("root must be given: root=DIR, the folder with the data")
    if settings.get("build", "false") not in ("true", "false"):
        raise UsageError(f"build={settings['build']}; expected true or false")
    for key in ("n", "seed"):
        if isinstance(value := settings.get(key), str):
            if not value.isdecimal() or (key == "n" and int(value) == 0):
                raise UsageError(f"{key}={value}; expected a whole number, at least {int(key == 'n')}")
            settings[key] = int(value)
    return name, settings


def _unread(items: Sequence[Item], source: str) -> list[str]:
    """Reads every image once and prints how many can be; what there is to say of the others."""
    readers = {item.image_id: item.turns[0].images[0] for item in items}
    missing, damaged, modes = list[str](), list[str](), Counter[str]()
    for name, read in tqdm(readers.items(), desc="images", unit=" images", disable=None):
        try:
            modes[read().mode] += 1
        except FileNotFoundError:
            missing.append(name)
        except (OSError, ValueError) as error:
            damaged.append(f"{name} ({error})")
    if readers:
        told = ", ".join(f"{count:,} {mode}" for mode, count in modes.most_common())
        print(f"{modes.total():,} of {len(readers):,} images can be read: {told or 'none'}")
    return [
        f"{what} images: {len(names):,}, the first of them {', '.join(names[:5])}; they are in {source}"
        for what, names in (("missing", missing), ("damaged", damaged))
        if names
    ]


def _build(root: Path, annotations: Path, n: int | None, seed: int) -> None:
    """Writes question files about annotated images, as POPE's own script does."""
    there = [_file(name) for name in STRATEGIES if (root / _file(name)).exists()]
    if there:
        raise UsageError(f"{root} holds {', '.join(there)} already; build=true is for a folder without them")
    objects: dict[str, dict[str, None]] = {}
    for key, category in coco.entries(annotations / "instances_val2014.json", None):
        objects.setdefault(NAMES["2014"].format(int(key)), {})[category] = None
    try:
        built = pope_questions.build(
            {image: [*names] for image, names in objects.items()}, seed=seed, images=n or 500
        )
        root.mkdir(parents=True, exist_ok=True)
        for name, questions in built.items():
            pope_questions.write(root / _file(name), questions)
    except ValueError as error:
        raise UsageError(f"cannot build questions: {error}") from error
    except OSError as error:
        raise UsageError(f"{root}: {error.strerror}") from error


def main() -> None:
    """See `run`."""
    command(run)


if __name__ == "__main__":
    main()
