"""One run in several processes: it ends as a run in one, also when a process was lost on the way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.answered import Answered
from benchmarks.tasks import about
from benchmarks.usage import UsageError

ROOT = Path(__file__).parents[2]
ITEMS = [about({"image_id": str(number)}, "what is this ?", lambda: None) for number in range(7)]
BATCHES = [ITEMS[start : start + 2] for start in range(0, 7, 2)]


def launch(processes, *arguments, script=None):
    """`torchrun --nproc_per_node N -m benchmarks ARGUMENTS`, or a script in its place."""
    entry = ["-m", "benchmarks"] if script is None else [str(script)]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    told = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "capture_output": True, "text": True}
    return subprocess.run([*command, *entry, *arguments], **told)


OTHER_EACH_TIME = ("versions.json", "cost.json")


def results(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".json", ".jsonl", ".md")
        and path.name not in OTHER_EACH_TIME
        and "cost" not in path.parts
    }


DIES = """
import os, signal, sys
from benchmarks import __main__ as entry
from benchmarks.batch import Asking
answers, seen = Asking.lines, []
def dying(*arguments):
    seen.append(1)
    if os.environ["RANK"] == "1" and len(seen) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return answers(*arguments)
Asking.lines = dying
entry.main()
"""


def test_two_processes_end_as_one_and_a_lost_one_can_be_made_up_for(harness, small, tmp_path):
    arguments = [*small, "task.miniature-chair.n=14", "generation.batch_size=2", "tune=true"]
    arguments += ["method=[greedy,contrast]", "method.contrast.detector.threshold=0.0"]
    arguments += ["~method.contrast.tune", "+method.contrast.tune={alpha:[0.5,1.0]}"]
    assert harness(*arguments) == 0
    alone = results(tmp_path / "run")

    shared = tmp_path / "shared"
    command = [sys.executable, "-m", "benchmarks", *arguments, f"folder={shared}", "processes=2"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert results(shared) == alone
    assert not list(shared.rglob("*.part"))
    assert ended.stdout.count("n = 14 images") == 1, "one process prints"

    lost, script = tmp_path / "lost", tmp_path / "dies.py"
    script.write_text(DIES)
    ended = launch(2, *arguments, f"folder={lost}", script=script)
    assert ended.returncode != 0
    assert "Signal 9 (SIGKILL)" in ended.stderr
    assert not (lost / "scores.json").exists()
    parts = sorted(lost.rglob("*.part"))
    assert parts, "what was answered is on the disk"
    with parts[-1].open("a") as half:
        half.write('{"batch": 3, "li')
    ended = launch(3, *arguments, f"folder={lost}")
    assert ended.returncode == 0, ended.stderr
    assert results(lost) == alone
    assert not list(lost.rglob("*.part"))


def test_a_mistake_is_told_before_processes_are_started(harness, small, tmp_path, capsys):
    assert harness(*small, "processes=2", "method=[contrast]", "method.contrast.alpha=much") == 2
    assert harness(*small, "processes=0") == 2
    errors = capsys.readouterr().err.splitlines()
    assert "alpha" in errors[0]
    assert "processes=0; expected a whole number, at least 1" in errors[1]
    assert len(errors) == 2
    assert not (tmp_path / "run").exists()


@pytest.fixture
def as_one_of(monkeypatch):
    """Makes this process look like one of several, which do not have to be waited for."""

    def set_to(rank, count):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(count))
        monkeypatch.setattr("benchmarks.processes.wait", lambda: None)

    return set_to


def answers(batch, word="yes"):
    return [{**item.record, "text": word} for item in batch]


def test_parts_are_put_in_order_and_gone_on_with_by_one_process(tmp_path, as_one_of):
    path = tmp_path / "folder" / "task.jsonl"
    as_one_of(0, 2)
    first = Answered(path, BATCHES)
    as_one_of(1, 2)
    second = Answered(path, BATCHES)
    assert first.open == second.open == [0, 1, 2, 3]
    with second.appending() as append:
        append(1, answers(BATCHES[1]))
        append(3, answers(BATCHES[3], word="nö"))
    as_one_of(0, 1)
    alone = Answered(path, BATCHES)
    assert alone.open == [0, 2]
    with alone.appending() as append:
        for number in alone.open:
            append(number, answers(BATCHES[number]))
    lines = alone.lines()
    assert [line["image_id"] for line in lines] == [str(number) for number in range(7)]
    assert lines[-1]["text"] == "nö"
    assert [entry.name for entry in path.parent.iterdir()] == ["task.jsonl"]
    assert Answered(path, BATCHES).open == []
    assert Answered(path, BATCHES).lines() == lines


def test_what_is_half_written_is_answered_again(tmp_path):
    path = tmp_path / "task.jsonl"
    whole = Answered(path, BATCHES)
    with whole.appending() as append:
        append(0, answers(BATCHES[0]))
        append(1, answers(BATCHES[1]))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        lines = content[:length].count(b"\n")
        assert Answered(path, BATCHES).open == list(range(lines // 2, 4))
        assert path.read_bytes() == b"".join(content.splitlines(keepends=True)[: lines // 2 * 2])


def test_answers_to_other_items_are_refused(tmp_path):
    path = tmp_path / "task.jsonl"
    with Answered(path, BATCHES).appending() as append:
        append(0, answers(BATCHES[0]))
    other = [list(reversed(batch)) for batch in BATCHES]
    with pytest.raises(UsageError, match="holds answers to other items"):
        Answered(path, other)
    path.rename(tmp_path / "kept")
    (tmp_path / "task.0.part").write_text('{"batch": 9, "lines": []}\n')
    with pytest.raises(UsageError, match=r"task\.0\.part holds answers to other items"):
        Answered(path, BATCHES)


def test_parts_are_gone_on_with_after_a_second_kill(tmp_path, as_one_of):
    path = tmp_path / "task.jsonl"
    for rank in (0, 1):
        as_one_of(rank, 2)
        with Answered(path, BATCHES).appending() as append:
            append(rank, answers(BATCHES[rank]))
    as_one_of(0, 1)
    alone = Answered(path, BATCHES)
    assert alone.open == [2, 3]
    with alone.appending() as append:
        append(2, answers(BATCHES[2]))  # and then it is killed
    last = Answered(path, BATCHES)
    assert last.open == [3]
    with last.appending() as append:
        append(3, answers(BATCHES[3]))
    assert [line["image_id"] for line in last.lines()] == [str(number) for number in range(7)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["task.jsonl"]


def test_another_task_s_parts_are_not_ours(tmp_path):
    (tmp_path / "task.b.0.part").write_text('{"batch": 0, "lines": []}\n')
    assert Answered(tmp_path / "task.jsonl", BATCHES).open == [0, 1, 2, 3]
