"""The answers that a report shows: captions with the most hallucinated mentions, wrong yes and no."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from benchmarks.answered import Line
from benchmarks.plan import Job
from benchmarks.report_page.marks import hallucinated
from benchmarks.scoring import GREEDY, common, scored
from benchmarks.tasks import Item
from benchmarks.tasks.pope import Answer


@runtime_checkable
class AsksYesNo(Protocol):
    """A task whose answers are right or wrong."""

    def answers(self, lines: Sequence[Mapping[str, Any]]) -> Sequence[Answer]:
        """Of each line the right answer, and how the model's is read."""
        ...


@dataclass(frozen=True, slots=True)
class Captions:
    """The worst captions of one model on one task.

    Attributes:
        reference: the method that they are the worst of.
        items: the worst first.
        lines: method -> the lines of these items, whole.
        scored: the same as they were scored.
        counts: method -> hallucinated mentions of each.
    """

    job: Job
    reference: str
    items: Sequence[Item]
    lines: Mapping[str, Sequence[Line]]
    scored: Mapping[str, Sequence[Line]]
    counts: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Answers:
    """The first wrong answers of one model to one task's questions.

    Attributes:
        reference: the method whose answers are wrong.
        asked, wrong: how many questions there are, and how many of its answers are wrong.
        items: the questions shown, by id.
        lines: method -> the lines of these.
        read: method -> how each is read.
    """

    job: Job
    reference: str
    asked: int
    wrong: int
    items: Sequence[Item]
    lines: Mapping[str, Sequence[Line]]
    read: Mapping[str, Sequence[Answer]]


@dataclass(slots=True)
class Shown:
    """What is shown of one model: at most ``most`` captions of the first task that can tell right words from
    wrong ones, and as many wrong answers of each task that asks yes or no."""

    most: int
    unfinished: str
    captions: Captions | None = None
    answers: list[Answers] = field(default_factory=list)

    def look(self, job: Job, answers: Mapping[str, Sequence[Line]]) -> None:
        """Takes the answers to one task: method -> a line an item, in the order of the items."""
        kept = {method: lines for method, lines in common(answers).items() if lines}
        if not self.most or not kept:
            return
        asked = {method: scored(lines, job.task.answer, self.unfinished) for method, lines in kept.items()}
        reference = GREEDY if GREEDY in kept else next(iter(kept))
        if isinstance(job.task, AsksYesNo):
            self.answers.append(_answers(job, reference, asked, self.most))
        elif self.captions is None:
            self.captions = _captions(job, reference, kept, asked, self.most)


def key(line: Mapping[str, Any]) -> str:
    """What tells an item from every other one of its task."""
    return str(next(iter(line.values())))


def _captions(
    job: Job,
    reference: str,
    kept: Mapping[str, Sequence[Line]],
    asked: Mapping[str, Sequence[Line]],
    most: int,
) -> Captions | None:
    counts = hallucinated(job.task, asked[reference])
    if counts is None:
        return None
    order = sorted(range(len(counts)), key=lambda at: (-counts[at], key(asked[reference][at])))
    chosen = [at for at in order if counts[at]][:most]
    shown = {method: [lines[at] for at in chosen] for method, lines in asked.items()}
    return Captions(
        job,
        reference,
        _items(job, shown[reference]),
        {method: [lines[at] for at in chosen] for method, lines in kept.items()},
        shown,
        {method: (hallucinated(job.task, lines) or []) if lines else [] for method, lines in shown.items()},
    )


def _answers(job: Job, reference: str, asked: Mapping[str, Sequence[Line]], most: int) -> Answers:
    assert isinstance(job.task, AsksYesNo)
    lines = asked[reference]
    wrong = [at for at, answer in enumerate(job.task.answers(lines)) if not answer.right]
    chosen = sorted(wrong, key=lambda at: key(lines[at]))[:most]
    shown = {method: [own[at] for at in chosen] for method, own in asked.items()}
    read = {method: job.task.answers(own) if own else [] for method, own in shown.items()}
    return Answers(job, reference, len(lines), len(wrong), _items(job, shown[reference]), shown, read)


def _items(job: Job, lines: Sequence[Line]) -> list[Item]:
    known = {key(item.record): item for item in job.items}
    return [known[key(line)] for line in lines]
