"""What scores answers to CHAIR, AMBER and POPE, by the settings that make a figure what it is."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.predictions import IDS, Prediction
from benchmarks.statistics import Ratio, ratio
from benchmarks.tasks import (
    amber,
    amber_files,
    amber_nouns,
    amber_questions,
    chair,
    coco,
    pope,
    pope_questions,
)
from benchmarks.tasks.coco_objects import Objects, Vocabulary
from benchmarks.usage import UsageError, nearest

Settings = Mapping[str, Any]
REQUIRED = "?"
"""The default of a key that must be given."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The figures of one file of answers; ``figures`` resample by image.

    ``files`` are those that the figures depend on, beside the answers; ``details`` are what was found in each
    caption or response; ``scores`` are made of figures, and have no interval; ``keys`` are the ids.
    """

    n: int
    figures: Mapping[str, Ratio]
    counts: Mapping[str, Any]
    official: Mapping[str, Any]
    files: tuple[Path, ...]
    settings: Mapping[str, Any]
    details: Sequence[Mapping[str, Any]] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    keys: tuple[str, ...] = ()

    def values(self) -> dict[str, float]:
        """All figures, in their own units (percent, but for length and objects), unrounded."""
        return {name: figure.value for name, figure in self.figures.items()} | dict(self.scores)


@dataclass(frozen=True, slots=True)
class Scorer:
    """How a task is scored: its keys with their defaults, and a function that needs nothing it did not check.

    ``prepare(settings)`` reads and checks all but the answers; what it returns scores any number of files.
    """

    keys: Mapping[str, Any]
    prepare: Callable[[Settings], Callable[[list[Prediction]], Scored]]
    answers: tuple[str, ...]
    ids: tuple[str, ...] = IDS


def _chair(settings: Settings) -> Callable[[list[Prediction]], Scored]:
    vocabulary = Vocabulary.read(settings["synonyms"])
    objects = Objects(vocabulary, settings["variant"])
    path = Path(settings["ground_truth"])

    def score(found: list[Prediction]) -> Scored:
        captions = {coco.image_id(one.key): one.answer for one in found}
        if len(captions) < len(found):
            raise UsageError(
                "two names of the same image are among the predictions; give one caption an image"
            )
        truth = coco.ground_truth(path, objects, captions)
        counted = chair.score({key: objects(text) for key, text in captions.items()}, truth)
        files = [path] if path.is_file() else coco.annotation_files(path)
        synonyms = [] if settings["synonyms"] is None else [Path(settings["synonyms"])]
        return Scored(
            len(found),
            {**counted.figures(), **_length(found, coco.image_id)},
            counted.counts(),
            counted.official(),
            (*files, *synonyms),
            {"variant": settings["variant"], "synonyms": vocabulary.synonyms},
            [
                {"image_id": key, "objects": one.mentions, "hallucinated": one.hallucinated}
                for key, one in counted.captions.items()
            ],
        )

    return score


def _amber(settings: Settings) -> Callable[[list[Prediction]], Scored]:
    files = amber_files.read(settings["annotations"], settings["relation"], settings["safe_words"])
    finder = amber_nouns.finder(settings["nouns"], files.vocabulary)
    table = settings["similarity_table"]
    similar = amber_nouns.similarity(settings["similarity"], files.vocabulary, table)
    partial = _flag(settings, "partial")

    def score(found: list[Prediction]) -> Scored:
        known = {**files.items, **files.questions}
        unknown = [one.key for one in found if one.key not in known]
        if unknown:
            raise UsageError(
                f"{len(unknown)} ids are not in the annotations, the first of them {unknown[:5]}"
            )
        told = {one.key: one.answer for one in found if one.key in files.items}
        image = {
            **{key: image for key, (image, _) in files.prompts.items()},
            **{key: question.image for key, question in files.questions.items()},
        }
        asked = [(one.key, one.answer) for one in found if one.key in files.questions]
        figures: dict[str, Ratio] = {}
        counts: dict[str, Any] = {}
        official: dict[str, Any] = {}
        details: list[dict[str, Any]] = []
        if told:
            nouns = {key: finder.find(text) for key, text in told.items()}
            generative = amber.score(
                nouns,
                files.items,
                associations=files.associations,
                safe_words=files.safe_words,
                similar=similar,
            )
            figures |= generative.figures()
            counts |= generative.counts() | {"not answered": len(files.items) - len(told)}
            official |= generative.official()
            details += [
                {"id": key, "nouns": one.nouns, "hallucinated": one.hallucinated}
                for key, one in generative.responses.items()
            ]
        if asked:
            dimension = {key: amber_questions.TYPES.get(q.kind) for key, q in files.questions.items()}
            asked_of = {dimension[key] for key, _ in asked}
            ids = {key for key, _ in asked} if partial else dimension.keys()
            questions = {key: files.questions[key] for key in ids if dimension[key] in asked_of}
            answered = amber_questions.score(asked, questions, parser=settings["parser"])
            figures |= answered.figures()
            counts |= answered.counts()
            official |= answered.official()
        scores = {}
        if told and asked and "all" in official:
            scores["AMBER"] = (100 - figures["CHAIR"].value + figures["F1"].value) / 2
            official["AMBER"] = amber_questions.amber_score(official["CHAIR"], official["all"]["F1"])
        return Scored(
            len(found),
            {**figures, **_length(found, image.__getitem__)},
            counts,
            official,
            files.paths,
            {"nouns": finder.label, "similarity": settings["similarity"], "parser": settings["parser"]},
            details,
            scores,
        )

    return score


def _pope(settings: Settings) -> Callable[[list[Prediction]], Scored]:
    whole, partial = pope_questions.read(settings["questions"]), _flag(settings, "partial")

    def score(found: list[Prediction]) -> Scored:
        keys = {one.key for one in found}
        kept = tuple(q for q in whole.questions if not partial or str(q.question_id) in keys)
        questions = replace(whole, questions=kept)
        paired = questions.pair((one.key, one.answer) for one in found)
        image = {str(question.question_id): question.image for question in kept}
        answered = pope.score(paired, parser=settings["parser"])
        return Scored(
            len(found),
            {**answered.figures(), **_length(found, image.__getitem__)},
            {
                **answered.counts(),
                "not answered": len(whole.questions) - len(kept),
                "typos in the questions": questions.typos,
            },
            answered.official(),
            (Path(settings["questions"]),),
            {"parser": settings["parser"]},
        )

    return score


SCORERS: Mapping[str, Scorer] = {
    "chair": Scorer(
        {"ground_truth": REQUIRED, "synonyms": None, "variant": "original"},
        _chair,
        ("caption", "response", "text"),
    ),
    "amber": Scorer(
        {
            "annotations": REQUIRED,
            "relation": None,
            "safe_words": None,
            "nouns": "nltk",
            "similarity": "exact",
            "similarity_table": None,
            "parser": "official",
            "partial": "false",
        },
        _amber,
        ("response", "caption", "answer", "text"),
        ids=("id", "question_id", "image_id"),  # a run's answers have an image_id, too
    ),
    "pope": Scorer(
        {"questions": REQUIRED, "parser": "official", "partial": "false"},
        _pope,
        ("answer", "text", "response"),
    ),
}


def _flag(settings: Settings, key: str) -> bool:
    if str(settings[key]).lower() not in ("true", "false"):
        raise UsageError(f"{key}={settings[key]}; expected true or false")
    return str(settings[key]).lower() == "true"


def _length(found: list[Prediction], image: Callable[[str], str]) -> dict[str, Ratio]:
    """What is worth knowing of any answers: words in each, and which were cut off, if the file says so."""
    sums: dict[str, list[int]] = {}
    for each in found:
        counted = sums.setdefault(image(each.key), [0, 0, 0])
        for place, value in enumerate((1, len(each.answer.split()), bool(each.entry.get("truncated")))):
            counted[place] += value
    answers, words, cut = zip(*sums.values(), strict=True)
    told = all(each.entry.get("truncated") is not None for each in found)
    return {
        "length": ratio(words, answers, scale=1),
        **({"truncated": ratio(cut, answers)} if told else {}),
    }


def prepare(
    task: str, given: Settings, common: Settings = MappingProxyType({})
) -> Callable[[list[Prediction]], Scored]:
    """What scores answers to a task by these settings; those that are not given have their defaults.

    Raises: UsageError on a task, key or value that is none, and on all that the task needs and is not there.
    """
    if task not in SCORERS:
        raise UsageError(f"unknown task {task!r}: {nearest(task, SCORERS)}; give task=...")
    keys = SCORERS[task].keys
    for key in given.keys() - keys.keys() - common.keys():
        raise UsageError(f"unknown key {key}: {nearest(key, {'task', *keys, *common})}")
    settings = {**keys, **common, **given}
    for key, value in settings.items():
        if value in (REQUIRED, "") or (value is None and keys.get(key) == REQUIRED):
            raise UsageError(f"{key} must be given: {key}=...")
    score = SCORERS[task].prepare(settings)

    def of(found: list[Prediction]) -> Scored:
        # In an order of their own, so that two files with the same answers can be compared pair by pair.
        found = sorted(found, key=lambda one: one.key)
        _once(found)
        try:
            return replace(score(found), keys=tuple(one.key for one in found))
        except ValueError as error:
            raise UsageError(f"task {task}: {error}") from error

    return of


def _once(found: list[Prediction]) -> None:
    if not found:
        raise UsageError("there are no answers to score")
    twice = [key for key, times in Counter(one.key for one in found).items() if times > 1]
    if twice:
        raise UsageError(f"{len(twice)} ids are answered twice or more, the first of them {twice[:5]}")
