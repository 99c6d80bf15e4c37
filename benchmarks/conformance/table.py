"""The outcomes as a page: docs/architectures.md."""

from collections.abc import Iterable, Iterator, Mapping

import torch
import transformers
from tabulate import tabulate
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from benchmarks.conformance.outcome import PASS, Outcome
from benchmarks.conformance.subject import class_name

INTRODUCTION = """\
# Architectures

Made by `make conformance` with transformers {transformers} and torch {torch}; do not edit.

{count}

Each type is built in miniature from its own configuration class, with random weights, and generates for
three left-padded prompts of different lengths, with pictures where the type takes them. The library knows
none of these types by name: the parts of a model are found by watching one forward, and are verified. Two
structures (Gemma 3n's streams, Inkling 2's kept residuals) are told by what their modules are called, and
every class of cache layer has its own way back.

`contrast` passes when, for the prompt and the tokens after it, the last block read with the head is the
model's own logits; earlier readouts are what the model says when all later blocks are the identity; a
processor that reads every layer and moves nothing leaves tokens and logits as they are, bit for bit with
`exact=True`; one that acts changes tokens; and rows decode the same alone and in a batch. `skip` passes
when logits and cache are those of one forward from scratch in which random blocks of random rows and tokens
are the identity. Both only if the closed processor leaves the untouched model behind.
"""

PARTS = """\
## When a model is refused

The message says which part was not found, or by how much it misses. What helps, in this order:

1. The model cannot run on text alone (its forward needs a picture, say): give it an example to be watched
   with, `MutationLogitsProcessor(model, anatomy=Anatomy.of(model, inputs))`, where `inputs` are those that
   you would pass to `generate`.
2. Its parts are not where they are looked for: pass them by hand, `Anatomy(blocks=..., tail=..., head=...,
   owner=...)`: the decoder blocks in order, the modules between the last block and the head, the
   unembedding, and the model that calls it. They are verified all the same.
3. `Skip` is refused and `Contrast` is not: the blocks cannot be run again exactly, and the message says
   why; use `Contrast`, or a baseline that reads layers.
"""


def count(found: Mapping[str, Outcome]) -> str:
    """How many passed, of those that take pictures and of the families of text."""
    groups = {
        "image-text-to-text types": [x for n, x in found.items() if _takes_pictures(n)],
        "text families": [x for n, x in found.items() if not _takes_pictures(n)],
    }
    told = [
        f"contrast passes for {_passed(x.contrast for x in group)} and skip for "
        f"{_passed(x.skip for x in group)} of {len(group)} {what}"
        for what, group in groups.items()
        if group
    ]
    return "; ".join(told).capitalize() + "."


def document(found: Mapping[str, Outcome]) -> str:
    """The page, in Markdown."""
    intro = INTRODUCTION.format(
        transformers=transformers.__version__, torch=torch.__version__.partition("+")[0], count=count(found)
    )
    reasons = {why: str(n) for n, why in enumerate(_reasons(found.values()), 1)}
    notes = {
        note: letter(n) for n, note in enumerate(dict.fromkeys(n for x in found.values() for n in x.notes))
    }
    rows = [
        [
            f"`{name}`",
            class_name(name),
            *(PASS if each == PASS else f"no ({reasons[each]})" for each in (x.contrast, x.skip)),
            " ".join(notes[note] for note in x.notes),
        ]
        for name, x in found.items()
    ]
    return "\n".join(
        [
            intro,
            tabulate(rows, ["type", "class", "contrast", "skip", "notes"], tablefmt="github") + "\n",
            *_list("Reasons", {number: why for why, number in reasons.items()}),
            *_list("Notes", {name: note for note, name in notes.items()}),
            PARTS,
        ]
    )


def letter(number: int) -> str:
    """a, b, ... z, aa, ab and so on."""
    return (letter(number // 26 - 1) if number >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[number % 26]


def _reasons(found: Iterable[Outcome]) -> Iterator[str]:
    yield from dict.fromkeys(why for x in found for why in (x.contrast, x.skip) if why != PASS)


def _list(title: str, entries: Mapping[str, str]) -> Iterator[str]:
    if entries:
        yield f"## {title}\n"
        yield "".join(f"- {name}: {text}\n" for name, text in entries.items())


def _takes_pictures(name: str) -> bool:
    return name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def _passed(outcomes: Iterable[str]) -> int:
    return sum(outcome == PASS for outcome in outcomes)
