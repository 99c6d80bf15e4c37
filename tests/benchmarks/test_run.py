"""Whole runs on a random LLaVA: what a run folder holds, and what happens when a run comes again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import folder
from benchmarks.batch import Asking

ROOT = Path(__file__).parents[2]
FIGURES = {
    "miniature-chair": {"CHAIR_s", "CHAIR_i", "recall"},
    "miniature-amber": {"CHAIR", "Cover", "Hal", "Cog"},
    "miniature-yesno": {"accuracy", "precision", "recall", "F1", "accuracy_existence"},
}


FIRES = "method.contrast.detector.threshold=0.0"
"""Makes the random model's every token fire; where nothing fires the library warns."""


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def batches(monkeypatch):
    """Sizes of the batches that were really generated."""
    sizes = []
    lines = Asking.lines

    def counted(asking, batch, seed):
        sizes.append(len(batch))
        return lines(asking, batch, seed)

    monkeypatch.setattr(Asking, "lines", counted)
    return sizes


@pytest.mark.filterwarnings("ignore:Skip never acted")  # four blocks have no stable phase
def test_the_main_experiment_fills_a_run_folder(harness, checkpoint, small, tmp_path, capsys):
    run = tmp_path / "run"
    assert (
        harness(
            "experiment=main",
            *small,
            FIRES,
            f"model.miniature-natural.path={checkpoint}",
            "tune=true",
            "~method.contrast.tune",
            "+method.contrast.tune={alpha:[0.5,1.0],detector:{threshold:[0.0]}}",
            "~method.skip.tune",
            "+method.skip.tune={detector:{threshold:[0.0]}}",
            "method.skip.detector.threshold=0.0",
            "method.skip-always.layers=[3]",
            "~method.dola.tune",
            "+method.dola.tune={layers:[low,high]}",
            "task.miniature-amber.n=5",
            "task.miniature-amber.max_new_tokens=6",
            "task.miniature-yesno.n=3",
        )
        == 0
    )
    rows = json.loads((run / "scores.json").read_text())["rows"]
    assert len(rows) == 2 * 8 * 3
    for row in rows:
        assert set(row) == {"model", "method", "task", "n", "figures", "stands_for", "mcnemar"}
        assert FIGURES[row["task"]] | {"length", "fired"} <= set(row["figures"])
        for figure in row["figures"].values():
            assert set(figure) == {"value", "low", "high", "difference"}
            assert set(figure["difference"]) == {"value", "low", "high"}
            if row["method"] == "greedy" and figure["value"] is not None:
                assert set(figure["difference"].values()) == {0}
    numbers = {(row["method"], row["task"]): (row["n"], row["figures"]["fired"]["value"]) for row in rows}
    assert numbers["greedy", "miniature-chair"] == (6, 0)
    assert numbers["dola", "miniature-amber"] == (5, 100)
    assert numbers["contrast", "miniature-chair"] == (6, 100)
    assert numbers["skip", "miniature-chair"][1] > 50, "a threshold of 0 is passed wherever js is not 0"
    assert numbers["skip-always", "miniature-amber"] == (5, 100)
    assert numbers["greedy", "miniature-yesno"][0] == 3
    answered = lines(run / "predictions" / "miniature-natural" / "dola" / "miniature-yesno.jsonl")
    assert len(answered) == 18, "one line a question"
    assert {"question_id", "image_id", "kind", "question", "text", "tokens", "fired"} <= set(answered[0])
    tuning = json.loads((run / "tuning.json").read_text())
    assert set(tuning["models"]) == {"miniature-late-prior", "miniature-natural"}
    assert set(tuning["models"]["miniature-natural"]["greedy"]["CHAIR_i"]) == {"value", "low", "high"}
    trials = tuning["models"]["miniature-natural"]["methods"]["contrast"]["trials"]
    assert [trial["knobs"]["alpha"] for trial in trials] == [0.5, 1.0]
    assert set(trials[0]["figures"]) == {"CHAIR_i", "recall", "length", "objects", "fired"}
    versions = json.loads((run / "versions.json").read_text())
    assert versions["model"]["miniature-natural"].startswith("sha256:")
    assert versions["packages"]["torch"]
    assert yaml.safe_load((run / "config.yaml").read_text())["task"]["miniature-amber"]["n"] == 5
    for picture in ("js_by_layer.png", "js_heatmap.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    table = (run / "table.md").read_text()
    for name in ("CHAIR_i", "miniature-natural, miniature-yesno, n = 3 images", "dola"):
        assert name in shown
        assert name in table


def test_a_rerun_generates_nothing_and_scores_the_same(harness, small, tmp_path, batches):
    assert harness(*small, FIRES) == 0
    scores = (tmp_path / "run" / "scores.json").read_bytes()
    assert batches == [4, 2, 4, 2]
    batches.clear()
    assert harness(*small, FIRES) == 0
    assert batches == []
    assert (tmp_path / "run" / "scores.json").read_bytes() == scores


def test_a_changed_run_is_refused_until_told_to_overwrite(harness, small, tmp_path, capsys, batches):
    assert harness(*small, "method=[greedy]") == 0
    before = sorted((p, p.read_bytes()) for p in (tmp_path / "run").rglob("*") if p.is_file())
    assert harness(*small, "method=[greedy]", "task.miniature-chair.seed=3") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "task.miniature-chair.seed: 10 -> 3" in error
    assert "overwrite=true" in error
    assert sorted((p, p.read_bytes()) for p in (tmp_path / "run").rglob("*") if p.is_file()) == before
    batches.clear()
    assert harness(*small, "method=[greedy]", "task.miniature-chair.seed=3", "overwrite=true") == 0
    assert batches == [4, 2]


def test_changed_weights_are_refused(harness, small, tmp_path, capsys, checkpoint):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", os.fspath(checkpoint), os.fspath(copy)], check=True)
    arguments = [*small, "method=[greedy]", f"model.miniature-late-prior.path={copy}"]
    assert harness(*arguments) == 0
    (copy / "README.md").write_text("a card is no weight")
    (copy / ".cache" / "huggingface").mkdir(parents=True)
    (copy / ".cache" / "huggingface" / "config.json.metadata").write_text("1763740000.5")
    assert harness(*arguments) == 0
    (copy / "generation_config.json").write_text("{}")
    assert harness(*arguments) == 2
    assert "files of model miniature-late-prior" in capsys.readouterr().err


DIES_IN_BATCH_3 = """
import os, signal, sys
from benchmarks import __main__ as entry
from benchmarks.batch import Asking
answers, seen = Asking.lines, []
def dying(*arguments):
    seen.append(1)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return answers(*arguments)
Asking.lines = dying
entry.main()
"""


def results(folder):
    """All that is the same each time; what answers took is not."""
    other = ("cost", "cost.json")
    files = [
        path.relative_to(folder) for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".md")
    ]
    return {path: (folder / path).read_bytes() for path in files if path.parts[0] not in other}


