"""Values of a ``_target_`` node against the annotations of the dataclass that it names."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

WORDS: Mapping[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    types.NoneType: "null",
    **dict.fromkeys((dict, Mapping), "a mapping"),
    **dict.fromkeys((list, tuple, Sequence), "a list"),
}
"""What can be judged, in words."""


def mistyped(kind: Any, values: Mapping[str, Any]) -> str | None:
    """``n must be a whole number or null, got 'four'`` of the first wrong value; None if all may be right.

    Args:
        kind: a class; of one that is no dataclass nothing is known.
        values: as YAML has them; what is a node with a ``_target_`` of its own is passed over.
    """
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return None
    hints = get_type_hints(kind)
    for name in (field.name for field in fields(kind) if field.init and field.name in values):
        value, allowed = values[name], _alternatives(hints[name])
        node = isinstance(value, Mapping) and "_target_" in value
        if not node and all(each in WORDS for each in allowed) and not any(_is(value, k) for k in allowed):
            words = list(dict.fromkeys(WORDS[each] for each in allowed))
            expected = " or ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
            return f"{name} must be {expected}, got {shown(value)}"
    return None


def _alternatives(hint: Any) -> list[Any]:
    """Of ``int | Mapping[str, Any] | None``: int, Mapping, NoneType."""
    if get_origin(hint) in (Union, types.UnionType):
        return [kind for each in get_args(hint) for kind in _alternatives(each)]
    return [get_origin(hint) or hint]


def _is(value: Any, kind: Any) -> bool:
    """A true is no number, a text no list, and a whole number is a number too."""
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, str):
        return kind is str
    return isinstance(value, (int, float) if kind is float else kind)


def shown(value: Any) -> str:
    """A value as YAML would have it, text in quotes."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)
