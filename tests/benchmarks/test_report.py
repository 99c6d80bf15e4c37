import numpy as np
import pytest

from benchmarks import report
from benchmarks.pictures import Caption, by_kind, typical
from benchmarks.problems import Problems
from benchmarks.tasks import general
from benchmarks.tasks.miniature import Captions
from benchmarks.tuning import Choice, Tuned


def figure(value, low=None, high=None, difference=None):
    return {"value": value, "low": low, "high": high, "difference": difference}


def difference(value, low, high):
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (figure(14.23, 12, 16.4), "14.2 [12.0, 16.4]"),
        (figure(14.2, 12, 16, difference(0, 0, 0)), "14.2 [12.0, 16.0]"),
        (figure(11.0, 9, 13, difference(-3.2, -5, -1)), "11.0  -3.2 [-5.0, -1.0]*"),
        (figure(17.0, 9, 13, difference(2.8, 1, 5)), "17.0  +2.8 [+1.0, +5.0]*"),
        (figure(14.0, 9, 13, difference(-0.2, -2, 1)), "14.0  -0.2 [-2.0, +1.0]"),
        (figure(None), "undefined"),
        (figure(50.0, 40, 60, difference(None, None, None)), "50.0"),
    ],
)
def test_cells_mark_what_is_beyond_chance(cell, text):
    assert report.cell(cell) == text


def test_the_document_names_knobs_and_what_could_not_be_read():
    test = {"only_this": 1, "only_reference": 9, "p": 0.021, "holm": 0.042}
    figures = {"CHAIR_i": figure(1.0, 0, 2)}
    rows = [
        {"model": "m", "method": "greedy", "task": "t", "n": 3, "figures": figures, "mcnemar": {}},
        *(
            {"model": "m", "method": name, "task": "t", "n": 3, "figures": figures, "mcnemar": {"Hal": test}}
            for name in ("skip", "dola", "contrast", "deco")
        ),
    ]
    tuned = {
        "m": Tuned({}, {"contrast": Choice({"alpha": 1.5, "detector": {"threshold": 0.1}}, "the best", ())})
    }
    problems = Problems()
    for method in ("greedy", "skip"):
        problems.note(
            "m",
            method,
            "t",
            [
                {"id": "b", "image_id": "b", "error": "no file"},
                *({"id": f"c{n}", "image_id": "c", "converted": ["L"]} for n in range(3)),
            ],
        )
    problems.note("m", "greedy", "t", [{"id": f"d{n:02}", "error": "no file"} for n in range(20)])
    text = report.document(rows, tuned, problems)
    assert text.count("## m, t, n = 3 images") == 1
    assert text.count("| CHAIR_i |") == 2, "four methods side by side, the fifth below"
    assert "- m, t, Hal: skip 1:9, p 0.042; dola 1:9, p 0.042; contrast" in text
    assert "- m, contrast: alpha=1.5, detector.threshold=0.1; the best" in text
    assert "21 items could not be answered" in text
    assert "- t, b: no file" in text
    assert "- t, d18: no file\n- and 1 more, in problems.json" in text
    assert "1 images were converted to RGB (from L: 1)." in text
    problems.leave_out("m", "skip", "u", "no answer; the first error: gone")
    assert "Left out:\n\n- m, u, skip: no answer" in report.document(rows, tuned, problems)
    told = {"model": "m", "task": "t", "item": "b", "kind": "error", "what": "no file"}
    assert problems.rows()[0] == {**told, "methods": ["greedy", "skip"]}


def test_general_figures_pool_the_answers_of_an_image():
    lines = [
        {"image_id": "a", "text": "yes", "fired": 1, "tokens": 2, "truncated": 0},
        {"image_id": "a", "text": "no it is not", "fired": 0, "tokens": 4, "truncated": 1},
        {"image_id": "b", "text": "", "fired": 0, "tokens": 1, "truncated": 0},
    ]
    figures = general(lines, "text")
    assert {name: f.value for name, f in figures.items()} == pytest.approx(
        {"length": 5 / 3, "fired": 100 / 7, "truncated": 100 / 3}
    )
    assert len(figures["length"].numerator) == 2


def test_words_of_a_kind_are_gathered_over_captions():
    one = Caption(["a", "dog"], ["function", "hallucinated"], np.array([[0.0, 0.1], [0.2, 0.3]]))
    two = Caption(["a", "cat"], ["function", "correct"], np.array([[0.4, 0.5], [0.6, 0.7]]))
    groups = by_kind([one, two])
    assert list(groups) == ["correct words", "hallucinated words", "function words"]
    assert groups["function words"].tolist() == [[0.0, 0.1], [0.4, 0.5]]
    assert typical([two, one]) is one, "a hallucination is what the picture should show"
    assert typical([two]) is two


def test_the_miniature_tells_right_words_from_wrong_ones():
    task = Captions(split="shifted", n=1, seed=0, prompt="", max_new_tokens=1)
    (key, scene), *_ = task.scenes().items()
    there, (absent, *_) = (
        scene.things[0].noun,
        sorted({"cat", "dog", "kite", "cup", "vase", "car", "pizza"} - scene.objects),
    )
    assert task.kinds(["there", there, absent, "red"], key) == [
        "function",
        "correct",
        "hallucinated",
        "other",
    ]
