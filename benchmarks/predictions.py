"""Files of answers, made anywhere: JSON or JSON Lines, with the field names that are in use."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.usage import UsageError

IDS = ("question_id", "image_id", "id")
ANSWERS = ("caption", "response", "text", "answer")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer: what it answers, as text, the answer itself, and its entry in the file."""

    key: str
    answer: str
    entry: Mapping[str, Any]


def predictions(
    path: Path, *, ids: Sequence[str] = IDS, answers: Sequence[str] = ANSWERS
) -> list[Prediction]:
    """The answers in a file, in its order; an entry with an ``error`` in place of an answer holds none.

    Args:
        ids, answers: the names that the two fields may have; the first that an entry has counts.

    Raises: UsageError when the file is not there, is not JSON (with the line), or holds nothing, and
        when an entry lacks a field.
    """
    found = []
    for number, entry in enumerate(entries(path), start=1):
        if not isinstance(entry, dict):
            raise UsageError(f"{path}, entry {number}: expected an object, got {type(entry).__name__}")
        if _failed(entry):
            continue
        key = next((name for name in ids if name in entry), None)
        answer = next((name for name in answers if name in entry), None)
        if key is None or answer is None:
            wanted = ids if key is None else answers
            raise UsageError(
                f"{path}, entry {number}: no {' or '.join(wanted)} in it, only {', '.join(map(str, entry))}"
            )
        if not isinstance(entry[answer], str):
            raise UsageError(f"{path}, entry {number}: {answer} is no text but {entry[answer]!r}")
        found.append(Prediction(str(entry[key]), entry[answer], entry))
    if not found:
        raise UsageError(f"{path} holds no answers")
    return found


def failed(path: Path) -> int:
    """How many entries of a run's file have an ``error`` in place of an answer."""
    return sum(_failed(entry) for entry in entries(path))


def _failed(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("error"), str) and not {*ANSWERS} & entry.keys()


def entries(path: Path) -> list[Any]:
    """A JSON list, or the values of JSON Lines. Raises: UsageError, with the line of what is no JSON."""
    text = content(path).decode("utf-8-sig", errors="replace")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if text.lstrip().startswith("["):
        try:
            whole = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}, line {error.lineno}: no JSON ({error.msg})") from error
        return list(whole)
    found = []
    for number, line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}, line {number}: no JSON ({error.msg})") from error
    return found


def content(path: Path) -> bytes:
    """The bytes of a file. Raises: UsageError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def checksum(path: Path) -> str:
    """``md5:...`` of a file, as the field's data sets are told apart."""
    try:
        with path.open("rb") as file:
            return "md5:" + hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
