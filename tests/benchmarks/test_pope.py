import json
from pathlib import Path

import pytest

from benchmarks.tasks import pope


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
    def lines(name):
        return [json.loads(line) for line in (data / "pope" / name).read_text().splitlines()]

    answers = {line["question_id"]: line["text"] for line in lines("llava15_random_answers.jsonl")}
    questions = [
        (line["image"], line["label"], answers[line["question_id"]])
        for line in lines("coco_pope_random.json")
    ]
    found = pope.score(questions)
    figures = {name: round(figure.value / 100, 4) for name, figure in found.figures().items()}
    assert len(questions) == 3000
    assert found.unparsed == 0
    assert figures["accuracy"] == 0.8257
    assert figures["precision"] == 0.9179
    assert figures["recall"] == 0.7153
    assert figures["F1"] == 0.8040
