"""``python -m benchmarks.score`` and ``compare``, and the same as evaluate.Metric: files of answers."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import nltk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import compare, metrics, score
from benchmarks.predictions import Prediction
from benchmarks.scorers import prepare
from benchmarks.usage import UsageError

ROOT = Path(__file__).parents[2]
TRUTH = {"1": ["dog", "bench"], "2": ["cat"], "3": ["car", "person"], "4": ["person"]}
CAPTIONS = {"1": "A dog on a bench.", "2": "A dog and a cat.", "3": "Two cars.", "4": "Nothing at all."}


@pytest.fixture
def nltk_data(data, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [str(data / "nltk_data")])


@pytest.fixture
def chair(tmp_path):
    """A small CHAIR: a file of captions, and its ground truth."""
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    lines = [json.dumps({"image_id": int(key), "caption": text}) for key, text in CAPTIONS.items()]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_chair_of_real_captions_to_the_last_digit(command, data, tmp_path, nltk_data):
    expected = {"original": (478, 3739, 1216), "wordnet": (482, 3787, 1225)}
    for variant, (wrong, said, covered) in expected.items():
        code, out, _ = command(
            score,
            *("task=chair", f"variant={variant}", f"output={tmp_path / 'out.json'}"),
            f"predictions={data / 'chair' / 'llava15_greedy_500.jsonl'}",
            f"ground_truth={data / 'chair' / 'ground_truth_500.json'}",
            f"synonyms={data / 'chair' / 'synonyms.txt'}",
        )
        assert code == 0
        found = json.loads((tmp_path / "out.json").read_text())
        assert found["figures"]["CHAIR_s"] == 45
        assert found["figures"]["CHAIR_i"] == pytest.approx(100 * wrong / said, abs=1e-12)
        assert found["figures"]["recall"] == pytest.approx(100 * covered / 1524, abs=1e-12)
        counts = found["counts"]
        assert (counts["hallucinated mentions"], counts["mentions"]) == (wrong, said)
        assert (counts["covered objects"], counts["objects"]) == (covered, 1524)
        assert (found["task"], found["n"]) == ("chair", 500)
        assert found["settings"]["variant"] == variant
        assert found["checksums"]["synonyms.txt"].startswith("md5:")
        assert set(found["checksums"]) == {
            *("llava15_greedy_500.jsonl", "ground_truth_500.json", "synonyms.txt")
        }
        low, high = found["intervals"]["CHAIR_s"]
        assert low < 45 < high
        assert variant in out


def test_amber_of_real_responses_to_the_last_count(command, data, tmp_path, nltk_data):
    folder = data / "amber"
    code, _, _ = command(
        score,
        *("task=amber", f"output={tmp_path / 'out.json'}", f"details={tmp_path / 'details.json'}"),
        f"predictions={folder / 'llava15_responses_166.json'}",
        f"annotations={folder / 'annotations.json'}",
        f"relation={folder / 'relation.json'}",
        f"safe_words={folder / 'safe_words.txt'}",
    )
    assert code == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["official"] == {"CHAIR": 7.5, "Cover": 50.9, "Hal": 37.3, "Cog": 3.2}
    names = ("nouns", "hallucinated", "covered", "truth", "cog", "hallu", "clean", "responses")
    assert [found["counts"][name] for name in names] == [1260, 95, 472, 927, 26, 807, 104, 166]
    assert found["settings"] == {"nouns": "nltk", "similarity": "exact", "parser": "official"}
    details = json.loads((tmp_path / "details.json").read_text())
    assert sum(len(line["nouns"]) for line in details) == 1260
    assert sum(len(line["hallucinated"]) for line in details) == 95


def test_amber_of_both_parts_has_the_amber_score(command, data, tmp_path):
    folder = data / "amber"
    annotations = json.loads((folder / "annotations.json").read_text())
    answers = [
        {"id": entry["id"], "response": "a lake" if entry["type"] == "generative" else "No"}
        for entry in annotations
    ]
    (tmp_path / "all.json").write_text(json.dumps(answers))
    code, _, _ = command(
        score,
        *("task=amber", "nouns=table", f"output={tmp_path / 'out.json'}"),
        f"predictions={tmp_path / 'all.json'}",
        f"annotations={folder / 'annotations.json'}",
    )
    assert code == 0
    found = json.loads((tmp_path / "out.json").read_text())
    official = found["official"]
    assert official["all"]["recall"] == 100
    assert official["existence"]["accuracy"] == 100
    assert official["AMBER"] == pytest.approx((100 - official["CHAIR"] + official["all"]["F1"]) / 2)
    assert found["figures"]["AMBER"] == pytest.approx(official["AMBER"], abs=0.1)
    assert found["n"] == len(annotations)
    assert "approximate" in found["settings"]["nouns"]


def test_pope_of_real_answers(command, data, tmp_path):
    code, _, _ = command(
        score,
        *("task=pope", f"output={tmp_path / 'out.json'}"),
        f"predictions={data / 'pope' / 'llava15_random_answers.jsonl'}",
        f"questions={data / 'pope' / 'coco_pope_random.json'}",
    )
    assert code == 0
    found = json.loads((tmp_path / "out.json").read_text())
    names = ("accuracy", "precision", "recall", "F1")
    assert [round(found["official"][name], 4) for name in names] == [0.8257, 0.9179, 0.7153, 0.8040]
    assert found["counts"]["unparsed"] == 0
    assert found["figures"]["yes"] == pytest.approx(38.9667, abs=1e-4)


def test_several_files_of_seeds_give_mean_and_deviation(command, chair, tmp_path):
    other = chair / "other.jsonl"
    other.write_text((chair / "captions.jsonl").read_text().replace("A dog on a bench", "A dog and a cat"))
    files = f"predictions=[{chair / 'captions.jsonl'},{other}]"
    words = ("task=chair", files, f"ground_truth={chair / 'truth.json'}", f"output={tmp_path / 'out.json'}")
    code, out, _ = command(score, *words)
    assert code == 0
    assert [result["figures"]["CHAIR_s"] for result in json.loads((tmp_path / "out.json").read_text())] == [
        25,
        50,
    ]
    assert "mean of 2 files" in out
    assert "37.500" in out


def test_two_files_are_compared_pair_by_pair(command, chair, tmp_path):
    right = chair / "right.jsonl"
    lines = [json.dumps({"image_id": key, "caption": text}) for key, text in reversed(CAPTIONS.items())]
    right.write_text("\n".join(lines).replace("A dog and a cat", "A cat"))
    words = (right, chair / "captions.jsonl", "task=chair", f"ground_truth={chair / 'truth.json'}")
    code, out, _ = command(compare, *words, f"output={tmp_path / 'out.json'}")
    assert code == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["differences"]["CHAIR_s"]["value"] == -25
    assert found["differences"]["recall"]["value"] == 0
    assert found["mcnemar"]["CHAIR_s"] == {"only_this": 0, "only_reference": 1, "p": 1.0, "holm": 1.0}
    assert "0:1" in out
    right.write_text("\n".join(lines[:3]))
    code, _, error = command(compare, *words)
    assert code == 2
    assert "1 ids are in one of them only, the first of them 1" in error


WRONG = {
    "": "unknown task ''",
    "task=chiar": "did you mean 'chair'?",
    "task=chair predictions=captions.jsonl": "ground_truth must be given",
    "task=chair ground_truth=truth.json": "predictions must be given",
    "CHAIR varient=wordnet": "did you mean 'variant'?",
    "CHAIR variant=pattern": "original, wordnet",
    "CHAIR synonyms=none.txt": "none.txt",
    "task=chair predictions=captions.jsonl ground_truth=none.json": "none.json",
    "OF none.jsonl": "none.jsonl: No such file",
    "OF broken.jsonl": "broken.jsonl, line 2: no JSON",
    "OF list.json": "list.json, line 3: no JSON",
    "OF bare.jsonl": "entry 2: no caption or response or text in it",
    "OF nameless.jsonl": "entry 1: no question_id or image_id or id",
    "OF number.jsonl": "entry 1: caption is no text but 7",
    "OF empty.jsonl": "empty.jsonl holds no answers",
    "OF twice.jsonl": "1 ids are answered twice or more",
    "OF unknown.jsonl": "['77']",
    "task=pope predictions=captions.jsonl questions=questions.jsonl": "neither yes nor no",
    "task=pope predictions=captions.jsonl questions=captions.jsonl": "captions.jsonl",
    "task=amber predictions=captions.jsonl annotations=truth.json nouns=table": "relation.json",
}
SHORT = {
    "CHAIR": "task=chair predictions=captions.jsonl ground_truth=truth.json",
    "OF ": "task=chair ground_truth=truth.json predictions=",
}


@pytest.mark.parametrize(("words", "message"), WRONG.items())
def test_mistakes_are_named_and_nothing_is_scored(command, chair, monkeypatch, words, message):
    for short, long in SHORT.items():
        words = words.replace(short, long)
    files = {
        "broken.jsonl": '{"image_id": 1, "caption": "a dog"}\n{"image_id": 2, "cap\n',
        "list.json": '[{"image_id": 1,\n "caption": "a dog"},\n {"image_id" 2}]',
        "bare.jsonl": '{"image_id": 1, "caption": "a dog"}\n{"image_id": 2}\n',
        "nameless.jsonl": '{"caption": "a dog"}\n',
        "number.jsonl": '{"image_id": 1, "caption": 7}\n',
        "empty.jsonl": "\n",
        "twice.jsonl": '{"image_id": 1, "caption": "a dog"}\n{"image_id": 1, "caption": "a cat"}\n',
        "unknown.jsonl": '{"image_id": 77, "caption": "a dog"}\n',
        "questions.jsonl": '{"question_id": 1, "image": "a", "text": "is there a dog?", "label": "maybe"}\n',
    }
    for name, text in files.items():
        (chair / name).write_text(text)
    monkeypatch.chdir(chair)
    code, out, error = command(score, *words.split(), "output=out.json")
    assert code == 2
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (chair / "out.json").exists()


WORDS = st.sampled_from(["dog", "cat", "bench", "car", "person", "train", "blue", "and"])
TEXTS = st.lists(st.lists(WORDS, max_size=6).map(" ".join), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Scores captions of images 0, 1, ... against one ground truth for all."""
    path = tmp_path_factory.mktemp("truth") / "truth.json"
    path.write_text(json.dumps({str(number): ["dog", "bench", "person"] for number in range(10)}))
    scorer = prepare("chair", {"ground_truth": str(path)})

    def figures(texts):
        scored = scorer([Prediction(str(key), text, {}) for key, text in texts])
        return {name: figure.value for name, figure in scored.figures.items()}

    return path, figures


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.integers(0, 7))
def test_a_hallucinated_object_more_never_lowers_chair(small, texts, which):
    _, figures = small
    before = figures(enumerate(texts))
    texts[which % len(texts)] += " zebra"
    after = figures(enumerate(texts))
    for name in ("CHAIR_i", "CHAIR_s"):
        assert not after[name] < before[name]
    assert after["recall"] == before["recall"]


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.randoms())
def test_the_order_of_captions_is_nothing(small, texts, order):
    _, figures = small
    named = list(enumerate(texts))
    shuffled = named.copy()
    order.shuffle(shuffled)
    assert repr(figures(named)) == repr(figures(shuffled))


