"""One model type through all checks, to what is written about it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.conformance import checks
from benchmarks.conformance.kinds import ROWS, Kind
from benchmarks.conformance.subject import build

PASS = "pass"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a model type.

    Attributes:
        contrast: "pass", or why its layers cannot be read; then nothing else was tried.
        skip: "pass", or why blocks cannot be left out.
        notes: what holds beside that.
    """

    contrast: str
    skip: str
    notes: tuple[str, ...] = ()


def conform(name: str, kind: Kind) -> Outcome:
    """Builds a miniature of a model type, and puts it through the checks."""
    try:
        subject = build(name, kind)
    except Exception as error:
        why = f"cannot be built: {said(error)}"
        return Outcome(why, why)
    if not callable(getattr(subject.model, "generate", None)):
        why = f"{type(subject.model).__name__} has no generate"
        return Outcome(why, why)
    notes: list[str] = [f"without pictures: {kind.without_pictures}"] if kind.without_pictures else []
    try:
        checks.picture_matters(subject)
        before = subject.generate(*range(ROWS))
    except Exception as error:
        why = f"does not generate: {said(error)}"
        return Outcome(why, why)

    def outcome(*what: Callable[..., Any]) -> str:
        try:
            parts, how = checks.find_parts(subject)
            for check in what:
                notes.extend(note for note in (check(subject, parts),) if note)
            checks.closed(subject, before)
        except Exception as error:
            return said(error)
        notes.extend([how] if how and how not in notes else [])
        return PASS

    contrast = outcome(checks.last_block, checks.readouts, checks.hooked, checks.acts, checks.alone)
    return Outcome(contrast, outcome(checks.skip), tuple(notes))


def said(error: BaseException) -> str:
    """What an error says, in one line; the kind of error too, unless it was raised for people to read."""
    text = " ".join(str(error).split())
    return text if isinstance(error, checks.CheckError) else f"{type(error).__name__}: {text}"
