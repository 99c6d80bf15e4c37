"""What went wrong with single items, and what was done to images: counted, named, and kept with the run."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.answered import Line


class Problems:
    """Errors, converted images and rows left out, one entry for all methods of a model that met the same."""

    def __init__(self) -> None:
        self._methods: dict[tuple[str, str, str, str, str], list[str]] = {}

    def note(self, model: str, method: str, task: str, lines: Sequence[Line]) -> None:
        """Takes what the lines of one file tell; a line's first entry names its item."""
        for line in lines:
            if "error" in line:
                self._add(model, method, task, str(next(iter(line.values()))), "error", line["error"])
            if "converted" in line:
                self._add(model, method, task, line["image_id"], "converted", ", ".join(line["converted"]))

    def leave_out(self, model: str, method: str, task: str, why: str) -> None:
        """Notes that there is no row for a method on a task."""
        self._add(model, method, task, "", "left out", why)

    def _add(self, model: str, method: str, task: str, item: str, kind: str, what: str) -> None:
        methods = self._methods.setdefault((model, task, item, kind, what), [])
        if method not in methods:
            methods.append(method)

    def rows(self) -> list[dict[str, Any]]:
        """problems.json: model, task, item, kind (error, converted from a mode, left out), what, methods."""
        names = ("model", "task", "item", "kind", "what")
        return [dict(zip(names, key, strict=True)) | {"methods": m} for key, m in self._methods.items()]

    def errors(self) -> list[tuple[str, str, str]]:
        """(task, item, why it has no answer), each once."""
        return sorted({(task, item, what) for _, task, item, kind, what in self._methods if kind == "error"})

    def left_out(self) -> list[str]:
        """A sentence for each group of rows that could not be made."""
        return [
            f"{model}, {task}, {', '.join(methods)}: {what}"
            for (model, task, _, kind, what), methods in self._methods.items()
            if kind == "left out"
        ]

    def converted(self) -> dict[str, int]:
        """Mode -> images that had it and were converted to RGB; an image counts once a task."""
        found = {(task, item, what) for _, task, item, kind, what in self._methods if kind == "converted"}
        return dict(sorted(Counter(what for _, _, what in found).items()))
