"""``python -m benchmarks.conformance [types=a,b] [json=FILE] [table=FILE] [processes=N]``.

Every image-text-to-text type of the installed transformers and some families of text, in miniature: one line
a type with what passed, or the reason why not.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from benchmarks.conformance import table
from benchmarks.conformance.conform import conform
from benchmarks.conformance.isolated import outcomes
from benchmarks.conformance.outcome import Outcome
from benchmarks.conformance.types import TEXT
from benchmarks.usage import UsageError, nearest

KEYS = {"types": "", "json": "", "table": "", "processes": ""}
"""Keys of the command: which types (all), where to write, and how many at a time (one a core)."""


def run(words: list[str]) -> None:
    """Prints a line a type. Raises: UsageError before anything is done."""
    settings = _settings(words)
    names = _types(settings["types"])
    processes = settings["processes"] or str(os.cpu_count() or 1)
    if not processes.isdecimal() or int(processes) == 0:
        raise UsageError(f"processes={processes}; expected a whole number, at least 1")
    files = {key: Path(settings[key]) for key in ("json", "table") if settings[key]}
    for key, file in files.items():
        if file.is_dir() or not os.access(file.parent, os.W_OK):
            raise UsageError(f"{key}={file}; expected a file in a folder that is there and may be written to")
    if len({file.absolute() for file in files.values()}) < len(files):
        raise UsageError(f"json={settings['json']} and table={settings['table']} are the same file")
    found: dict[str, Outcome] = {}
    for name, outcome in zip(names, outcomes(conform, names, processes=int(processes)), strict=True):
        found[name] = outcome
        print(outcome.line(name), flush=True)
    print(table.count(found))
    texts = {"json": lambda: _json(found), "table": lambda: table.document(found)}
    for key, file in files.items():
        _write(file, texts[key]())


def _settings(words: list[str]) -> dict[str, str]:
    settings = dict(KEYS)
    for word in words:
        key, found, value = word.partition("=")
        if not found or key not in KEYS:
            raise UsageError(f"{word}: expected key=value; {nearest(key, KEYS)}")
        settings[key] = value
    return settings


def _types(chosen: str) -> list[str]:
    """The types that were named; all types that take pictures, and the families of text, if none was."""
    known = {**MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, **MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
    if not chosen:
        return [*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, *(name for name in TEXT if name in known)]
    names = [name for word in chosen.strip("[]").split(",") if (name := word.strip())]
    for name in names:
        if name not in known:
            raise UsageError(f"unknown model type {name!r}: {nearest(name, known)}")
    return list(dict.fromkeys(names))


def _json(found: Mapping[str, Outcome]) -> str:
    plain = {name: {"contrast": each.contrast, "skip": each.skip} for name, each in found.items()}
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def _write(file: Path, text: str) -> None:
    """All of it or nothing."""
    half = file.with_name(f"{file.name}.part")
    half.write_text(text, encoding="utf-8")
    half.replace(file)


def main() -> None:
    """Exit code 0, or 2 with one line on stderr."""
    try:
        run(sys.argv[1:])
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
