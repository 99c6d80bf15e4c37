"""Single answers for a page: captions cut at their marked words, and questions with all that was answered."""

from typing import Any

from benchmarks.answered import Line
from benchmarks.report_page import images
from benchmarks.report_page.marks import Mark, marks
from benchmarks.report_page.traces import Traces
from benchmarks.report_page.worst import Answers, Captions, key
from benchmarks.tasks import Item


def captions(model: str, worst: Captions, traces: Traces) -> dict[str, Any]:
    """The worst captions of one model, each under every method."""
    return {
        "model": model,
        "task": worst.job.name,
        "reference": worst.reference,
        "items": [_caption(worst, number, item, traces) for number, item in enumerate(worst.items)],
    }


def _caption(worst: Captions, number: int, item: Item, traces: Traces) -> dict[str, Any]:
    shown, missing = images.of(item)
    reference = worst.scored[worst.reference][number]
    return {
        "key": key(item.record),
        "images": shown,
        "missing": missing,
        "objects": marks(worst.job.task, reference)[0],
        "answers": [
            _answer(worst, method, own[number], lines[number], counts[number])
            for (method, own), lines, counts in zip(
                worst.scored.items(), worst.lines.values(), worst.counts.values(), strict=True
            )
        ],
        "trace": traces.kept.get(key(item.record)),
    }


def _answer(worst: Captions, method: str, scored: Line, line: Line, count: int) -> dict[str, Any]:
    name = worst.job.task.answer
    _, found = marks(worst.job.task, scored)
    return {
        "method": method,
        "count": count,
        "parts": parts(scored[name], found),
        "rest": line[name].removeprefix(scored[name]),
        "unmarked": max(0, count - sum(not mark.there for mark in found)),
    }


def parts(text: str, found: list[Mark]) -> list[tuple[str, Mark | None]]:
    """The whole text in pieces, those that are marked with their mark."""
    pieces, at = list[tuple[str, Mark | None]](), 0
    for mark in found:
        if mark.start >= at:
            pieces += [(text[at : mark.start], None), (text[mark.start : mark.end], mark)]
            at = mark.end
    return [(piece, mark) for piece, mark in [*pieces, (text[at:], None)] if piece]


def questions(model: str, wrong: Answers) -> dict[str, Any]:
    """The wrong answers of one model to one task, with those of every method."""
    name = wrong.job.task.answer
    return {
        "model": model,
        "task": wrong.job.name,
        "reference": wrong.reference,
        "asked": wrong.asked,
        "wrong": wrong.wrong,
        "methods": list(wrong.lines),
        "items": [
            {
                "key": key(item.record),
                "image": item.image_id,
                "question": item.record.get("question", item.turns[-1].text),
                "label": wrong.read[wrong.reference][number].label,
                "answers": [
                    (lines[number][name], wrong.read[method][number].right)
                    for method, lines in wrong.lines.items()
                ],
            }
            for number, item in enumerate(wrong.items)
        ],
    }
