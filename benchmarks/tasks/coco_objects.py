"""The COCO objects that a caption's text mentions, as CHAIR's official code finds them.

Official code: github.com/LisaAnne/Hallucination (utils/chair.py at a967f2f), variant ``original``, and what
most later papers took from github.com/shikiw/OPERA (chair.py at 2a0a234), variant ``wordnet``. They differ in
how a word loses its inflection, which moves CHAIR_s by up to 3.2 points: a figure must name its variant.
Example: "Two men with a baby elephant. A bow tie is on the bench." mentions person, elephant, tie, bench.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path

import numpy as np

from benchmarks.usage import UsageError, nearest

OWN = Path(__file__).with_name("coco_synonyms.txt")
"""This project's own synonyms of the 80 objects; the official file is data/synonyms.txt of the original."""

ANIMALS = (
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "animal",
    "cub",
)
MERGED: Mapping[str, str] = {
    **{f"{age} {animal}": animal for age in ("baby", "adult") for animal in ANIMALS},
    **{f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")},
    "bow tie": "tie",
    "toilet seat": "toilet",
    "wine glas": "wine glass",  # what `original` makes of a wine glass
    "home plate": "home plate",
    "train track": "train track",
}
"""Two words -> what they are treated as: a baby elephant is no person, a train track no train."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Which words stand for which object.

    ``objects`` are in the table's order; ``words`` maps each word to its object; ``merged`` maps two words in
    a row to what they are treated as; ``synonyms`` names the table in results: ``own``, or the file's name
    and md5.
    """

    objects: tuple[str, ...]
    words: Mapping[str, str]
    merged: Mapping[str, str]
    synonyms: str

    @classmethod
    def read(cls, path: str | Path | None = None) -> "Vocabulary":
        """Reads a table, one object a line: the object, then its synonyms, divided by a comma and a blank.

        A word with further blanks or capitals is read as it stands: it never matches, nor does it officially.
        ``path`` None stands for the project's own table.

        Raises: UsageError that names the file and the line.
        """
        file = OWN if path is None else Path(path)
        try:
            raw = file.read_bytes()
            lines = raw.decode("utf-8-sig").strip("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the synonym table {file}: {error}") from error
        objects, words = list[str](), dict[str, str]()
        for number, line in enumerate(lines, start=1):
            names = line.strip().split(", ")
            if not all(name.strip() and "," not in name for name in names):
                raise UsageError(f"{file}, line {number}: expected words divided by ', ', got {line!r}")
            for name in names:
                if words.setdefault(name, names[0]) != names[0]:
                    raise UsageError(f"{file}, line {number}: {name!r} already stands for {words[name]!r}")
            if names[0] in objects:
                raise UsageError(f"{file}, line {number}: {names[0]!r} has a line already")
            objects.append(names[0])
        # the official " motor bike" is merged without its blank, and then means nothing
        pairs = {" ".join(pair): " ".join(pair) for name in words if len(pair := name.split()) == 2}
        synonyms = "own" if path is None else f"{file.name} md5 {hashlib.md5(raw).hexdigest()}"
        return cls(tuple(objects), words, {**pairs, **MERGED}, synonyms)

    def mentions(self, words: Sequence[str]) -> list[str]:
        """Objects of a caption's uninflected words, in order and with repetition."""
        merged, position = list[str](), 0
        while position < len(words):
            pair = self.merged.get(" ".join(words[position : position + 2]))
            merged.append(words[position] if pair is None else pair)
            position += 1 if pair is None else 2
        if "toilet" in merged:  # the seat of a toilet is no chair
            merged = [word for word in merged if word != "seat"]
        return [self.words[word] for word in merged if word in self.words]


class Objects:
    """``objects(text)``: the COCO objects that a text mentions, in order, with repetition.

    Args:
        vocabulary: the words to look for.
        variant: ``original`` or ``wordnet``.

    Raises: UsageError on an unknown variant, and where nltk data that it needs is not there.
    """

    def __init__(self, vocabulary: Vocabulary, variant: str) -> None:
        needs(variant)
        self.vocabulary = vocabulary
        self.variant = variant
        self._tokens = _tokenizer()
        self._uninflected = VARIANTS[variant]()

    def __call__(self, text: str) -> list[str]:
        return self.vocabulary.mentions(self._uninflected(self._tokens(text.lower())))


def needs(variant: str) -> None:
    """Checks that the nltk data of a variant is on this machine; loads and fetches nothing.

    Raises: UsageError on an unknown variant, and with the command that fetches what is missing.
    """
    if variant not in VARIANTS:
        raise UsageError(f"unknown CHAIR variant {variant!r}: {nearest(variant, VARIANTS)}")
    import nltk

    missing = [resource for resource in RESOURCES[variant] if not _found(resource)]
    if missing:
        names = " ".join(resource.split("/")[1] for resource in missing)
        raise UsageError(
            f"CHAIR variant {variant} needs nltk data that is not there: python -m nltk.downloader {names} "
            f"(or point NLTK_DATA at it; looked in {', '.join(nltk.data.path)})"
        )


def _found(resource: str) -> bool:
    import nltk

    try:
        nltk.data.find(resource)
    except LookupError:
        return False
    return True


def _tokenizer() -> Callable[[str], list[str]]:
    """nltk.word_tokenize with an untrained sentence splitter, which needs no data.

    The objects are those of the trained one on 6,000 of 6,000 captions.
    """
    from nltk.tokenize import NLTKWordTokenizer, PunktSentenceTokenizer

    sentences, words = PunktSentenceTokenizer().tokenize, NLTKWordTokenizer().tokenize
    return lambda text: [word for sentence in sentences(text) for word in words(sentence)]


ENDINGS = (
    ("people", "person"),
    ("children", "child"),
    ("men", "man"),
    ("geese", "goose"),
    ("mice", "mouse"),
    ("oxen", "ox"),
    ("kine", "cow"),
    ("scissors", "scissors"),
    ("doggies", "doggies"),
    ("shoes", "shoe"),
    ("oes", "o"),  # canoes -> cano
    ("buses", "bus"),
    ("xes", "x"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("sses", "ss"),
    *((f"{vowel}ies", f"{vowel}ie") for vowel in "aeiouy"),
    ("ies", "y"),  # ties -> ty
    *((f"{vowel}lves", f"{vowel}lf") for vowel in "aeo"),
    *((f"{letter}ives", f"{letter}ife") for letter in "nlw"),
    ("s", ""),  # bus -> bu, glass -> glas
)
"""What the ``pattern`` package makes of an ending, the first that fits; all that can reach a COCO word.

Its faults are part of the variant: ``bus``, ``ties``, ``canoes``, ``collies``, ``doggies`` match nothing.
"""


def singular(word: str) -> str:
    """A lower-case noun's singular as the ``original`` variant forms it; unchanged where no ending fits."""
    for ending, replacement in ENDINGS:
        if word.endswith(ending):
            return word.removesuffix(ending) + replacement
    return word


def _singulars() -> Callable[[Sequence[str]], list[str]]:
    known = cache(singular)
    return lambda tokens: [known(token) for token in tokens]


def _lemmas() -> Callable[[Sequence[str]], list[str]]:
    """Tags a whole caption at once, then looks every word up by its tag; verbs too: seated -> seat.

    A form that is a word of its own stays: men (WordNet: the work force) never match.
    """
    from nltk.stem import WordNetLemmatizer

    tagged, lemmatize = _tagger(), WordNetLemmatizer().lemmatize
    lemma = cache(lambda word, tag: lemmatize(word, {"J": "a", "V": "v", "R": "r"}.get(tag[0], "n")))
    return lambda tokens: [lemma(word, tag) for word, tag in tagged(tokens)]


def _tagger() -> Callable[[Sequence[str]], list[tuple[str, str]]]:
    """The tagger of nltk.pos_tag, which would be loaded at every call; its scores are summed by numpy.

    The same floats are added in the same order, so the tags are the same, in a third of the time.
    """
    from nltk.tag import PerceptronTagger

    tagger = PerceptronTagger()
    weights = tagger.model.weights
    labels = sorted(tagger.classes, reverse=True)  # of equal scores nltk takes the last, argmax the first

    @cache
    def row(feature: str) -> np.ndarray:
        known = weights.get(feature, {})
        return np.array([known.get(label, 0.0) for label in labels])

    def predict(features: Iterable[str], return_conf: bool = False) -> tuple[str, None]:
        return labels[reduce(np.add, map(row, features)).argmax()], None

    tagger.model.predict = predict
    return tagger.tag


VARIANTS: Mapping[str, Callable[[], Callable[[Sequence[str]], list[str]]]] = {
    "original": _singulars,
    "wordnet": _lemmas,
}
RESOURCES: Mapping[str, tuple[str, ...]] = {
    "original": (),
    "wordnet": ("taggers/averaged_perceptron_tagger_eng/", "corpora/wordnet/"),
}
