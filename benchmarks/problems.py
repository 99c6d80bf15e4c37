"""What went wrong with single items, and what was done to images: counted, named, and kept with the run."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.answered import Line


class Problems:
    """Errors and converted images of a run, one entry for all methods of a model that met the same."""

    def __init__(self) -> None:
        self._methods: dict[tuple[str, str, str, str, str], list[str]] = {}

    def note(self, model: str, method: str, task: str, lines: Sequence[Line]) -> None:
        """Takes what the lines of one file tell; a line's first entry names its item."""
        for line in lines:
            told = {"error": line.get("error"), "converted": ", ".join(line.get("converted", ()))}
            for kind, what in told.items():
                if what:
                    key = (model, task, str(next(iter(line.values()))), kind, what)
                    methods = self._methods.setdefault(key, [])
                    if method not in methods:
                        methods.append(method)

    def rows(self) -> list[dict[str, Any]]:
        """problems.json: model, task, item, kind (error, or converted from a mode), what it is, methods."""
        names = ("model", "task", "item", "kind", "what")
        return [dict(zip(names, key, strict=True)) | {"methods": m} for key, m in self._methods.items()]

    def errors(self) -> list[tuple[str, str]]:
        """(item, why it has no answer), each once."""
        return sorted({(item, what) for _, _, item, kind, what in self._methods if kind == "error"})

    def converted(self) -> dict[str, int]:
        """Mode -> images that had it and were converted to RGB."""
        found = {(item, what) for _, _, item, kind, what in self._methods if kind == "converted"}
        return dict(sorted(Counter(what for _, what in found).items()))
