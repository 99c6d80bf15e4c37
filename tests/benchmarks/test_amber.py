import json
import os
from pathlib import Path

import pytest

from benchmarks.tasks import amber
from benchmarks.tasks.amber import Item

ASSOCIATIONS = {
    "forest": ["tree", "bush"],
    "tree": ["forest"],
    "person": ["man"],
    "sea": ["lake"],
    "lake": ["sea"],
    "dog": [],
    "light": [],
}


def one(nouns, item, **options):
    return amber.score({"1": nouns}, {"1": item}, associations=ASSOCIATIONS, **options).responses["1"]


def test_hand_counted_responses_pool_into_the_four_figures():
    items = {"a": Item(("forest", "person"), ("dog",)), "b": Item(("sea",), ("dog", "person"))}
    nouns = {"a": ["tree", "man", "man", "dog", "cat"], "b": ["sea", "light"]}
    figures = amber.score(nouns, items, associations=ASSOCIATIONS, safe_words=["light"]).figures()
    # cat is outside the vocabulary; dog is 1 hallucination of 4 + 2 nouns; 3 of 3 slots; 1 of 3 absences
    assert figures["CHAIR"].value == pytest.approx(100 / 6)
    assert figures["Cover"].value == 100
    assert figures["Hal"].value == 50
    assert figures["Cog"].value == pytest.approx(100 / 3)
    assert figures["objects"].value == 3


def test_an_association_is_matched_before_the_word_and_credits_its_owners_slot():
    assert one(["tree"], Item(("tree", "forest"), ())).covered == {1}


def test_duplicate_truth_words_are_credited_once():
    assert one(["dog", "dog"], Item(("dog", "dog"), ())).covered == {0}


def test_truth_wins_over_hallu():
    found = one(["dog"], Item(("dog",), ("dog",)))
    assert (found.covered, found.cog, found.hallucinated) == ({0}, frozenset(), ())


def test_a_similar_noun_marks_a_typical_absence_and_is_still_cleared_by_the_truth():
    found = one(["light"], Item(("sea",), ("dog",)), similar=lambda noun, word: word in ("sea", "dog"))
    assert (found.covered, found.cog, found.hallucinated) == ({0}, {0}, ())


def test_matching_is_case_sensitive():
    assert one(["Dog"], Item(("dog",), ())).nouns == ()


def test_the_counters_start_where_the_official_ones_do():
    counts = amber.score({"1": ["dog"]}, {"1": Item(("forest",), ("dog",))}, associations=ASSOCIATIONS)
    assert counts.official() == {"CHAIR": 99.9, "Cover": 0.0, "Hal": 100.0, "Cog": 99.9}
    assert counts.official(start=0)["CHAIR"] == 100.0


@pytest.mark.parametrize(
    ("nouns", "items", "message"),
    [
        ({}, {}, "at least one response"),
        ({"7": []}, {}, r"no annotation for 1 ids, the first of them \['7'\]"),
        ({"7": []}, {"7": Item(("yeti",), ())}, r"relation table: \['yeti'\]"),
    ],
)
def test_what_cannot_be_scored_is_refused(nouns, items, message):
    with pytest.raises(ValueError, match=message):
        amber.score(nouns, items, associations=ASSOCIATIONS)


def test_the_official_figures_come_out_on_166_real_responses(data: Path, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [os.fspath(data / "nltk_data")])
    folder = data / "amber"
    items = {
        str(item["id"]): Item(tuple(item["truth"]), tuple(item["hallu"]))
        for item in json.loads((folder / "annotations.json").read_text())
        if item["type"] == "generative"
    }
    responses = json.loads((folder / "llava15_responses_166.json").read_text())
    counts = amber.score(
        {str(line["id"]): amber.extract(line["response"]) for line in responses},
        items,
        associations=json.loads((folder / "relation.json").read_text()),
        safe_words=(folder / "safe_words.txt").read_text().split("\n"),
    )
    assert counts.official() == {"CHAIR": 7.5, "Cover": 50.9, "Hal": 37.3, "Cog": 3.2}
    figures = counts.figures()
    sums = {name: (f.numerator.sum(), f.denominator.sum()) for name, f in figures.items()}
    assert sums["CHAIR"] == (95, 1260)
    assert sums["Cover"] == (472, 927)
    assert sums["Cog"] == (26, 807)
    assert sums["Hal"] == (166 - 104, 166)
