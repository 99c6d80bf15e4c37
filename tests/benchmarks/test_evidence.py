"""The evidence from a small real run: what is kept scores as what was made; verdicts by the protocol."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import folder
from benchmarks.evidence.__main__ import main
from benchmarks.evidence.answers import TASK, Training, keep, kept, unpacked
from benchmarks.evidence.trainings import pooled
from benchmarks.evidence.versus import Comparison, chosen, validated
from benchmarks.statistics import Interval
from benchmarks.usage import UsageError

LATE = "miniature-late-prior"


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """Three methods on a few scenes of the shipped late-prior model, tuned."""
    folder = tmp_path_factory.mktemp("run") / "training-7"
    words = ["method=[greedy,dola-low,dola-high]", f"task=[{TASK}]", f"task.{TASK}.n=12", "tune=true"]
    words += ["tuning.task.n=8", "method.dola-low.tune={plausibility:[0.02,0.1]}"]
    words += ["pictures.captions=0", "pictures.worst=0"]
    words += ["method.dola-high.tune={plausibility:[0.02,0.1]}", "bootstrap.resamples=50", f"folder={folder}"]
    done = subprocess.run([sys.executable, "-m", "benchmarks", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Training(7, folder)


def test_a_trainings_figures_are_those_of_its_run(training):
    rows = json.loads((training.path / "scores.json").read_text())["rows"]
    for row in rows:
        own = training.figures(LATE, row["method"])
        for name, figure in row["figures"].items():
            assert own[name].value == pytest.approx(figure["value"], nan_ok=True)
    assert len(rows) == 3
    assert pooled([training.figures(LATE, "greedy")])[0]["length"].value > 20
    assert training.costs[LATE, "dola-low"]["tokens_per_second"] > 0


def test_what_is_kept_scores_the_same_and_is_the_same_bytes_each_time(training, tmp_path):
    first = keep(training, tmp_path / "kept").read_bytes()
    assert keep(training, tmp_path / "kept").read_bytes() == first
    assert kept(tmp_path / "kept") == [7]
    assert len(first) < 30_000
    again = unpacked(7, tmp_path / "out", tmp_path / "kept")
    assert again.number == 7
    assert again.tuning == training.tuning
    for method in ("greedy", "dola-low"):
        assert again.lines(LATE, method) == training.lines(LATE, method)
    made = json.loads((again.path / "versions.json").read_text())
    assert made["model"][LATE].startswith("sha256:")


def test_an_unfinished_run_is_told(training, tmp_path):
    keep(training, tmp_path / "kept")
    again = unpacked(7, tmp_path / "out", tmp_path / "kept")
    path = again.path / "predictions" / LATE / "greedy" / f"{TASK}.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(UsageError, match="no answer about 2 of 12 images"):
        again.lines(LATE, "greedy")


def test_a_damaged_file_is_told(training, tmp_path):
    path = keep(training, tmp_path / "kept")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"7.tar.xz is damaged .*take it from the repository again"):
        unpacked(7, tmp_path / "out", tmp_path / "kept")


def test_what_the_page_lacks_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["evidence", "--page-only"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert re.search(r"error: \S*training-0\S* is not there; `make evidence` makes", capsys.readouterr().err)


def test_the_better_of_two_on_validation_is_chosen(training):
    methods = training.tuning[LATE]["methods"]
    values = {name: validated(training, LATE, name) for name in ("dola-low", "dola-high")}
    for name, value in values.items():
        trials = [t["figures"]["CHAIR_i"] for t in methods[name]["trials"] if not t["against"]]
        own = {"plausibility": 0.1, "norm": False}
        published = [t["figures"]["CHAIR_i"] for t in methods[name]["trials"] if t["knobs"] == own]
        assert value == ((False, min(trials)) if trials else (True, *published))
    assert chosen(training, LATE, ("dola-low", "dola-high")) == min(values, key=values.get)
    assert validated(training, LATE, "greedy") == (True, float("inf"))


def comparison(chair, recall, holm):
    return Comparison(
        LATE, "DoLa", ("contrast",), ("dola-low",), 0, Interval(*chair), Interval(*recall), (), holm, holm
    )


@pytest.mark.parametrize(
    ("chair", "recall", "holm", "verdict"),
    [
        ((-3, -4, -2), (2, 1, 3), 0.001, "win"),
        ((-3, -4, -2), (2, 1, 3), 0.06, "tie"),
        ((-3, -4, -2), (0, -0.9, 1), 0.001, "win"),
        ((-3, -4, -2), (-1, -2, 0), 0.001, "tie"),
        ((3, 2, 4), (-2, -3, -1), 0.001, "loss"),
        ((3, 2, 4), (1, 0.5, 1.5), 0.001, "tie"),
        ((3, 2, 4), (0, -1, 0.9), 0.001, "loss"),
    ],
)
def test_verdicts(chair, recall, holm, verdict):
    assert comparison(chair, recall, holm).verdict == verdict


def test_a_verdict_is_the_opposite_from_the_other_side():
    one = comparison((-3, -4, -2), (0.5, -0.5, 1.5), 0.001)
    other = replace(one, chair=Interval(3, 2, 4), recall=Interval(-0.5, -1.5, 0.5))
    assert (one.verdict, other.verdict) == ("win", "loss")


def test_what_no_answer_depends_on_is_there_and_is_out_of_the_codes_checksum():
    root = Path(folder.__file__).parents[1]
    named = [path.relative_to(root).as_posix() for path in root.glob("benchmarks/**/*.py")]
    for part in folder.APART:
        assert any(name.startswith(part) for name in named)
    assert not any(name.startswith(folder.APART) for name in named if "tasks" in name or "world" in name)
    assert "mutation_decode/lens.py".startswith(folder.APART) is False
