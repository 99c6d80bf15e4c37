"""Whole runs over small COCO, AMBER and POPE folders, some images missing, damaged or of odd modes."""

import json
import shutil

import pytest
from layouts import benchmarks_data, broken, coco_names, conversations, draw

from benchmarks import score
from benchmarks.collect import collect

TASKS = ("chair", "amber-generative", "amber-discriminative", "pope-popular", "conversations")


@pytest.fixture
def folder(tmp_path):
    folder = benchmarks_data(tmp_path / "data", 4)
    draw(folder / "coco" / "val2014" / coco_names(4)[1], mode="L")
    for place, name in enumerate(("a.jpg", "b.jpg")):
        draw(folder / name, place)
    conversations(folder / "conversations.jsonl", ["a.jpg", "b.jpg"])
    return folder


@pytest.fixture
def answer(harness, small, folder, tmp_path):
    """Runs greedy over all tasks; returns task -> its row of scores.json."""

    def call(*words, code=0):
        given = [word for word in small if "miniature-chair" not in word]
        given += [f"task.{name}.max_new_tokens=5" for name in TASKS]
        given += ["method=[greedy]", f"task=[{','.join(TASKS)}]", f"data={folder}", "task.chair.n=4"]
        given += [
            "task.amber-generative.nouns=table",
            f"task.conversations.file={folder}/conversations.jsonl",
        ]
        assert harness(*given, *words) == code
        if code:
            return None
        rows = json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]
        return {row["task"]: row for row in rows}

    return call


def answers(tmp_path, task):
    return tmp_path / "run" / "predictions" / "miniature-late-prior" / "greedy" / f"{task}.jsonl"


def test_a_run_s_figures_are_those_of_the_score_command_on_its_files(answer, folder, tmp_path):
    rows = answer()
    assert {name: row["n"] for name, row in rows.items()} == {
        **dict.fromkeys(TASKS, 4),
        "conversations": 2,
    }
    settings = {
        "chair": [f"ground_truth={folder / 'coco' / 'annotations'}"],
        "amber-generative": [f"annotations={folder / 'amber' / 'data'}", "nouns=table"],
        "amber-discriminative": [f"annotations={folder / 'amber' / 'data'}", "nouns=table", "parser=lenient"],
        "pope-popular": [f"questions={folder / 'pope' / 'coco_pope_popular.json'}"],
    }
    for name, given in settings.items():
        words = [f"task={name.split('-')[0]}", f"predictions={answers(tmp_path, name)}", *given]
        expected = score.from_words(words)[2](answers(tmp_path, name)).values()
        found = {key: figure["value"] for key, figure in rows[name]["figures"].items() if key != "fired"}
        assert {key for key in found if found[key] is not None}
        nan = {key: float("nan") if value is None else value for key, value in found.items()}
        assert nan == pytest.approx({key: expected[key] for key in found}, rel=1e-12, nan_ok=True)


def test_images_that_cannot_be_read_are_error_lines_and_the_rest_is_scored(answer, folder, tmp_path):
    names, images = coco_names(4), folder / "coco" / "val2014"
    broken(tmp_path / "bad")
    shutil.copy(tmp_path / "bad" / "cut.jpg", images / names[2])
    (images / names[3]).unlink()
    (folder / "amber" / "image" / "AMBER_2.jpg").write_bytes(b"")
    rows = answer()
    assert {name: row["n"] for name, row in rows.items()} == {
        **{"chair": 2, "pope-popular": 2, "conversations": 2},
        **{"amber-generative": 3, "amber-discriminative": 3},
    }
    lines = [json.loads(line) for line in answers(tmp_path, "pope-popular").read_text().splitlines()]
    wrong = {line["image_id"]: line["error"] for line in lines if "error" in line}
    assert len(lines) == 24
    assert sum("error" in line for line in lines) == 12
    assert wrong[names[2]].startswith("OSError: image file is truncated")
    assert wrong[names[3]].startswith("FileNotFoundError")
    assert rows["chair"]["figures"]["CHAIR_s"]["value"] is not None


def test_a_run_over_the_list_of_another_one_is_comparable_with_it(harness, small, folder, tmp_path):
    small = [word for word in small if "miniature-chair" not in word]
    small += ["task=[chair]", f"data={folder}", "task.chair.max_new_tokens=5"]
    small += ["method=[greedy,contrast]", "method.contrast.detector.threshold=0.0"]
    assert harness(*small, "task.chair.n=3", "task.chair.seed=5", "method.contrast.alpha=0.5") == 0
    listed = f"task.chair.list={tmp_path}/run/lists/chair.txt"
    assert harness(*small, listed, "method.contrast.alpha=2.0", f"folder={tmp_path}/again") == 0
    text = collect([tmp_path / "run", tmp_path / "again"])
    assert text.count("\n## ") == 1
    assert "| contrast (alpha=0.5) " in text
    assert "| contrast (alpha=2.0) " in text
    assert harness(*small, "task.chair.n=3", "task.chair.seed=6", f"folder={tmp_path}/other") == 0
    text = collect([tmp_path / "run", tmp_path / "other"])
    assert text.count("\n## ") == 2
    assert "task.seed: 5 there, 6 here" in text


def test_a_folder_that_is_not_there_ends_a_run_before_it_starts(answer, folder, tmp_path, capsys):
    answer(f"data={tmp_path / 'elsewhere'}", code=2)
    error = capsys.readouterr().err.splitlines()[-1]
    assert "get val2014.zip and annotations_trainval2014.zip from cocodataset.org/#download" in error
    assert not (tmp_path / "run").exists()
