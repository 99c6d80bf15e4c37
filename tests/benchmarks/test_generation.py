"""The loop over batches: what is in which, what is asked again, what happens when nothing can be written."""

import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from hypothesis import given, strategies
from PIL import Image

from benchmarks.generation import WINDOW, in_order
from benchmarks.models import Checkpoint
from benchmarks.plan import Job
from benchmarks.problems import Problems
from benchmarks.scoring import compare
from benchmarks.sentences import whole
from benchmarks.tasks.miniature import Captions

ROOT = Path(__file__).parents[2]


@given(strategies.lists(strategies.integers(0, 9), max_size=200), strategies.integers(1, 5))
def test_the_longest_come_first_within_a_window(lengths, batch_size):
    order = in_order(lengths, batch_size)
    assert sorted(order) == list(range(len(lengths)))
    for start in range(0, len(lengths), WINDOW * batch_size):
        window = order[start : start + WINDOW * batch_size]
        assert set(window) == set(range(start, start + len(window)))
        assert [(-lengths[one], one) for one in window] == sorted((-lengths[one], one) for one in window)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A dog runs. It has a fris", "A dog runs."),
        ("there is a table . it is red . there is", "there is a table . it is red ."),
        ('He says "stop!" and then', 'He says "stop!"'),
        ("It costs 3.50 and", "It costs 3.50 and"),
        ("Yes", "Yes"),
        ("", ""),
        ("All is said.", "All is said."),
    ],
)
def test_whole_sentences(text, kept):
    assert whole(text) == kept


@pytest.fixture
def described(small, tmp_path):
    """Arguments of a run over a folder of images, the second of which is none."""
    images = tmp_path / "images"
    images.mkdir()
    for index in range(6):
        Image.new("RGB", (60, 40), (index * 40, 90, 0)).save(images / f"{index}.png")
    (images / "1.png").write_bytes(b"no image")
    arguments = [a for a in small if "miniature-chair" not in a]
    arguments += ["task=[describe]", f"task.describe.images={images}", "task.describe.max_new_tokens=4"]
    return [
        *arguments,
        "task.describe.prompt=describe this image .",
        "method=[greedy]",
        "generation.batch_size=2",
    ]


def answers(folder):
    path = folder / "predictions" / "miniature-late-prior" / "greedy" / "describe.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def batches(folder):
    """Numbers of the batches that were generated, over all runs."""
    files = (folder / "cost").rglob("*.jsonl")
    return [json.loads(line)["batch"] for file in files for line in file.read_text().split("\n") if line]


def test_an_error_stays_until_it_is_retried(harness, described, tmp_path, capsys):
    run = tmp_path / "run"
    assert harness(*described) == 0
    assert [("error" in line) for line in answers(run)] == [False, True, False, False, False, False]
    rows = json.loads((run / "problems.json").read_text())
    assert [(row["item"], row["kind"]) for row in rows] == [("1.png", "error")]
    (run.parent / "images" / "0.png").replace(run.parent / "images" / "1.png")
    Image.new("L", (60, 40), 9).save(run.parent / "images" / "0.png")
    assert harness(*described) == 2
    assert "another folder=; retry=true, if images were mended" in capsys.readouterr().err
    assert batches(run) == [0, 1, 2]
    assert harness(*described, "retry=true") == 0
    assert batches(run) == [0, 1, 2, 0]
    assert [line["image_id"] for line in answers(run)] == [f"{index}.png" for index in range(6)]
    assert all("caption" in line for line in answers(run))
    rows = json.loads((run / "problems.json").read_text())
    assert [(row["item"], row["what"]) for row in rows] == [("0.png", "L")]
    assert "1 images were converted to RGB (from L: 1)" in (run / "table.md").read_text()
    assert harness(*described, "retry=true") == 0
    assert batches(run) == [0, 1, 2, 0], "nothing is left to be retried"