def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(harness, small, tmp_path, batches):
    arguments = [*small, "method=[greedy]", "task.miniature-chair.n=14"]
    assert harness(*arguments) == 0
    undisturbed = results(tmp_path / "run")
    killed = tmp_path / "killed"
    arguments.append(f"folder={killed}")
    ended = subprocess.run([sys.executable, "-c", DIES_IN_BATCH_3, *arguments], cwd=ROOT, capture_output=True)
    assert ended.returncode == -signal.SIGKILL
    assert not (killed / "scores.json").exists()
    file = killed / "predictions" / "miniature-late-prior" / "greedy" / "miniature-chair.jsonl"
    assert len(lines(file)) == 8, "what was finished is on the disk"
    with file.open("a") as half:
        half.write('{"image_id": "hal')
    batches.clear()
    assert harness(*arguments) == 0
    assert batches == [4, 2]
    assert results(killed) == undisturbed


def test_an_image_that_cannot_be_read_is_named_and_the_run_goes_on(harness, small, tmp_path, capsys):
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    for name, colour in (("a.png", "red"), ("c.png", "blue")):
        Image.new("RGB", (60, 40), colour).save(images / name)
    (images / "b.jpg").write_bytes(b"no image")
    (images / "notes.txt").write_text("not an image either, and not taken for one")
    arguments = [FIRES, *(a for a in small if "miniature-chair" not in a)]
    arguments += ["task=[describe]", f"task.describe.images={images}", "task.describe.max_new_tokens=4"]
    arguments += ["task.describe.prompt=describe this image ."]
    assert harness(*arguments) == 0
    shown = capsys.readouterr().out
    assert "1 items could not be answered" in shown
    assert "b.jpg: UnidentifiedImageError" in shown
    rows = json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]
    assert [row["n"] for row in rows] == [2, 2]
    assert "b.jpg" in (tmp_path / "run" / "table.md").read_text()


def test_a_sweep_makes_one_run_folder_for_each_value(harness, small, tmp_path):
    assert harness("-m", *small, FIRES, "method=[greedy,contrast]", "method.contrast.alpha=0.5,1.0") == 0
    found = {p.parent for p in (tmp_path / "run").rglob("scores.json")}
    alphas = {yaml.safe_load((p / "config.yaml").read_text())["method"]["contrast"]["alpha"] for p in found}
    assert alphas == {0.5, 1.0}


def test_alpha_0_is_plain_generate(harness, small, tmp_path):
    assert harness(*small, FIRES, "method.contrast.alpha=0") == 0
    folder = tmp_path / "run" / "predictions" / "miniature-late-prior"
    greedy, contrast = (lines(folder / name / "miniature-chair.jsonl") for name in ("greedy", "contrast"))
    assert [line["caption"] for line in greedy] == [line["caption"] for line in contrast]
    assert len({line["caption"] for line in greedy}) > 1


def test_answers_of_other_code_are_not_taken_for_today_s(harness, small, capsys, monkeypatch):
    assert harness(*small, "method=[greedy]") == 0
    monkeypatch.setattr(
        folder, "code", lambda: {"the code": "edited since", "torch": "0", "transformers": "0"}
    )
    assert harness(*small, "method=[greedy]") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "-> edited since" in error
    assert "overwrite=true" in error