PART = """
import json, sys
from benchmarks import metrics
told, number = json.loads(sys.argv[1]), int(sys.argv[2])
options = {"num_process": 2, "process_id": number, "experiment_id": "one", "cache_dir": told["cache"]}
metric = metrics.Chair(ground_truth=told["truth"], options=options)
mine = range(number, 10, 2)
metric.add_batch(predictions=[told["texts"][n] for n in mine], references=[str(n) for n in mine])
print(json.dumps(metric.compute()))
"""


def test_batches_and_processes_score_as_one(small, tmp_path):
    path, figures = small
    texts = [" ".join(random.Random(n).choices(["dog", "cat", "bench", "zebra"], k=5)) for n in range(10)]
    want = figures(enumerate(texts))
    options = {"cache_dir": str(tmp_path)}
    metric = metrics.Chair(ground_truth=str(path), options=options)
    for batch in (range(4), range(4, 8), range(8, 10)):
        metric.add_batch(predictions=[texts[n] for n in batch], references=[str(n) for n in batch])
    assert metric.compute() == want
    (tmp_path / "part.py").write_text(PART)
    told = json.dumps({"truth": str(path), "texts": texts, "cache": str(tmp_path)})
    command = [sys.executable, str(tmp_path / "part.py"), told]
    options = {"stdout": subprocess.PIPE, "text": True, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    parts = [subprocess.Popen([*command, str(number)], **options) for number in (0, 1)]
    first, second = (json.loads(part.communicate()[0]) for part in parts)
    assert first == want
    assert second is None
    with pytest.raises(UsageError, match="ground_truth must be given"):
        metrics.Chair()


@pytest.fixture
def pope(tmp_path):
    """Six questions about two images, and answers to the first four of them, one of which is an error."""
    questions = [
        {"question_id": n, "image": f"{n // 3}.jpg", "text": "Is there a dog in the image?", "label": "yes"}
        for n in range(6)
    ]
    (tmp_path / "questions.json").write_text("".join(json.dumps(one) + "\n" for one in questions))
    lines = [{"question_id": n, "answer": "Yes " * (n + 1)} for n in range(3)]
    lines.append({"question_id": 3, "error": "FileNotFoundError: gone"})
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return [f"predictions={tmp_path / 'answers.jsonl'}", f"questions={tmp_path / 'questions.json'}"]


def test_a_part_of_the_questions_is_scored_if_asked_for_and_counted(command, pope, tmp_path):
    code, _, error = command(score, "task=pope", *pope)
    assert code == 2
    assert "3 ids without an answer, the first of them ['3', '4', '5']" in error
    output = tmp_path / "out.json"
    code, shown, _ = command(score, "task=pope", *pope, "partial=true", f"output={output}")
    assert code == 0
    assert "pope, 3 answers" in shown
    assert "1 errors, 3 not answered" in shown
    counts = json.loads(output.read_text())["counts"]
    assert (counts["TP"], counts["errors"], counts["not answered"]) == (3, 1, 3)
    assert command(score, "task=pope", *pope, "partial=perhaps")[0] == 2
    (tmp_path / "answers.jsonl").write_text('{"question_id": 99, "answer": "Yes"}\n')
    code, _, error = command(score, "task=pope", *pope, "partial=true")
    assert code == 2
    assert "1 unknown ids, the first of them ['99']" in error


def test_length_is_resampled_by_image(tmp_path, pope):
    scored = prepare("pope", {"questions": pope[1].partition("=")[2], "partial": "true"})(
        [Prediction(str(n), "yes " * (n + 1), {"truncated": n == 5}) for n in range(6)]
    )
    assert scored.figures["length"].numerator.tolist() == [1 + 2 + 3, 4 + 5 + 6]
    assert scored.figures["length"].denominator.tolist() == [3, 3]
    assert scored.figures["truncated"].numerator.tolist() == [0, 1]
    assert scored.figures["length"].value == 3.5


def test_a_file_of_errors_alone_holds_no_answers(command, chair):
    (chair / "captions.jsonl").write_text('{"image_id": 1, "error": "gone"}\n')
    words = [f"predictions={chair / 'captions.jsonl'}", f"ground_truth={chair / 'truth.json'}"]
    code, _, error = command(score, "task=chair", *words)
    assert code == 2
    assert "holds no answers" in error
    code, _, error = command(score, "task=chair", words[0], "ground_truth=null")
    assert code == 2
    assert "ground_truth must be given" in error


def test_what_is_not_a_number_is_null_in_a_file(tmp_path):
    score.write(tmp_path / "out.json", {"figures": {"F1": float("nan"), "recall": 1.5}, "n": [float("nan")]})
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "figures": {"F1": None, "recall": 1.5},
        "n": [None],
    }


def test_figures_of_a_file_that_says_what_was_cut_off(chair, command, tmp_path):
    lines = [json.loads(line) for line in (chair / "captions.jsonl").read_text().splitlines()]
    cut = [{**line, "truncated": number == 0} for number, line in enumerate(lines)]
    (chair / "cut.jsonl").write_text("\n".join(map(json.dumps, cut)))
    words = (f"predictions={chair / 'cut.jsonl'}", f"ground_truth={chair / 'truth.json'}")
    assert command(score, "task=chair", *words, f"output={tmp_path / 'out.json'}")[0] == 0
    assert json.loads((tmp_path / "out.json").read_text())["figures"]["truncated"] == 25
