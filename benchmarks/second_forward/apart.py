"""What models keep on themselves from one forward to the next: each of two uses has its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Any

from torch import Tensor

_GONE = object()
_Stores = Sequence[dict[str, Any]]


class Apart:
    """A second use of a model, whose traces on its modules the first use does not meet.

    Qwen-VL keeps the offset of its positions on the model, some rotary embeddings the longest text they saw.
    Which attributes and buffers these are is not known beforehand: a tensor or a number that is another
    object after the second use than it was before is put back, and given to the next second use. The first
    second use starts from what is there now. What is true or false stays, since it says what a model set up
    at its first use, and a tensor that a model overwrites in place would not be seen.
    """

    def __init__(self, model: Any) -> None:
        self._stores = [store for module in model.modules() for store in (vars(module), module._buffers)]
        self._own: dict[tuple[int, str], Any] = {}
        self._start: list[dict[str, Any]] | None = self._taken()

    @contextmanager
    def on(self) -> Iterator[None]:
        """The second use."""
        before = self._taken()
        if self._start is not None:
            self._own = {(index, name): value for index, name, value in self._changes(before, self._start)}
            self._start = None
        for (index, name), value in self._own.items():
            _put(self._stores[index], name, value)
        try:
            yield
        finally:
            for index, name in self._own:  # one may have become what it is for the first use too
                self._own[index, name] = self._stores[index].get(name, _GONE)
            for index, name, value in list(self._changes(before, self._stores)):
                self._own[index, name] = value
                _put(self._stores[index], name, before[index].get(name, _GONE))

    def _taken(self) -> list[dict[str, Any]]:
        return [dict(store) for store in self._stores]

    @staticmethod
    def _changes(old: _Stores, new: _Stores) -> Iterator[tuple[int, str, Any]]:
        """What is another object in ``new``: where, under which name, and the object, or _GONE."""
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            if len(before) != len(after) or not all(map(is_, before.values(), after.values())):
                for name in before.keys() | after.keys():
                    then, now = before.get(name, _GONE), after.get(name, _GONE)
                    if then is not now and (_tells(then) or _tells(now)):
                        yield index, name, now


def _tells(value: Any) -> bool:
    return isinstance(value, Tensor | int | float) and not isinstance(value, bool)


def _put(store: dict[str, Any], name: str, value: Any) -> None:
    if value is _GONE:
        store.pop(name, None)
    else:
        store[name] = value
