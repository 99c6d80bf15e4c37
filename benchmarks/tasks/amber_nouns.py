"""AMBER's nouns of a response, and when a noun stands for an annotated word; needs are checked first.

Official code: github.com/junyangwang0410/AMBER (extract_nouns and check_synonyms_word in inference.py at
5e1fd52). Example: "Three people walking in a grassy field" holds the nouns people and field; people counts.
"""

import json
import re
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.tasks.amber import exact
from benchmarks.usage import UsageError, nearest

NLTK_COMMAND = "python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng wordnet"
SPACY_COMMAND = "pip install spacy && python -m spacy download en_core_web_lg"

NOT_NOUNS = frozenset({"can", "drawing", "hot", "leave"})
"""Vocabulary words that captions mostly use as verbs or adjectives; cans and drawings do count."""

LOST = frozenset({"TVs", "chopsticks", "earrings", "leaves", "men", "slippers", "sunglasses", "vases"})
"""Forms that the official nouns never count: their shortest lemma (men, vas, earring, ...) is outside."""

ENDINGS = (
    ("man", "men"),
    ("child", "children"),
    ("goose", "geese"),
    ("mouse", "mice"),
    ("knife", "knives"),
    ("elf", "elves"),
    ("scarf", "scarves"),
    *((ending, ending) for ending in ("deer", "fish", "people", "sheep")),
    *((ending, f"{ending}es") for ending in ("s", "x", "ch", "sh", "ato")),
)
"""Plurals that take more than an s, by the word's ending; the first that fits."""

_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Finder:
    """Finds the nouns of a text, in order, with repetition; ``label`` belongs beside every figure of them."""

    label: str
    find: Callable[[str], list[str]]


def finder(choice: str, vocabulary: Collection[str]) -> Finder:
    """The official nouns (``nltk``), or those of a table of surface forms (``table``), which are approximate.

    Raises: UsageError before any response is read: on an unknown choice, and with the command that installs
        what is missing.
    """
    if choice == "nltk":
        return Finder("nltk", _tagged())
    if choice == "table":
        return Finder("table, approximate", _listed(vocabulary))
    raise UsageError(f"unknown nouns {choice!r}: {nearest(choice, ('nltk', 'table'))}")


def _tagged() -> Callable[[str], list[str]]:
    """nltk's tokens with a tag NN*, as WordNet's shortest noun lemma; case counts, in tagger and in lemma."""
    try:
        import nltk  # half a second, and only this reading needs it
    except ImportError:
        raise UsageError("the nouns nltk need nltk; install it with: pip install nltk") from None
    lemma = cache(nltk.stem.WordNetLemmatizer().lemmatize)

    def find(text: str) -> list[str]:
        tagged = nltk.pos_tag(nltk.word_tokenize(text))
        return [lemma(word) for word, tag in tagged if tag.startswith("NN")]

    try:
        find("Dogs bark.")  # loads all three data sets
    except LookupError:
        raise UsageError(
            f"the nouns nltk need data of nltk: {NLTK_COMMAND} (or point NLTK_DATA at it; looked in "
            f"{', '.join(nltk.data.path)})"
        ) from None
    return find


def _listed(vocabulary: Collection[str]) -> Callable[[str], list[str]]:
    """Every singular and plural of the vocabulary, whatever its part of speech in the text; case counts."""
    words = sorted(vocabulary)
    forms = {**{plural(word): word for word in words}, **{word: word for word in words}}
    forms = {form: word for form, word in forms.items() if form not in NOT_NOUNS | LOST}
    return lambda text: [forms[word] for word in _WORD.findall(text) if word in forms]


def plural(word: str) -> str:
    """The plural of a lower-case English noun, as far as AMBER's vocabulary asks for it."""
    for ending, replacement in ENDINGS:
        if word.endswith(ending):
            return word.removesuffix(ending) + replacement
    return f"{word[:-1]}ies" if re.search("[^aeiou]y$", word) else f"{word}s"


def similarity(
    choice: str, vocabulary: Collection[str], path: str | Path | None = None
) -> Callable[[str, str], bool]:
    """``exact``, ``table`` (of the JSON file at ``path``), or ``spacy``, the official one.

    Raises: UsageError before any response is read: on an unknown choice, on a wrong table, and with the
        command that installs what is missing.
    """
    if choice == "exact":
        return exact
    if choice == "table":
        if path is None:
            raise UsageError("the similarity table needs the path of its JSON file")
        return table(path, vocabulary)
    if choice == "spacy":
        return vectors()
    raise UsageError(f"unknown similarity {choice!r}: {nearest(choice, ('exact', 'table', 'spacy'))}")


def table(path: str | Path, vocabulary: Collection[str]) -> Callable[[str, str], bool]:
    """Similarity from a JSON file: ``{"word": ["similar word", ...]}``, or a list of pairs of words.

    A pair holds both ways, and a word always resembles itself, as cosines do.

    Raises: UsageError that names the file, on another layout and on words outside the vocabulary.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: no valid JSON ({error})") from None
    try:
        if isinstance(content, dict):
            content = [(word, other) for word, others in content.items() for other in _list(others)]
        pairs = {frozenset((word, other)) for word, other in map(_list, content)}
    except (TypeError, ValueError):
        raise UsageError(
            f'{path}: expected {{"word": ["similar word", ...]}} or [["word", "similar word"], ...]'
        ) from None
    unknown = sorted({str(word) for pair in pairs for word in pair} - set(vocabulary))
    if unknown:
        raise UsageError(
            f"{path}: {len(unknown)} words outside the vocabulary, the first of them {unknown[:5]}"
        )
    return lambda noun, word: noun == word or frozenset((noun, word)) in pairs


def _list(value: Any) -> Any:
    if not isinstance(value, list | tuple):  # a string would be taken apart into letters
        raise TypeError
    return value


def vectors(nlp: Any = None, threshold: float = 0.8) -> Callable[[str, str], bool]:
    """spaCy's cosine above ``threshold``; the vectors of en_core_web_lg only, for others give other figures.

    Args:
        nlp: a loaded pipeline in place of the installed en_core_web_lg; the same vectors are asked of it.

    Raises: UsageError, with the command that installs them, without spaCy or these vectors.
    """
    if nlp is None:
        try:
            import spacy

            nlp = spacy.load("en_core_web_lg")
        except (ImportError, OSError) as error:
            raise UsageError(f"the similarity spacy: {error}; install it with: {SPACY_COMMAND}") from None
    held = nlp.meta.get("vectors", {})
    rows, width = held.get("vectors", 0), held.get("width", 0)
    name = f"{nlp.meta.get('lang')}_{nlp.meta.get('name')}"
    # en_core_web_md has as many words on 20,000 rows, where neighbours share one and are all alike
    if name != "en_core_web_lg" or width != 300 or rows < 300_000:
        raise UsageError(
            f"the similarity spacy needs en_core_web_lg with its 300-wide vectors, got {name} of {rows} rows "
            f"of width {width}; install it with: {SPACY_COMMAND}"
        )
    parsed = cache(nlp)

    @cache
    def similar(noun: str, word: str) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a word without a vector resembles only itself
            return bool(parsed(noun).similarity(parsed(word)) > threshold)

    return similar
