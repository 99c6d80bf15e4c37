"""AMBER's data folder: annotations, relation table, safe words, queries; read and checked as a whole.

Official data: github.com/junyangwang0410/AMBER (data/ at 5e1fd52): 1,004 images to describe, 14,216 yes/no
questions about them. Images are a separate download.
Example: annotation 1005 is ``{"id": 1005, "type": "discriminative-attribute-state", "truth": "yes"}``; its
query is ``{"id": 1005, "image": "AMBER_1.jpg", "query": "Is the sky sunny in this image?"}``.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tasks.amber import COUNTER_START, Item
from benchmarks.tasks.amber_questions import TYPES, Question
from benchmarks.usage import UsageError

QUERIES = tuple(
    f"query/query_{part}.json"
    for part in (
        "generative",
        "discriminative-attribute",
        "discriminative-existence",
        "discriminative-relation",
    )
)


@dataclass(frozen=True, slots=True)
class Files:
    """Everything the two scorers need; ids are text, in the order of the annotations."""

    items: Mapping[str, Item]
    prompts: Mapping[str, tuple[str, str]]
    """Generative id -> (image, what to ask)."""
    questions: Mapping[str, Question]
    associations: Mapping[str, tuple[str, ...]]
    safe_words: tuple[str, ...]
    paths: tuple[Path, ...]
    """The files that all this is from."""

    @property
    def vocabulary(self) -> frozenset[str]:
        """The words that count: every key and every value of the relation table (418 officially)."""
        return frozenset(self.associations).union(*self.associations.values())


def read(
    annotations: str | Path, relation: str | Path | None = None, safe_words: str | Path | None = None
) -> Files:
    """Reads annotations.json, or the folder that holds it; the other files stand beside it, if not given.

    A metrics.txt there is read as numbers, never evaluated: it must hold the published starting values.

    Raises: UsageError that names the file and what is wrong in it.
    """
    path = Path(annotations)
    path = path / "annotations.json" if path.is_dir() else path
    folder = path.parent
    relation, safe_words = Path(relation or folder / "relation.json"), safe_words or folder / "safe_words.txt"
    associations = _associations(relation)
    items, truths = {}, {}
    for entry in _annotations(path):
        if entry["type"] == "generative":
            items[str(entry["id"])] = Item(tuple(entry["truth"]), tuple(entry["hallu"]))
        else:
            truths[str(entry["id"])] = (entry["truth"], entry["type"])
    words = {word for item in items.values() for word in (*item.truth, *item.hallu)}
    _refuse(path, f"words without an entry in {relation.name}", sorted(words - associations.keys()))
    queries = _queries(folder, {*items, *truths})
    if (folder / "metrics.txt").exists():
        started = counters(folder / "metrics.txt")
        other = [name for name, start in started.items() if start != _published(name)]
        _refuse(folder / "metrics.txt", "counters that do not start at the published value", other)
    return Files(
        items,
        {key: queries[key] for key in items},
        {key: Question(*queries[key], truth, kind) for key, (truth, kind) in truths.items()},
        associations,
        tuple(filter(None, _text(Path(safe_words)).split("\n"))),
        (path, relation, Path(safe_words), *(folder / name for name in QUERIES)),
    )


def counters(path: str | Path) -> dict[str, float]:
    """metrics.txt: counter -> where it starts; lines of ``name=number``, blank ones are passed over.

    Raises: UsageError on any other line.
    """
    lines = [line for line in _text(Path(path)).splitlines() if line.strip()]
    found = {}
    for line in lines:
        name, _, number = line.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            _refuse(Path(path), "lines that are not name=number", [line])
    return found


def _published(name: str) -> float:
    return COUNTER_START if name.endswith("_num") else 0.0


def _annotations(path: Path) -> list[dict[str, Any]]:
    entries = _objects(path)
    ids = [entry.get("id") for entry in entries]
    shifted = [f"{key!r} at {place}" for place, key in enumerate(ids, 1) if key != place]
    _refuse(path, "entries whose id is not their place, counted from 1", shifted)
    kinds = {repr(entry.get("type")) for entry in entries if entry.get("type") not in ("generative", *TYPES)}
    _refuse(path, "unknown types", sorted(kinds))
    described = [entry for entry in entries if entry["type"] == "generative"]
    asked = [entry for entry in entries if entry["type"] != "generative"]
    bare = [e["id"] for e in described if not (_is_words(e.get("truth")) and _is_words(e.get("hallu")))]
    _refuse(path, "ids whose truth or hallu is not a list of words", bare)
    labels = [f"{e['id']}: {e.get('truth')!r}" for e in asked if e.get("truth") not in ("yes", "no")]
    _refuse(path, "truths that are neither yes nor no", labels)
    return entries


def _queries(folder: Path, expected: set[str]) -> dict[str, tuple[str, str]]:
    """id -> (image, query) over all query files; without them each id stands for an image of its own."""
    if not (folder / "query").is_dir():
        return {key: (f"of {key}", "") for key in expected}
    found: dict[str, tuple[str, str]] = {}
    for path in (folder / name for name in QUERIES):
        entries = _objects(path)
        keys = [str(entry.get("id")) for entry in entries]
        seen = Counter([*found, *keys])
        _refuse(path, "duplicate ids", [key for key, times in seen.items() if times > 1])
        _refuse(path, "ids that annotations.json does not have", [key for key in keys if key not in expected])
        bare = [
            key
            for key, entry in zip(keys, entries, strict=True)
            if not _is_words([entry.get("image"), entry.get("query")])
        ]
        _refuse(path, "ids without an image and a query", bare)
        found |= {key: (entry["image"], entry["query"]) for key, entry in zip(keys, entries, strict=True)}
    missing = sorted(expected - found.keys(), key=int)
    _refuse(folder / "query", "annotated ids without a query", missing)
    return found


def _associations(path: Path) -> dict[str, tuple[str, ...]]:
    table = _json(path)
    if not isinstance(table, dict):
        raise UsageError(
            f"{path}: expected an object of word -> associated words, got {type(table).__name__}"
        )
    _refuse(
        path, "words whose associations are no list of words", [w for w in table if not _is_words(table[w])]
    )
    return {word: tuple(others) for word, others in table.items()}


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _objects(path: Path) -> list[dict[str, Any]]:
    entries = _json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: expected a list of objects")
    return entries


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: no valid JSON ({error})") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}; expected AMBER's data folder, from github.com/junyangwang0410/AMBER"
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: no text in UTF-8 ({error})") from None


def _refuse(path: Path, what: str, found: Sequence[object]) -> None:
    if found:
        raise UsageError(f"{path}: {len(found)} {what}, the first of them {', '.join(map(str, found[:5]))}")
