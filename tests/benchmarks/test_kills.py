"""SIGKILL at random moments: the run goes on, asks nothing twice that it has kept, and ends as undisturbed.

MUTATION_DECODE_KILLS=20 kills so many times; otherwise once with each number of processes.
"""

import json
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("MUTATION_DECODE_KILLS", "3"))
RUN = (
    "method=[greedy,contrast]",
    "tune=true",
    "~method.contrast.tune",
    "+method.contrast.tune={detector:{critical:[0.67,0.75]}}",
    "tuning.task.n=12",
    "task.miniature-chair.n=40",
    "generation.batch_size=4",
    "bootstrap.resamples=200",
    "pictures.captions=0",
    "pictures.worst=0",
)
SAME = ("scores.json", "tuning.json", "table.md", "problems.json", "predictions", "tuning", "lists")


def start(folder, processes):
    command = [sys.executable, "-m", "benchmarks", *RUN, f"folder={folder}", f"processes={processes}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        text=True,
        **quiet,
    )


def kill(running):
    """With all that it has started: torchrun's processes have sessions of their own, and outlive it."""
    tree = psutil.Process(running.pid)
    for process in [tree, *tree.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    running.communicate()


def finish(folder, processes):
    running = start(folder, processes)
    _, errors = running.communicate()
    assert running.returncode == 0, errors


def answers(folder):
    """Files with answers, of one process or the parts of several."""
    return [
        path
        for path in folder.rglob("*.*")
        if path.suffix in (".jsonl", ".part") and "cost" not in path.parts
    ]


def first_answers(running, folder):
    while not answers(folder) and running.poll() is None:
        time.sleep(0.01)


def results(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for name in SAME
        for path in [folder / name, *(folder / name).rglob("*")]
        if path.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    running = start(folder, 1)
    first_answers(running, folder)
    began = time.monotonic()
    _, errors = running.communicate()
    assert running.returncode == 0, errors
    return results(folder), time.monotonic() - began


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(KILLS))
def test_a_run_that_is_killed_ends_as_an_undisturbed_one(undisturbed, tmp_path, number):
    expected, seconds = undisturbed
    moment = random.Random(number).uniform(0, seconds)
    processes, later = number % 3 + 1, (number + number // 3) % 3 + 1
    folder = tmp_path / "run"
    running = start(folder, processes)
    first_answers(running, folder)
    time.sleep(moment)
    kill(running)
    unfinished = not (folder / "scores.json").exists()
    kept = answers(folder)
    finish(folder, later)
    assert results(folder) == expected
    assert not list(folder.rglob("*.part"))
    for method in ("greedy", "contrast"):
        costs = (folder / "cost" / "miniature-late-prior" / method / "miniature-chair").glob("*.jsonl")
        asked = [json.loads(line)["batch"] for file in costs for line in file.read_text().split("\n") if line]
        assert len(asked) == len(set(asked)), "nothing that was kept is asked again"
    print(
        f"killed {moment:.1f} s after the first answers (of {seconds:.1f}), {'un' * unfinished}finished, "
        f"with {len(kept)} files of answers; {processes} processes, then {later}"
    )


def test_a_process_that_outlived_its_run_keeps_the_folder(tmp_path):
    folder = tmp_path / "run"
    finish(folder, 1)
    with FileLock(folder / ".lock.1"):
        second = start(folder, 1)
        _, errors = second.communicate()
    assert second.returncode == 2
    assert f"error: another run is at work in {folder}; wait for it" in errors
    finish(folder, 1)


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    folder = tmp_path / "run"
    running = start(folder, 1)
    first_answers(running, folder)
    second = start(folder, 1)
    _, errors = second.communicate()
    kill(running)
    assert second.returncode == 2
    assert f"error: another run is at work in {folder}; wait for it" in errors
    assert not (folder / "scores.json").exists()
