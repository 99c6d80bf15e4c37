"""One model type through all checks, to what is written about it."""

import traceback
import warnings
from collections.abc import Callable

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from benchmarks.conformance import checks
from benchmarks.conformance.kinds import ROWS, Kind
from benchmarks.conformance.outcome import PASS, Outcome
from benchmarks.conformance.subject import Subject, build
from benchmarks.conformance.types import KINDS
from mutation_decode import Anatomy

UNKNOWN = Kind(without_pictures="how it takes them is not written down here")
"""A type that is newer than this list."""


def conform(name: str) -> Outcome:
    """Builds a miniature of a model type, and puts it through the checks."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    pictures = name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return of_kind(name, KINDS.get(name, UNKNOWN if pictures else Kind()))


def of_kind(name: str, kind: Kind) -> Outcome:
    """What comes of a model type with these settings."""
    notes = [f"without pictures: {kind.without_pictures}"] if kind.without_pictures else []

    def neither(why: str) -> Outcome:
        return Outcome(why, why, tuple(notes))

    try:
        subject = build(name, kind)
    except Exception as error:
        return neither(f"cannot be built: {said(error)}")
    if not callable(getattr(subject.model, "generate", None)):
        return neither(f"{type(subject.model).__name__} has no generate")
    try:
        checks.picture_matters(subject)
        before = subject.generate(*range(ROWS))
    except Exception as error:
        return neither(f"does not generate: {said(error)}")

    try:
        parts, how = checks.find_parts(subject)
        checks.last_block(subject, parts)
    except Exception as error:
        return neither(said(error))
    notes += [how] if how else []

    def passed(*what: Callable[[Subject, Anatomy], str | None]) -> str:
        try:
            told = [check(subject, parts) for check in what]
            checks.closed(subject, before)
        except Exception as error:
            return said(error)
        notes.extend(note for note in told if note)
        return PASS

    contrast = passed(checks.readouts, checks.hooked, checks.acts, checks.alone)
    return Outcome(contrast, passed(checks.skip), tuple(notes))


def said(error: BaseException) -> str:
    """What an error says, in one line; its kind too, unless it is one of the library or of the checks."""
    text = " ".join(str(error).split())
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    ours = str(frame.f_globals["__name__"]).startswith(("mutation_decode.", checks.__name__))
    return text if ours else f"{type(error).__name__}: {text}"