def test_the_list_of_images_and_what_figures_stand_for_are_kept(harness, small, tmp_path):
    assert harness(*small, "method=[greedy]", "unfinished=drop", "+method.greedy.generate.num_beams=2") == 0
    run = tmp_path / "run"
    images = (run / "lists" / "miniature-chair.txt").read_text().splitlines()
    path = run / "predictions" / "miniature-late-prior" / "greedy" / "miniature-chair.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert images == [line["image_id"] for line in lines]
    assert all(line["truncated"] for line in lines)
    (row,) = json.loads((run / "scores.json").read_text())["rows"]
    stands_for = row["stands_for"]
    assert stands_for["weights"].startswith("sha256:")
    assert stands_for["dtype"] == "float32"
    assert stands_for["prompt"] == "user : <image> describe this image . assistant :"
    assert stands_for["task"]["max_new_tokens"] == 6
    assert stands_for["decoding"]["method"] == {"generate": {"num_beams": 2}}
    assert stands_for["decoding"]["checkpoint"]["eos_token_id"] is not None
    expected = {"max_new_tokens": 6, "unfinished": "drop", "batch_size": 4, "seed": 0}
    assert stands_for["decoding"]["generation"] == expected
    words = sum(len(whole(line["caption"]).split()) for line in lines) / len(lines)
    assert row["figures"]["length"]["value"] == pytest.approx(words)
    (spent,) = json.loads((run / "cost.json").read_text())["rows"]
    assert spent["batches"] == 2


def test_changed_data_is_refused(harness, described, tmp_path, capsys):
    assert harness(*described) == 0
    Image.new("RGB", (61, 40), "red").save(tmp_path / "images" / "2.png")
    assert harness(*described) == 2
    assert "the files of images of task describe: sha256:" in capsys.readouterr().err
    Image.new("RGB", (60, 40)).save(tmp_path / "images" / "7.png")
    assert harness(*described) == 2
    assert "the files of task describe: sha256:" in capsys.readouterr().err


def test_a_task_or_a_method_without_any_answer_costs_the_others_nothing(harness, described, tmp_path):
    for image in (tmp_path / "images").iterdir():
        image.write_bytes(b"no image")
    (tmp_path / "images" / "one").mkdir()
    words = [word for word in described if not word.startswith("task=")]
    words += ["task=[describe,miniature-chair]", "task.miniature-chair.n=2"]
    words += ["task.miniature-chair.max_new_tokens=3"]
    assert harness(*words) == 0
    rows = json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]
    assert [row["task"] for row in rows] == ["miniature-chair"]
    table = (tmp_path / "run" / "table.md").read_text()
    assert "Left out:\n\n- miniature-late-prior, describe, greedy: no answer; the first error: " in table


def test_nothing_but_errors_is_a_mistake(harness, described, tmp_path, capsys):
    for image in (tmp_path / "images").iterdir():
        image.write_bytes(b"no image")
    assert harness(*described) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error: nothing could be scored: miniature-late-prior, describe, greedy: no answer" in last
    assert len(json.loads((tmp_path / "run" / "problems.json").read_text())) == 7


def test_methods_are_compared_over_the_items_that_all_have_answered():
    task = Captions(split="shifted", n=6, seed=3, prompt="", max_new_tokens=1)
    job = Job("chair", task, {}, task.items(), "", "")
    numbers = {"tokens": 3, "fired": 0, "truncated": 0}
    keys = [item.image_id for item in job.items]
    said = {key: " ".join(sorted(task.scenes()[key].objects)) for key in keys}

    def answers(wrong, lost):
        return [
            {"image_id": key, "error": "gone"}
            if number in lost
            else {
                "image_id": key,
                "caption": said[key] + (" kite kite kite" if number in wrong else ""),
                **numbers,
            }
            for number, key in enumerate(keys)
        ]

    found = {
        "greedy": answers({4, 5}, {0}),
        "contrast": answers({1}, {4, 5}),
        "dead": answers(set(), range(6)),
    }
    config = {"bootstrap": {"resamples": 20, "level": 0.95, "seed": 0}, "unfinished": "keep"}
    problems = Problems()
    rows = compare("m", job, found, {key: {} for key in found}, config, problems)
    assert [(row["method"], row["n"]) for row in rows] == [("greedy", 3), ("contrast", 3)]
    assert rows[0]["figures"]["CHAIR_i"]["value"] == 0, "its wrong ones were lost by contrast"
    assert rows[0]["stands_for"]["images"] == rows[1]["stands_for"]["images"]
    assert rows[1]["figures"]["CHAIR_s"]["difference"]["value"] == pytest.approx(100 / 3)
    assert problems.left_out() == ["m, chair, dead: no answer; the first error: gone"]
    none = {"greedy": answers(set(), {0, 1, 2}), "contrast": answers(set(), {3, 4, 5})}
    assert compare("m", job, none, {key: {} for key in none}, config, problems) == []
    assert problems.left_out()[1] == "m, chair, greedy, contrast: no item has an answer under every method"


