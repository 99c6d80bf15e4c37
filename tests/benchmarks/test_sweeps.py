"""Sweeps through each launcher: one table and one picture at the end, and no job that fails in silence."""

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from benchmarks import __main__ as entry
from benchmarks import run as runner
from benchmarks.batch import Asking
from benchmarks.launch import quoted
from benchmarks.sweep import Sweep, failures, short
from benchmarks.usage import UsageError

ROOT = Path(__file__).parents[2]
FIRES = "method.contrast.detector.threshold=0.0"
QUICK = ("pictures.captions=0", "pictures.worst=0", "task.miniature-chair.n=2")


def sweep(*arguments):
    """`python -m benchmarks -m ARGUMENTS`, as a process, like those that it starts."""
    command = [sys.executable, "-m", "benchmarks", "-m", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def decodings(folder):
    """First cells of the table's lines, and the lines of rows.csv about one figure."""
    table = (folder / "table.md").read_text()
    first, *_ = table.split("\n|  ")[1:]
    cells = [line.split("|")[1].strip() for line in first.splitlines()[2:] if line.startswith("|")]
    with (folder / "rows.csv").open() as file:
        return cells, [row for row in csv.DictReader(file) if row["figure"] == "CHAIR_i"]


def test_a_joblib_sweep_ends_with_one_table_and_one_picture(small, tmp_path):
    swept = [FIRES, "method.contrast.alpha=0.5,1.0", "method.contrast.beta=0.1,0.2,0.3"]
    ended = sweep(*small, *QUICK, *swept, "launcher=joblib")
    assert ended.returncode == 0, ended.stderr
    assert "Joblib.Parallel(n_jobs=2" in ended.stdout
    cells, rows = decodings(tmp_path / "run")
    knobs = [f"contrast (alpha={alpha}, beta={beta})" for alpha in (0.5, 1.0) for beta in (0.1, 0.2, 0.3)]
    assert cells == ["greedy", *knobs]
    assert len(rows) == 12
    assert len({row["folder"] for row in rows}) == 6
    assert {row["table"] for row in rows} == {"1"}
    assert (tmp_path / "run" / "table.md").read_text().strip() in ended.stdout
    assert ended.stdout.count("# 12 rows of 6 runs") == 1
    with Image.open(tmp_path / "run" / "frontier.png") as picture:
        assert picture.size[0] > 500


def test_a_submitit_sweep_tells_a_job_that_failed_and_collects_the_others(small, tmp_path):
    ended = sweep(*small, *QUICK, FIRES, "method.contrast.alpha=0.5,much,1.0", "launcher=slurm-local")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(
        "error: 1 of 3 jobs failed: method.contrast.alpha=much: method contrast: alpha must be a finite"
    )
    assert ended.stderr.endswith(f"the same command with folder={tmp_path / 'run'} goes on\n")
    assert "Traceback" not in ended.stderr
    cells, rows = decodings(tmp_path / "run")
    assert cells == ["greedy", "contrast (alpha=0.5)", "contrast (alpha=1.0)"]
    assert len(rows) == 4
    assert (tmp_path / "run" / "frontier.png").exists()


def test_a_worker_that_dies_is_told_and_what_had_finished_is_collected(small, tmp_path):
    other = "+method.dead._target_=benchmarks.baselines.DoLa,os.abort"  # the second one kills its process
    ended = sweep(*small, *QUICK, "method=[greedy]", other, "bootstrap.seed=0,1", "launcher=joblib")
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert any(line.startswith("error: TerminatedWorkerError: A worker process") for line in lines)
    last = next(line for line in lines if line.startswith("error: the launcher gave up"))
    assert "+method.dead._target_=os.abort" in last
    assert "has not ended" in last
    cells, _ = decodings(tmp_path / "run")
    assert cells == ["greedy", "dead"]


def test_a_job_that_fails_does_not_end_the_sweep(harness, small, tmp_path, capsys, monkeypatch):
    run = runner.run

    def broken(config, path):
        if config["bootstrap"]["seed"] == 1:
            raise ZeroDivisionError("a bug")
        if config["bootstrap"]["seed"] == 2:
            raise UsageError("a mistake")
        run(config, path)

    monkeypatch.setattr(runner, "run", broken)
    assert harness("-m", *small, *QUICK, "method=[greedy]", "bootstrap.seed=2,1,0") == 2
    error = capsys.readouterr().err
    assert "error: job 0: a mistake" in error
    assert 'raise ZeroDivisionError("a bug")' in error, "a bug keeps its traceback"
    assert "error: job 1: ZeroDivisionError: a bug" in error
    assert error.splitlines()[-1] == (
        "error: 2 of 3 jobs failed: bootstrap.seed=2: a mistake; bootstrap.seed=1: ZeroDivisionError: a bug; "
        f"the same command with folder={tmp_path / 'run'} goes on"
    )
    assert decodings(tmp_path / "run")[0] == ["greedy"]
    notes = [json.loads((tmp_path / "run" / "jobs" / f"{job}.json").read_text()) for job in range(3)]
    assert [note["code"] for note in notes] == [2, 1, 0]


def test_the_same_command_goes_on_in_the_same_folders(harness, small, tmp_path, monkeypatch):
    made, lines = [], Asking.lines

    def counted(asking, batch, *rest):
        made.append(len(batch))
        return lines(asking, batch, *rest)

    monkeypatch.setattr(Asking, "lines", counted)
    arguments = ["-m", *small, *QUICK, "method=[greedy]", "generation.seed=0,1"]
    assert harness(*arguments) == 0
    folders = sorted((tmp_path / "run").rglob("scores.json"))
    assert len(folders) == 2
    assert made == [2, 2]
    made.clear()
    folders[0].unlink()
    assert harness(*arguments) == 0
    assert not made
    assert sorted((tmp_path / "run").rglob("scores.json")) == folders


def test_jobs_of_several_processes_end_with_their_codes(harness, small, tmp_path, capsys, monkeypatch):
    codes = {"0": 0, "1": 3, "2": 0}
    started = []

    def ended(count, words, folder):
        started.append((count, folder))
        return codes[words[-1].rpartition("=")[2]]

    monkeypatch.setattr(entry, "start_processes", ended)
    arguments = [*small, *QUICK, "method=[greedy]", "processes=2", "generation.seed=0,1,2"]
    assert harness("-m", *arguments) == 3
    assert [count for count, _ in started] == [2, 2, 2], "a process that ends well does not end the sweep"
    assert len({folder for _, folder in started}) == 3
    assert "generation.seed=1: its processes ended with code 3" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["launcher=joblib"],
            "launcher=joblib is for the jobs of a sweep, of which there may be one: add -m",
        ),
        (["-m", "launcher=slurm"], "launcher=slurm needs Slurm's sbatch"),
        (["-m", "launcher=jobli"], "unknown launcher 'jobli': did you mean 'joblib'"),
        (["-m", "launcher=ray"], "needs the extra 'ray', not installed: pip install --editable '.[ray]'"),
        (
            ["-m", "method=[greedy],[contrast]", "method.contrast.alpha=1"],
            "unknown key method.contrast.alpha",
        ),
        (["-m", "method=[greedy],[contrats]"], "unknown method 'contrats': did you mean 'contrast'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(harness, small, tmp_path, capsys, arguments, message, monkeypatch):
    if "launcher=slurm" in arguments and shutil.which("sbatch"):
        pytest.skip("Slurm is here")
    if "launcher=ray" in arguments and importlib.util.find_spec("ray"):
        pytest.skip("Ray is here")
    assert harness(*arguments, *small) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.rglob("scores.json"))


