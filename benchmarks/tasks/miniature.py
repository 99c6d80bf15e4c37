"""The three tasks over the miniature's drawn world, whose truth is known exactly; no image is on disk.

Example: a scene with a table, a cup and a dog, described by "there is a table . it is red . there is a
chair": the chair is hallucinated, and it is what a table makes one expect.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.miniature import world
from benchmarks.statistics import Ratio
from benchmarks.tasks import Item, about, amber, chair, pope
from benchmarks.tasks.placed import placed
from benchmarks.usage import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenes:
    """``n`` scenes of a split; each image's id is the hash of what is in it.

    Raises: ValueError on an unknown split or on no scenes.
    """

    split: str
    n: int
    seed: int

    def __post_init__(self) -> None:
        if self.split not in world.SPLITS:
            raise ValueError(f"unknown split {self.split!r}: {nearest(self.split, world.SPLITS)}")
        if self.n < 1:
            raise ValueError(f"n={self.n} is an empty data set; expected at least one scene")

    def files(self) -> tuple[Path, ...]:
        return ()

    def scenes(self) -> dict[str, world.Scene]:
        return _scenes(self.split, self.n, self.seed)


@cache
def _scenes(split: str, n: int, seed: int) -> dict[str, world.Scene]:
    return {scene.key: scene for scene in world.scenes(split, n, seed=seed)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions(Scenes):
    """Descriptions scored by CHAIR: CHAIR_s, CHAIR_i, recall."""

    prompt: str
    max_new_tokens: int
    answer: ClassVar[str] = "caption"

    def items(self) -> list[Item]:
        return [about({"image_id": key}, self.prompt, scene.image) for key, scene in self.scenes().items()]

    def score(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, Ratio]:
        truth = {key: scene.objects for key, scene in self.scenes().items()}
        return chair.score(
            {line["image_id"]: world.mentions(line[self.answer]) for line in lines}, truth
        ).figures()

    def shown(self, image_id: str) -> frozenset[str]:
        """The objects of one image."""
        return self.scenes()[image_id].objects

    def named(self, text: str) -> list[tuple[str, int]]:
        """The objects that a description names, and where."""
        return placed(world.mentions, text)

    def kinds(self, words: Sequence[str], image_id: str) -> list[str]:
        """For each word of a description: correct or hallucinated (object nouns), function, or other."""
        objects = self.scenes()[image_id].objects
        return [_kind(word, objects) for word in words]


def _kind(word: str, objects: frozenset[str]) -> str:
    if word in world.NOUNS:
        return "correct" if word in objects else "hallucinated"
    return "function" if word in world.FUNCTION_WORDS else "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Typical(Scenes):
    """Descriptions scored by AMBER's rules: CHAIR, Cover, Hal, and Cog against typical but absent companions.

    The closed vocabulary has no synonyms, so no word is associated with another and similarity is identity.
    """

    prompt: str
    max_new_tokens: int
    answer: ClassVar[str] = "response"

    def items(self) -> list[Item]:
        return [
            about({"id": key, "image_id": key}, self.prompt, scene.image)
            for key, scene in self.scenes().items()
        ]

    def score(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, Ratio]:
        return self._scored(lines).figures()

    def responses(self, lines: Sequence[Mapping[str, Any]]) -> Mapping[str, amber.Response]:
        """What the score finds in each response, in the order of the lines."""
        return self._scored(lines).responses

    def _scored(self, lines: Sequence[Mapping[str, Any]]) -> amber.Amber:
        items = {
            key: amber.Item(tuple(sorted(scene.objects)), scene.typical_absent)
            for key, scene in self.scenes().items()
        }
        nouns = {line["id"]: world.mentions(line[self.answer]) for line in lines}
        return amber.score(nouns, items, associations=dict.fromkeys(world.NOUNS, ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class YesNo(Scenes):
    """Balanced questions about existence, attributes and relations: accuracy, precision, recall, F1.

    Raises: ValueError, also on an unknown parser.
    """

    max_new_tokens: int
    parser: str
    answer: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        Scenes.__post_init__(self)
        if self.parser not in pope.PARSERS:
            raise ValueError(f"unknown parser {self.parser!r}: {nearest(self.parser, pope.PARSERS)}")

    def questions(self) -> dict[str, tuple[world.Scene, world.Question]]:
        """Question id -> (scene, question)."""
        return {
            f"{key}-{number}": (scene, question)
            for key, scene in self.scenes().items()
            for number, question in enumerate(world.questions(scene, seed=self.seed))
        }

    def items(self) -> list[Item]:
        return [
            about(
                {"question_id": key, "image_id": scene.key, "kind": q.kind, "question": q.text},
                q.text,
                scene.image,
            )
            for key, (scene, q) in self.questions().items()
        ]

    def score(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, Ratio]:
        """The figures of all questions, then the accuracy of each kind."""
        return self._scored(lines).figures()

    def answers(self, lines: Sequence[Mapping[str, Any]]) -> Sequence[pope.Answer]:
        """Of each line the right answer, and how the model's is read."""
        return self._scored(lines).answers

    def _scored(self, lines: Sequence[Mapping[str, Any]]) -> pope.YesNo:
        labels = {key: question.answer for key, (_, question) in self.questions().items()}
        answers = [(line["image_id"], labels[line["question_id"]], line[self.answer]) for line in lines]
        return pope.score(answers, parser=self.parser, groups=[line["kind"] for line in lines])