def test_one_model_at_a_time_is_in_memory(harness, small, checkpoint, monkeypatch):
    there, most, load = weakref.WeakSet(), [], Checkpoint.load

    def counted(self, name):
        most.append(len(there))
        loaded = load(self, name)
        there.add(loaded.model)
        return loaded

    monkeypatch.setattr(Checkpoint, "load", counted)
    words = ["model=[miniature-late-prior,miniature-natural]", f"model.miniature-natural.path={checkpoint}"]
    assert harness(*small, *words, "method=[greedy]") == 0
    assert most == [0, 0]


@pytest.mark.parametrize("left", [[".lock.0"], ["versions.json", ".lock.0"], [".config.yaml.partial"]])
def test_a_run_killed_at_its_very_beginning_can_be_made_again(harness, small, tmp_path, left):
    (tmp_path / "run").mkdir()
    for name in left:
        (tmp_path / "run" / name).write_text("{")
    assert harness(*small, "method=[greedy]") == 0
    (tmp_path / "run" / "config.yaml").unlink()
    assert harness(*small, "method=[greedy]") == 2


def test_a_job_that_is_started_again_keeps_its_answers(harness, small, tmp_path, monkeypatch):
    assert harness(*small, "method=[greedy]", "overwrite=true") == 0
    assert batches(tmp_path / "run") == [0, 1]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert harness(*small, "method=[greedy]", "overwrite=true") == 0
    assert batches(tmp_path / "run") == [0, 1]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert harness(*small, "method=[greedy]", "overwrite=true") == 0
    assert batches(tmp_path / "run") == [0, 1]
    assert (tmp_path / "run" / "scores.json").exists()


def test_samples_are_the_same_after_a_kill(harness, small, tmp_path):
    sampled = [
        *small,
        "method=[greedy]",
        "+method.greedy.generate.do_sample=true",
        "task.miniature-chair.n=12",
    ]
    assert harness(*sampled) == 0
    (file,) = (tmp_path / "run" / "predictions").rglob("*.jsonl")
    whole = file.read_text()
    assert len({json.loads(line)["caption"] for line in whole.splitlines()}) > 6
    file.write_text("".join(line + "\n" for line in whole.splitlines()[:4]))
    assert harness(*sampled) == 0
    assert file.read_text() == whole
    assert harness(*sampled, "generation.seed=1", "overwrite=true") == 0
    assert file.read_text() != whole


def test_files_are_utf_8_whatever_the_locale(small, tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    content = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "describe this image ."}]
    chat = {"id": "größe", "messages": [{"role": "user", "content": content}]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(chat) + "\n")
    words = [a for a in small if "miniature-chair" not in a]
    words += [
        "task=[conversations]",
        f"task.conversations.file={tmp_path / 'chats.jsonl'}",
        "method=[greedy]",
    ]
    words += ["task.conversations.max_new_tokens=3"]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "benchmarks", *words]
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ, **plain}, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
    (file,) = (tmp_path / "run" / "predictions").rglob("*.jsonl")
    assert json.loads(file.read_text("utf-8"))["id"] == "größe"


FULL = """
import resource, signal, sys
from benchmarks import __main__ as entry
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
entry.main()
"""


def test_a_full_disk_ends_in_one_line_and_loses_nothing(harness, small, tmp_path):
    arguments = [*small, "method=[greedy]", "task.miniature-chair.n=60", "pictures.captions=0"]
    assert harness(*arguments) == 0
    scores = (tmp_path / "run" / "scores.json").read_bytes()
    full = tmp_path / "full"
    room = (tmp_path / "run" / "versions.json").stat().st_size + 500
    assert room < len((tmp_path / "run" / "predictions").rglob("*.jsonl").__next__().read_bytes())
    command = [sys.executable, "-c", FULL.format(limit=room), *arguments, f"folder={full}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: File too large: make room"), ended.stderr
    assert f"folder={full}" in last
    (left,) = full.rglob("miniature-chair.jsonl")
    assert left.stat().st_size > 0
    assert harness(*arguments, f"folder={full}") == 0
    assert (full / "scores.json").read_bytes() == scores