@pytest.mark.parametrize("name", ["joblib", "slurm", "slurm-local", "ray"])
def test_launchers_compose(name):
    if name == "ray":
        pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [f"launcher={name}"], return_hydra_config=True)
        plain = compose("config", return_hydra_config=True)
    chosen = {"joblib": "Joblib", "slurm": "Slurm", "slurm-local": "Local", "ray": "Ray"}[name]
    assert config.hydra.launcher._target_.lower().endswith(f"{chosen}launcher".lower())
    assert plain.hydra.launcher._target_.endswith("BasicLauncher")
    assert set(config) == set(plain), "where a run is made is no part of what it is"


def test_a_run_s_folder_is_none_for_a_sweep(harness, small, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "versions.json").write_text("{}")
    assert harness("-m", *small) == 2
    assert "run holds a run, and a sweep needs a folder of its own" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["versions.json"]


def test_names_of_folders():
    assert short("alpha=1.0,beta=2") == "alpha=1.0,beta=2"
    assert short("") == "run"
    long = [short(f"{'ä' * 300}{number}") for number in range(2)]
    assert long[0] != long[1]
    assert all(len(name.encode()) <= 255 for name in long)
    one, other = short("path=/a/b"), short("path=_a_b")
    assert one.startswith("path=_a_b~")
    assert one != other
    assert short("path=/a/b") == one


@pytest.mark.parametrize("name", ["alpha=1,beta=[1,2]", "it's, 5 o'clock"])
def test_a_folder_s_name_is_a_value_for_hydra(name):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose("config", [f"folder={quoted(Path(name))}"]).folder == name


def test_failures_of_one_kind_are_told_once():
    jobs = [
        {"overrides": ["a=1", f"b={number}"], "code": 0 if number == 3 else 2, "error": "no folder x"}
        for number in range(4)
    ]
    assert failures(jobs) == "3 of 4 jobs failed: b=0, b=1, b=2: no folder x"
    assert failures(jobs[3:]) == "none of 1 jobs failed"
    assert failures(jobs[:1]) == "1 of 1 jobs failed: the only one: no folder x"


def test_of_several_processes_one_writes(tmp_path, monkeypatch):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [f"folder={tmp_path}", "hydra.mode=MULTIRUN"], return_hydra_config=True)
    config.hydra.job.num, config.hydra.runtime.output_dir = 0, str(tmp_path / "job")
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        begun = Sweep()
        begun.on_multirun_start(config)
        begun.on_job_start(config)
        assert (tmp_path / "jobs" / "0.json").exists() == (rank == 0)
