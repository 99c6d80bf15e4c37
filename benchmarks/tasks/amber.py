"""AMBER, generative part: objects named, invented and left out, against annotated truth and typical absences.

Official code and data: github.com/junyangwang0410/AMBER (inference.py at 5e1fd52), Wang et al. 2023. The
annotations are read in ``amber_files``, nouns found in ``amber_nouns``, yes/no answers scored in
``amber_questions``.
Example: item 1 has the truth sky, forest, grass, person, lake, mountain, road and the typical absences cloud,
sun, bird, dog, flower. "Three people walking in a grassy field, surrounded by trees" covers person and forest
(associated with tree).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.statistics import Ratio, ratio

COUNTER_START = 0.001
"""Where the official denominators start, so that nothing divides by zero; felt only in rounding."""


@dataclass(frozen=True, slots=True)
class Item:
    """The annotation of one image: what is there, and what one would expect but is not there."""

    truth: tuple[str, ...]
    hallu: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Response:
    """Counts of one response: its vocabulary nouns, the hallucinated ones, the slots they touch."""

    nouns: tuple[str, ...]
    hallucinated: tuple[str, ...]
    covered: frozenset[int]
    cog: frozenset[int]
    item: Item


@dataclass(frozen=True, slots=True)
class Amber:
    """Counts over all responses; every figure pools its counts over them."""

    responses: Mapping[str, Response]

    def figures(self) -> dict[str, Ratio]:
        """CHAIR, Cover, Hal and Cog in percent, unrounded; objects in nouns a response."""
        responses = list(self.responses.values())
        nouns = [len(r.nouns) for r in responses]
        wrong = [len(r.hallucinated) for r in responses]
        one = [1] * len(responses)
        return {
            "CHAIR": ratio(wrong, nouns),
            "Cover": ratio([len(r.covered) for r in responses], [len(r.item.truth) for r in responses]),
            "Hal": ratio([n > 0 for n in wrong], one, outcomes=[n > 0 for n in wrong]),
            "Cog": ratio([len(r.cog) for r in responses], [len(r.item.hallu) for r in responses]),
            "objects": ratio(nouns, one, scale=1),
        }

    def counts(self) -> dict[str, int]:
        """What the figures divide, pooled over responses; clean: responses without hallucination."""
        responses = list(self.responses.values())
        return {
            "responses": len(responses),
            "clean": sum(not r.hallucinated for r in responses),
            "nouns": sum(len(r.nouns) for r in responses),
            "hallucinated": sum(len(r.hallucinated) for r in responses),
            "truth": sum(len(r.item.truth) for r in responses),
            "covered": sum(len(r.covered) for r in responses),
            "hallu": sum(len(r.item.hallu) for r in responses),
            "cog": sum(len(r.cog) for r in responses),
        }

    def official(self, start: float = COUNTER_START) -> dict[str, float]:
        """The four figures as the official script prints: denominators from ``start``, rounded to 0.1."""
        counts = self.counts()

        def share(part: str, whole: str) -> float:
            return counts[part] / (counts[whole] + start) * 100

        shares = {
            "CHAIR": share("hallucinated", "nouns"),
            "Cover": share("covered", "truth"),
            "Hal": 100 - share("clean", "responses"),  # the script counts the clean ones
            "Cog": share("cog", "hallu"),
        }
        return {name: round(value, 1) for name, value in shares.items()}


def exact(noun: str, word: str) -> bool:
    """The default of ``similar``: the same word; it gives the published figures on two full result sets."""
    return noun == word


def score(
    nouns: Mapping[str, Sequence[str]],
    items: Mapping[str, Item],
    *,
    associations: Mapping[str, Sequence[str]],
    safe_words: Collection[str] = (),
    similar: Callable[[str, str], bool] = exact,
) -> Amber:
    """Compares each response's nouns with its item, by the official order of rules.

    Args:
        nouns: id -> nouns of the response, in order, with repetition; those outside the vocabulary (every
            key and every value of ``associations``) are dropped.
        items: id -> annotation; ids without a response are passed over (``pope.by_id`` refuses that).
        associations: word -> words that credit its slot (relation.json).
        safe_words: words that are never hallucinated, yet stay in CHAIR's denominator.
        similar: whether a noun stands for an annotated word; the official one is a spaCy similarity above
            0.8.

    Raises: ValueError on no responses, on ids without annotation, and on annotated words without
        associations.
    """
    if not nouns:
        raise ValueError("expected at least one response, got none")
    unknown = [key for key in nouns if key not in items]
    if unknown:
        raise ValueError(f"no annotation for {len(unknown)} ids, the first of them {unknown[:5]}")
    vocabulary = {*associations, *(word for words in associations.values() for word in words)}
    return Amber(
        {
            key: _response(
                tuple(n for n in found if n in vocabulary), items[key], associations, safe_words, similar
            )
            for key, found in nouns.items()
        }
    )


def _response(
    nouns: tuple[str, ...],
    item: Item,
    associations: Mapping[str, Sequence[str]],
    safe_words: Collection[str],
    similar: Callable[[str, str], bool],
) -> Response:
    truth, hallu = _slots(item.truth, associations), _slots(item.hallu, associations)
    covered, cog, hallucinated = set[int](), set[int](), list[str]()
    for noun in nouns:
        if noun in safe_words:
            continue
        slot = _first(truth, noun, exact)
        if slot is not None:
            covered.add(slot)
            continue
        for same in (exact, similar):  # a noun may mark one slot by being the word, another by resembling it
            slot = _first(hallu, noun, same)
            if slot is not None:
                cog.add(slot)
        slot = _first(truth, noun, similar)
        if slot is not None:
            covered.add(slot)
        else:
            hallucinated.append(noun)
    return Response(nouns, tuple(hallucinated), frozenset(covered), frozenset(cog), item)


def _slots(words: Sequence[str], associations: Mapping[str, Sequence[str]]) -> list[tuple[str, int]]:
    """(word, slot) in the order of matching: all associations first, then the annotated words themselves."""
    missing = [word for word in words if word not in associations]
    if missing:
        raise ValueError(f"annotated words without an entry in the relation table: {missing[:5]}")
    associated = [(other, slot) for slot, word in enumerate(words) for other in associations[word]]
    return [*associated, *((word, slot) for slot, word in enumerate(words))]


def _first(slots: Sequence[tuple[str, int]], noun: str, same: Callable[[str, str], bool]) -> int | None:
    return next((slot for word, slot in slots if same(noun, word)), None)
