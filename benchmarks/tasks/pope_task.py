"""POPE's question files as they are asked about the images of COCO's val2014.

Official code and questions: github.com/AoiDragon/POPE (output/coco/). Example: "Is there a snowboard in the
image?" about COCO_val2014_000000310196.jpg.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.statistics import Ratio
from benchmarks.tasks import Item, Read, about, pope, pope_questions
from benchmarks.tasks.images import images
from benchmarks.tasks.missing import Missing
from benchmarks.usage import UsageError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Pope:
    """The questions of a file, scored as accuracy, precision, recall, F1, yes-ratio.

    Args:
        questions: the file, or where it would be if output/coco/ were not between.
        images: the folder of the images.
        prompt: what is asked, with {question} for the question of the file; None: that question.
        n: only what is about the first n images; None: all.

    Raises: ValueError on n below 1, on an unknown parser, and on a prompt without {question}.
    """

    questions: str
    images: str
    prompt: str | None
    n: int | None
    parser: str
    max_new_tokens: int
    answer: ClassVar[str] = "answer"

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ValueError(f"n={self.n} is an empty data set; expected at least one image, or null for all")
        if self.parser not in pope.PARSERS:
            raise ValueError(f"unknown parser {self.parser!r}: {nearest(self.parser, pope.PARSERS)}")
        if self.prompt is not None and "{question}" not in self.prompt:
            raise ValueError(
                f"expected a prompt with {{question}} in the question's place, got {self.prompt!r}"
            )

    def items(self) -> list[Item]:
        missing, readers = Missing(), dict[str, Read]()
        found: Sequence[pope_questions.Question] = ()
        with missing:
            found = self._asked().questions
        names = list(dict.fromkeys(question.image for question in found))[: self.n]
        with missing:
            readers = images(self.images, names)
        missing.tell(
            "get the questions from output/coco/ of github.com/AoiDragon/POPE, and the images, val2014.zip, "
            f"from cocodataset.org/#download, for {Path(self.questions).parent}/coco_pope_random.json and "
            f"{self.images}/COCO_val2014_000000310196.jpg"
        )
        return [
            about(
                {"question_id": str(q.question_id), "image_id": q.image, "question": q.text},
                q.text if self.prompt is None else self.prompt.replace("{question}", q.text),
                readers[q.image],
            )
            for q in found
            if q.image in readers
        ]

    def files(self) -> list[Path]:
        path = Path(self.questions)
        cloned = path.parent / "output" / "coco" / path.name
        return [cloned if cloned.is_file() and not path.exists() else path]

    def score(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, Ratio]:
        return self._scored(lines).figures()

    def answers(self, lines: Sequence[Mapping[str, Any]]) -> Sequence[pope.Answer]:
        """Of each line the right answer, and how the model's is read."""
        return self._scored(lines).answers

    def _scored(self, lines: Sequence[Mapping[str, Any]]) -> pope.YesNo:
        labels = {str(question.question_id): question.label for question in self._asked().questions}
        answers = [(line["image_id"], labels[line["question_id"]], line[self.answer]) for line in lines]
        return pope.score(answers, parser=self.parser)

    def _asked(self) -> pope_questions.Questions:
        return _read(*self.files())


@cache
def _read(path: Path) -> pope_questions.Questions:
    if not path.is_file():
        raise UsageError(f"there is no question file {path}")
    return pope_questions.read(path)
