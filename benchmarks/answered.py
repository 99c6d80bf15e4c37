"""The answers to one task on the disk, batch by batch: what a killed run left counts, in whole batches.

One process appends to the file itself. Several append to a part each, one line a batch; when all have come to
the end, the first one puts the parts in order. Parts that a lost run left are gone on with by any number of
processes.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.tasks import Item
from benchmarks.usage import UsageError

Line = dict[str, Any]


class Answered:
    """The answers in ``path`` (JSON Lines, in the order of the items) and in the parts beside it.

    All processes build one, and call its methods, in step.

    Args:
        retry: batches in which an item has an error in place of an answer count as not answered.

    Attributes:
        open: the numbers of the batches that have no answers yet.

    Raises: UsageError when there are answers to other items than those of ``batches``.
    """

    def __init__(self, path: Path, batches: Sequence[Sequence[Item]], *, retry: bool = False) -> None:
        self._path = path
        self._batches = batches
        if processes.rank() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut(path, batches)
            if retry:
                _without_errors(path, batches)
        processes.wait()
        self._found = _in_order(path, batches) | _in_parts(path, batches)
        self.open = [number for number in range(len(batches)) if number not in self._found]
        processes.wait()  # nobody writes before all have read

    @contextmanager
    def appending(self) -> Iterator[Callable[[int, list[Line]], None]]:
        """A function that keeps a batch's lines for good, given its number."""
        alone = processes.count() == 1 and not _parts(self._path)
        path = self._path if alone else self._path.with_suffix(f".{processes.rank()}.part")
        if not alone:
            _cut_half_line(path)
        with path.open("a", encoding="utf-8") as file:

            def append(number: int, lines: list[Line]) -> None:
                written = lines if alone else [{"batch": number, "lines": lines}]
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in written)
                file.flush()
                self._found[number] = lines

            yield append

    def lines(self) -> list[Line]:
        """All lines, in the order of the items; every batch must have been answered by one process."""
        processes.wait()
        parts = _parts(self._path)
        if parts:
            self._found |= _in_parts(self._path, self._batches)
            processes.wait()
            if processes.rank() == 0:
                ordered = [line for number in range(len(self._batches)) for line in self._found[number]]
                partial = self._path.with_suffix(".partial")
                partial.write_text(
                    "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in ordered), "utf-8"
                )
                partial.replace(self._path)
                for part in parts:
                    part.unlink()
        processes.wait()
        return [line for number in range(len(self._batches)) for line in self._found[number]]


def _parts(path: Path) -> list[Path]:
    named = re.compile(re.escape(path.stem) + r"\.\d+\.part")
    return sorted(part for part in path.parent.glob("*.part") if named.fullmatch(part.name))


def _cut(path: Path, batches: Sequence[Sequence[Item]]) -> None:
    """Leaves whole batches in the file; what follows them, half-written or not, is cut off."""
    if path.exists():
        written = path.read_bytes().splitlines(keepends=True)
        whole = sum(len(batches[number]) for number in _in_order(path, batches))
        with path.open("r+b") as file:
            file.truncate(sum(map(len, written[:whole])))


def _without_errors(path: Path, batches: Sequence[Sequence[Item]]) -> None:
    """Leaves the batches without an error among them, as a part; the others are put in their place later."""
    found = _in_order(path, batches) | _in_parts(path, batches)
    good = {number: lines for number, lines in found.items() if not any("error" in line for line in lines)}
    if len(good) == len(found):
        return
    kept = [{"batch": number, "lines": lines} for number, lines in good.items()]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in kept), "utf-8")
    first = path.with_suffix(".0.part")
    others = [file for file in (path, *_parts(path)) if file != first]
    partial.replace(first)
    for file in others:
        file.unlink(missing_ok=True)


def _cut_half_line(path: Path) -> None:
    if path.exists():
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _in_order(path: Path, batches: Sequence[Sequence[Item]]) -> dict[int, list[Line]]:
    """The whole batches that the file begins with."""
    content = path.read_bytes() if path.exists() else b""
    written = content[: content.rfind(b"\n") + 1].splitlines()
    found, start = {}, 0
    for number, batch in enumerate(batches):
        if start + len(batch) > len(written):
            break
        found[number] = _read(path, written[start : start + len(batch)], batch)
        start += len(batch)
    return found


def _in_parts(path: Path, batches: Sequence[Sequence[Item]]) -> dict[int, list[Line]]:
    """The batches in the parts; a half-written line, the last of a part, is none."""
    found = {}
    for part in _parts(path):
        content = part.read_bytes()
        for written in content[: content.rfind(b"\n") + 1].splitlines():
            entry = json.loads(written)
            if entry["batch"] >= len(batches):
                raise _others(part)
            _check(part, entry["lines"], batches[entry["batch"]])
            found[entry["batch"]] = entry["lines"]
    return found


def _read(path: Path, written: Sequence[bytes], batch: Sequence[Item]) -> list[Line]:
    try:
        lines = [json.loads(line) for line in written]
    except ValueError:
        raise _others(path) from None
    _check(path, lines, batch)
    return lines


def _check(path: Path, lines: Sequence[Line], batch: Sequence[Item]) -> None:
    same = len(lines) == len(batch) and all(
        isinstance(line, dict) and all(line.get(key) == value for key, value in item.record.items())
        for line, item in zip(lines, batch, strict=True)
    )
    if not same:
        raise _others(path)


def _others(path: Path) -> UsageError:
    return UsageError(
        f"{path} holds answers to other items than this run's; replace them with overwrite=true"
    )
