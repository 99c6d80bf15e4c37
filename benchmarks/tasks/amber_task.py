"""AMBER's two parts as they are asked: 1,004 images to describe, and 14,216 yes/no questions about them.

Official code and data: github.com/junyangwang0410/AMBER; a clone of it, with the images of its README in
image/, is the folder expected here. Example: AMBER_1.jpg, "Describe this image."
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.statistics import Ratio
from benchmarks.tasks import Item, Read, about, amber, amber_files, amber_nouns, amber_questions
from benchmarks.tasks.images import images
from benchmarks.tasks.missing import Missing
from benchmarks.tasks.pope import Answer
from benchmarks.usage import UsageError, nearest

FILES = ("annotations.json", "relation.json", "safe_words.txt", *amber_files.QUERIES)
"""What is needed of the data folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A clone of AMBER, or its data folder.

    Args:
        root: the folder that holds data/ (or what is in it) and image/.
        images: the folder of the images, if they are elsewhere.
        prompt: what is asked, with {query} for the query of AMBER's file; None: that query.
        n: only what is about the first n images; None: all.

    Raises: ValueError on n below 1.
    """

    root: str
    images: str | None
    prompt: str | None
    n: int | None
    max_new_tokens: int
    answer: ClassVar[str] = "response"

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ValueError(f"n={self.n} is an empty data set; expected at least one image, or null for all")

    def files(self) -> Sequence[Path]:
        return self._files().paths

    def _files(self) -> amber_files.Files:
        whole = Path(self.root, "annotations.json").is_file()
        return _read(Path(self.root) if whole else Path(self.root, "data"))

    def _items(self, asked: Callable[[amber_files.Files], Iterable[tuple[str, str, str]]]) -> list[Item]:
        """Items of each (id, image, query), as far as they are about the first n images."""
        missing, found, readers = Missing(), list[tuple[str, str, str]](), dict[str, Read]()
        with missing:
            found = [*asked(self._files())]
        names = list(dict.fromkeys(image for _, image, _ in found))[: self.n]
        there = Path(self.root, "images")
        folder = self.images or (there if there.is_dir() else Path(self.root, "image"))
        with missing:
            readers = images(folder, names)
        missing.tell(
            f"get data/ from github.com/junyangwang0410/AMBER, and the images from the link in its README, "
            f"for {self.root}/data/annotations.json, {self.root}/data/query/query_generative.json and "
            f"{self.root}/image/AMBER_1.jpg"
        )
        return [
            about({"id": key, "image_id": image}, self._worded(query), readers[image])
            for key, image, query in found
            if image in readers
        ]

    def _worded(self, query: str) -> str:
        return query if self.prompt is None else self.prompt.replace("{query}", query)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generative(Folder):
    """Descriptions: CHAIR, Cover, Hal, Cog; nouns and similarity as for ``python -m benchmarks.score``."""

    nouns: str
    similarity: str
    similarity_table: str | None

    def items(self) -> list[Item]:
        """Raises: UsageError, also when what finds the nouns is not installed."""
        items = self._items(lambda files: ((key, *prompt) for key, prompt in files.prompts.items()))
        self._tools()
        return items

    def files(self) -> Sequence[Path]:
        table = [] if self.similarity_table is None else [Path(self.similarity_table)]
        return [*Folder.files(self), *table]

    def score(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, Ratio]:
        """CHAIR, Cover, Hal, Cog, objects."""
        return self._scored(lines).figures()

    def responses(self, lines: Sequence[Mapping[str, Any]]) -> Mapping[str, amber.Response]:
        """What the score finds in each response, in the order of the lines."""
        return self._scored(lines).responses

    def _scored(self, lines: Sequence[Mapping[str, Any]]) -> amber.Amber:
        files, (finder, similar) = self._files(), self._tools()
        return amber.score(
            {line["id"]: finder.find(line[self.answer]) for line in lines},
            files.items,
            associations=files.associations,
            safe_words=files.safe_words,
            similar=similar,
        )

    def _tools(self) -> tuple[amber_nouns.Finder, Callable[[str, str], bool]]:
        vocabulary = self._files().vocabulary
        return _tools(self.nouns, self.similarity, self.similarity_table, vocabulary)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discriminative(Folder):
    """Yes/no questions: accuracy, precision, recall, F1 (positive: no), over all and by dimension.

    Raises: ValueError on an unknown parser, and on a prompt without {query}.
    """

    parser: str

    def __post_init__(self) -> None:
        Folder.__post_init__(self)
        if self.parser not in amber_questions.PARSERS:
            known = nearest(self.parser, amber_questions.PARSERS)
            raise ValueError(f"unknown parser {self.parser!r}: {known}")
        if self.prompt is not None and "{query}" not in self.prompt:
            raise ValueError(f"expected a prompt with {{query}} in the question's place, got {self.prompt!r}")

    def items(self) -> list[Item]:
        return self._items(lambda files: ((key, q.image, q.text) for key, q in files.questions.items()))

    def score(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, Ratio]:
        return self._scored(lines).figures()

    def answers(self, lines: Sequence[Mapping[str, Any]]) -> Sequence[Answer]:
        """Of each line the right answer, and how the model's is read."""
        return self._scored(lines).answers

    def _scored(self, lines: Sequence[Mapping[str, Any]]) -> amber_questions.Discriminative:
        known = self._files().questions
        return amber_questions.score(
            ((line["id"], line[self.answer]) for line in lines),
            {line["id"]: known[line["id"]] for line in lines},
            parser=self.parser,
        )


@cache
def _read(folder: Path) -> amber_files.Files:
    lacking = [name for name in FILES if not (folder / name).is_file()]
    if lacking:
        raise UsageError(f"{folder} lacks {', '.join(lacking)}")
    return amber_files.read(folder)


@cache
def _tools(
    nouns: str, similarity: str, table: str | None, vocabulary: frozenset[str]
) -> tuple[amber_nouns.Finder, Callable[[str, str], bool]]:
    return amber_nouns.finder(nouns, vocabulary), amber_nouns.similarity(similarity, vocabulary, table)
