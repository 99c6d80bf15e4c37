import json
import math
from pathlib import Path

import pytest

from benchmarks.tasks import pope, pope_questions


@pytest.mark.parametrize(
    ("text", "official", "lenient"),
    [
        ("No, there is none.", "no", "no"),
        ("There is not. Yes", "no", "yes"),
        ("Well. No", "yes", "no"),
        ("NO", "yes", "no"),
        ("Nope", "yes", None),
        ("", "yes", None),
        ("Yes", "yes", "yes"),
    ],
)
def test_the_parsers_differ_where_metrics_md_says(text, official, lenient):
    assert (pope.official(text), pope.lenient(text)) == (official, lenient)


def test_hand_counted_answers():
    questions = [
        ("a", "yes", "yes"),
        ("a", "yes", "no"),
        ("a", "no", "yes"),
        ("b", "no", "no"),
        ("b", "yes", "yes"),
        ("b", "no", "perhaps"),
    ]
    found = pope.score(questions, parser="lenient")
    figures = {name: figure.value for name, figure in found.figures().items()}
    assert found.unparsed == 1
    assert figures["accuracy"] == 50
    assert figures["precision"] == pytest.approx(100 * 2 / 3)
    assert figures["recall"] == pytest.approx(100 * 2 / 3)
    assert figures["F1"] == pytest.approx(100 * 2 / 3)
    assert figures["yes"] == 50
    assert figures["unparsed"] == pytest.approx(100 / 6)
    assert len(found.figures()["accuracy"].numerator) == 2, "one entry an image"
    assert found.figures()["accuracy"].outcomes.tolist() == [True, False, False, True, True, False]


def test_what_the_official_reading_makes_a_yes_of_is_counted_as_unparsed():
    texts = ["", "Perhaps", "Nope", "NO", "There is not one", "Yes, two"]
    found = pope.score([("a", "no", text) for text in texts])
    assert found.counts() == {"questions": 6, "TP": 0, "FP": 5, "TN": 1, "FN": 0, "unparsed": 3}
    lenient = pope.score([("a", "no", text) for text in texts], parser="lenient")
    assert lenient.counts() == {"questions": 6, "TP": 0, "FP": 1, "TN": 1, "FN": 0, "unparsed": 4}


def test_a_fraction_of_nothing_is_not_a_number():
    found = pope.score([("a", "no", "No")]).official()
    assert found["accuracy"] == 1
    assert math.isnan(found["precision"])


@pytest.mark.parametrize(
    ("questions", "parser", "message"),
    [
        ([], "official", "at least one answer"),
        ([("a", "maybe", "yes")], "official", r"labels yes and no, got \['maybe'\]"),
        ([("a", "yes", "yes")], "kind", "official, lenient; got 'kind'"),
    ],
)
def test_what_cannot_be_scored_is_refused(questions, parser, message):
    with pytest.raises(ValueError, match=message):
        pope.score(questions, parser=parser)


def test_the_official_figures_come_out_on_3000_real_answers(data: Path):
    asked = pope_questions.read(data / "pope" / "coco_pope_random.json")
    lines = (data / "pope" / "llava15_random_answers.jsonl").read_text().splitlines()
    answers = [(line["question_id"], line["text"]) for line in map(json.loads, lines)]
    found = pope.score(asked.pair(answers))
    assert {name: round(value, 4) for name, value in found.official().items()} == {
        "accuracy": 0.8257,
        "precision": 0.9179,
        "recall": 0.7153,
        "F1": 0.8040,
        "yes": 0.3897,
    }
    assert found.counts() == {"questions": 3000, "TP": 1073, "FP": 96, "TN": 1404, "FN": 427, "unparsed": 0}
    assert found.figures()["accuracy"].value == pytest.approx(100 * (1073 + 1404) / 3000)
