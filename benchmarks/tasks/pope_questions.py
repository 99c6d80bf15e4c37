"""POPE's questions: built from the objects of images, read from official files, written in their layout.

Official code: github.com/AoiDragon/POPE (main.py at 513e730, utils.py at 7cf0a02), Li et al. 2023.
Example: ``{"question_id": 1, "image": "COCO_val2014_000000016631.jpg", "text": "Is there a person in the
image?", "label": "yes"}``, followed by one about an object that is not there.
"""

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.tasks.pope import by_id
from benchmarks.usage import UsageError

STRATEGIES = ("random", "popular", "adversarial")
"""How the absent objects are chosen, in the order in which the official script draws."""

TEMPLATES = ("Is there a {} in the image?", "Is there an {} in the image?")
"""Before a consonant and before a vowel, as in the files that the authors publish now."""

SCRIPT_TEMPLATES = (TEMPLATES[0], "Is there an {} in the imange?")
"""What the official script writes (it replaces every a by an), and older official files hold."""

_TEXT = re.compile(r"Is there an? (.+) in the iman?ge\?")


@dataclass(frozen=True, slots=True)
class Question:
    """One question in the official layout; ids count from 1, in some official files from 0."""

    question_id: int
    image: str
    text: str
    label: str

    @property
    def object(self) -> str:
        """What is asked about, whichever way "image" is spelled. Raises: ValueError on another wording."""
        found = _TEXT.fullmatch(self.text)
        if not found:
            raise ValueError(
                f"question {self.question_id}: expected 'Is there a X in the image?': {self.text!r}"
            )
        return found[1]


@dataclass(frozen=True, slots=True)
class Questions:
    """A question file and what tells its version from others: official ones differ (random: 2,910 or 3,000).

    ``typos`` counts the texts with "imange"; they are asked as they are, for so they were asked of others.
    """

    questions: tuple[Question, ...]
    md5: str

    @property
    def count(self) -> int:
        return len(self.questions)

    @property
    def typos(self) -> int:
        return sum("imange" in question.text for question in self.questions)

    def pair(self, answers: Iterable[tuple[object, str]]) -> list[tuple[str, str, str]]:
        """(question id, answer) pairs, in any order, as what ``pope.score`` takes, in the order of the file.

        Raises: ValueError that names the first five duplicate, missing or unknown ids; the official script
            pairs by line, whatever the ids.
        """
        given = by_id(answers, [str(question.question_id) for question in self.questions])
        return [(q.image, q.label, text) for q, text in zip(self.questions, given.values(), strict=True)]


def read(path: str | Path) -> Questions:
    """Reads a question file, JSON Lines whatever its name ends in; keys beyond the official four are dropped.

    Raises: UsageError that names the file and its first five wrong lines or duplicate ids.
    """
    lines = _lines(path)
    questions, wrong = [], []
    for number, line in lines:
        try:
            question = Question(*(line[name] for name in Question.__slots__))
        except KeyError as error:
            wrong.append(f"line {number} has no {error.args[0]}")
            continue
        if question.label not in ("yes", "no"):
            wrong.append(f"line {number}: the label is neither yes nor no but {question.label!r}")
        elif not (isinstance(question.image, str) and isinstance(question.text, str)):
            wrong.append(f"line {number}: image and text must be text")
        questions.append(question)
    times = Counter(str(question.question_id) for question in questions)
    wrong += [f"question_id {key} stands {count} times" for key, count in times.items() if count > 1]
    _refuse(path, wrong)
    return Questions(tuple(questions), _md5(Path(path).read_bytes()))


def write(path: str | Path, questions: Sequence[Question]) -> Questions:
    """Writes the official layout, one JSON object a line; returns the file's questions with their md5."""
    text = "".join(json.dumps(asdict(question)) + "\n" for question in questions)
    Path(path).write_bytes(text.encode())
    return Questions(tuple(questions), _md5(text.encode()))


