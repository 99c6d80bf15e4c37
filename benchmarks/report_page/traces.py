"""traces/: what the layers did at each token of the worst captions, as files to load and pages to see."""

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import torch

from benchmarks.answered import Line
from benchmarks.batch import UNREADABLE, conversation
from benchmarks.folder import RunFolder
from benchmarks.models import Loaded
from benchmarks.prompting import Messages, images_of
from benchmarks.report_page.marks import marks
from benchmarks.report_page.worst import Captions, key
from benchmarks.scoring import GREEDY
from benchmarks.tasks import Item
from mutation_decode import Contrast, MutationLogitsProcessor, Record, Trace

LONGEST = 120
"""Characters of a file's name; file systems take 255 bytes."""

LIBRARY = "bokeh.js"
"""What the pages of a model share, beside them: 40 pages with one each would be 57 MB."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The files of one caption's trace, relative to the run folder; None for what there is not.

    ``same`` says whether its text is the answer of the run; None where greedy was not run.
    """

    trace: str | None
    page: str | None
    same: bool | None


@dataclass(slots=True)
class Traces:
    """One model's traces by the item's key, and in sentences what is missing of them."""

    kept: dict[str, Kept] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def keep(loaded: Loaded, worst: Captions | None, folder: RunFolder, batch_size: int) -> Traces:
    """Decodes the captions' items again, greedily and watched, into ``traces/<model>/``.

    Whatever fails there is told in the report: the answers of the run do not depend on it.
    """
    place, found = folder.path / "traces" / safe(loaded.name), Traces()
    shutil.rmtree(place, ignore_errors=True)  # of another set of worst captions
    if worst is None or not worst.items:
        return found
    place.mkdir(parents=True)
    try:
        _keep(loaded, worst, place, batch_size, found)
    except Exception as error:  # hours of answers are not lost for a look at some
        told = " ".join(str(error).split())
        found.notes.append(f"{loaded.name}: not all is traced, {type(error).__name__}: {told}")
    return found


def _keep(loaded: Loaded, worst: Captions, place: Path, batch_size: int, found: Traces) -> None:
    asked: list[tuple[Item, Messages]] = []
    for item in worst.items:
        try:
            asked.append((item, conversation(item)[0]))
        except UNREADABLE as error:
            found.notes.append(f"{key(item.record)}: no trace, {type(error).__name__}: {error}")
    answered = {key(line): line for line in worst.lines.get(GREEDY, ())}
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        traced = watched(loaded, [messages for _, messages in batch], worst.job.task.max_new_tokens)
        for row, (item, messages) in enumerate(batch):
            name, trace = safe(key(item.record)), traced.row(row)
            trace.save(place / f"{name}.safetensors")
            line: Line | None = answered.get(key(item.record))
            same = None if line is None else text(trace) == line[worst.job.task.answer]
            title = f"{loaded.name}, {key(item.record)}"
            shown = _page(place / f"{name}.html", trace, messages, title, invented(worst, item, trace), found)
            at = f"traces/{place.name}/{name}"
            found.kept[key(item.record)] = Kept(f"{at}.safetensors", f"{at}.html" if shown else None, same)


def watched(loaded: Loaded, batch: Sequence[Messages], max_new_tokens: int) -> Trace:
    """The trace of greedy answers that nothing has changed."""
    untouched = Contrast(alpha=0.0, layer=0, always=True)  # reads every layer, changes no score
    tokenizer = loaded.processor.tokenizer
    with (
        torch.inference_mode(),
        MutationLogitsProcessor(loaded.model, untouched, detector=None, trace=Record(top=5)) as processor,
    ):
        loaded.model.generate(
            **loaded.inputs(batch),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            logits_processor=[processor],
        )
        assert processor.trace is not None
        return processor.trace.named(tokenizer)


def text(trace: Trace) -> str:
    """The answer of a trace of one row."""
    assert trace.texts is not None
    return "".join(trace.texts[0]).strip()


def invented(worst: Captions, item: Item, trace: Trace) -> list[list[int]]:
    """The tokens of each hallucinated mention of a traced answer, by their numbers."""
    assert trace.texts is not None
    pieces, task = trace.texts[0], worst.job.task
    ends = list(accumulate(map(len, pieces)))
    before = len("".join(pieces)) - len("".join(pieces).lstrip())
    _, found = marks(task, {**item.record, task.answer: text(trace)})
    return [
        [
            number
            for number, (end, piece) in enumerate(zip(ends, pieces, strict=True))
            if end - len(piece) < mark.end + before and end > mark.start + before
        ]
        for mark in found
        if not mark.there
    ]


def _page(
    path: Path,
    trace: Trace,
    messages: Messages,
    title: str,
    hallucinated: Sequence[Sequence[int]],
    found: Traces,
) -> bool:
    """Writes the page to explore one answer. Returns: False, with a note, where that cannot be done."""
    try:
        from mutation_decode import page  # bokeh: a second, and only this needs it

        images = [part["image"] for part in images_of(messages)]
        prompt = "\n".join(part["text"] for part in messages[-1]["content"] if part["type"] == "text")
        page.write(
            path,
            {GREEDY: trace},
            prompt=prompt,
            image=images[0] if images else None,
            title=title,
            marked={GREEDY: hallucinated},
            marks="hallucinated words",
            library=LIBRARY,
        )
        if not (path.parent / LIBRARY).exists():
            page.write_library(path.parent / LIBRARY)
    except Exception as error:  # the traces themselves are there, and bokeh may be missing
        told = f"no page to explore a trace, {type(error).__name__}: {' '.join(str(error).split())}"
        found.notes += [] if told in found.notes else [told]
        return False
    return True


def safe(name: str) -> str:
    """A name for a file, whatever is in ``name``; other than this, with a checksum, where that was needed."""
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name) and len(name) <= LONGEST:
        return name
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[: LONGEST - 13].strip("_")
    return f"{plain}~{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:12]}"
