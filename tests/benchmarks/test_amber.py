import json
import os
import time
from pathlib import Path

import pytest

from benchmarks.tasks import amber, amber_files, amber_nouns
from benchmarks.tasks.amber import Item
from benchmarks.tasks.pope import by_id

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


def test_the_official_figures_come_out_on_166_real_responses_in_time(data: Path, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [os.fspath(data / "nltk_data")])
    files = amber_files.read(data / "amber")
    finder = amber_nouns.finder("nltk", files.vocabulary)
    lines = json.loads((data / "amber" / "llava15_responses_166.json").read_text())
    started = time.process_time()
    texts = by_id(((line["id"], line["response"]) for line in lines), list(files.items)[:166])
    counts = amber.score(
        {key: finder.find(text) for key, text in texts.items()},
        files.items,
        associations=files.associations,
        safe_words=files.safe_words,
    )
    spent = time.process_time() - started
    assert counts.official() == {"CHAIR": 7.5, "Cover": 50.9, "Hal": 37.3, "Cog": 3.2}
    assert counts.counts() == {
        "responses": 166,
        "clean": 104,
        "nouns": 1260,
        "hallucinated": 95,
        "truth": 927,
        "covered": 472,
        "hallu": 807,
        "cog": 26,
    }
    figures = counts.figures()
    assert figures["Cog"].value == pytest.approx(100 * 26 / 807)
    assert figures["Hal"].value == pytest.approx(100 * (166 - 104) / 166)
    assert spent * 1004 / 166 < 20, "seconds of one core for all 1,004"


def test_missing_and_unknown_ids_are_named_before_anything_is_scored():
    expected = ["1", "2", "3"]
    with pytest.raises(ValueError, match=r"1 unknown ids.*\['9'\]; 2 ids without an answer.*\['2', '3'\]"):
        by_id([(1, "A dog."), (9, "A cat.")], expected)
    assert list(by_id([(3, "c"), ("1", "a"), (2, "b")], expected).items()) == [
        *zip("123", "abc", strict=True)
    ]