def read_objects(path: str | Path) -> dict[str, list[str]]:
    """image -> its objects, from JSON Lines of ``{"image": ..., "objects": [...]}``, the official input.

    Raises: UsageError that names the file and its first five wrong lines.
    """
    found: dict[str, list[str]] = {}
    wrong = []
    for number, line in _lines(path):
        image, objects = line.get("image"), line.get("objects")
        if not isinstance(image, str) or not isinstance(objects, list) or not all(map(_is_name, objects)):
            wrong.append(f"line {number} has no image with a list of objects")
        elif image in found:
            wrong.append(f"line {number}: {image} stands there twice")
        else:
            found[image] = objects
    _refuse(path, wrong)
    return found


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def build(
    objects: Mapping[str, Sequence[str]],
    *,
    seed: int,
    images: int = 500,
    positives: int = 3,
    templates: tuple[str, str] = TEMPLATES,
) -> dict[str, tuple[Question, ...]]:
    """Strategy -> balanced questions: an image's first ``positives`` objects, each paired with an absent one.

    random draws any absent object; popular takes the most frequent one over the drawn images; adversarial the
    one that most often stands beside the present object; ties go to what was seen first. No object is asked
    about twice in an image. The draws are those of the official script after ``random.seed(seed)``.

    Args:
        objects: image -> its objects, each once, in the order of the annotations.
        images: how many are drawn among those with at least ``positives`` objects.

    Raises: ValueError on too few images, on objects listed twice in an image, and on images that have nearly
        all objects (the official script would search for ever).
    """
    twice = [image for image, names in objects.items() if len(set(names)) < len(names)]
    if twice:
        raise ValueError(f"{len(twice)} images list an object twice, the first of them {twice[:5]}")
    rich = [image for image, names in objects.items() if len(names) >= positives]
    if len(rich) < images or images < 1:
        raise ValueError(
            f"expected at least images={images} >= 1 images with {positives} objects, got {len(rich)}"
        )
    rng = random.Random(seed)
    drawn = {image: objects[image] for image in rng.sample(rich, images)}
    frequency = Counter(name for names in drawn.values() for name in names)
    full = [image for image, names in drawn.items() if len(frequency) - len(names) < positives]
    if full:
        raise ValueError(
            f"{len(full)} images leave fewer than {positives} of the {len(frequency)} objects absent, the "
            f"first of them {full[:5]}; give more images"
        )
    candidates = _candidates(drawn, frequency, rng)
    return {
        strategy: tuple(_ask(drawn, candidates[strategy], positives, templates)) for strategy in STRATEGIES
    }


def _candidates(
    drawn: Mapping[str, Sequence[str]], frequency: Counter[str], rng: random.Random
) -> dict[str, Callable[[str], Iterator[str]]]:
    """Strategy -> (present object -> objects to try in its place, without end)."""
    beside: dict[str, Counter[str]] = {name: Counter() for name in frequency}
    for names in drawn.values():
        for name in names:
            beside[name].update(other for other in names if other != name)
    everything = list(frequency)

    def at_random() -> Iterator[str]:
        while True:
            yield rng.choice(everything)

    def ranked(counts: Counter[str]) -> Iterator[str]:
        return chain((name for name, _ in counts.most_common()), at_random())

    return {
        "random": lambda present: at_random(),
        "popular": lambda present: ranked(frequency),
        "adversarial": lambda present: ranked(beside[present]),
    }


def _ask(
    drawn: Mapping[str, Sequence[str]],
    candidates: Callable[[str], Iterator[str]],
    positives: int,
    templates: tuple[str, str],
) -> Iterator[Question]:
    number = 1
    for image, names in drawn.items():
        out = set(names)
        for present in names[:positives]:
            absent = next(name for name in candidates(present) if name not in out)
            out.add(absent)
            for name, label in ((present, "yes"), (absent, "no")):
                yield Question(number, image, templates[name[0] in "aeiou"].format(name), label)
                number += 1


def _lines(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """(number from 1, object) of every line that is not blank."""
    try:
        raw = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    found, wrong = [], []
    for number, text in enumerate(raw, 1):
        try:
            line = json.loads(text) if text.strip() else None
        except json.JSONDecodeError as error:
            wrong.append(f"line {number} is no JSON ({error.msg})")
            continue
        if isinstance(line, dict):
            found.append((number, line))
        elif line is not None:
            wrong.append(f"line {number} is no JSON object")
    if not found and not wrong:
        wrong.append("an empty data set")
    _refuse(path, wrong)
    return found


def _refuse(path: str | Path, wrong: Sequence[str]) -> None:
    if wrong:
        raise UsageError(f"{path}: {len(wrong)} wrong: {'; '.join(wrong[:5])}")


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
