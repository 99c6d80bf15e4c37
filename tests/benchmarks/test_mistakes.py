"""What a user can get wrong: one clear line, exit code 2, nothing written."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import run as runner

ROOT = Path(__file__).parents[2]

CASES = [
    (["method=[greedy,contrats]"], "unknown method 'contrats': did you mean 'contrast'? There are contrast"),
    (["method=contrats"], "unknown method 'contrats': did you mean 'contrast'?"),
    (["task=[miniature-chiar]"], "did you mean 'miniature-chair'"),
    (["model=[miniature-natrual]"], "did you mean 'miniature-natural'"),
    (["metod=[greedy]"], "unknown key metod: did you mean 'method'"),
    (["method.contrast.alpa=1"], "unknown key method.contrast.alpa: did you mean 'alpha'"),
    (["+method.contrast.alpa=1"], "got an unexpected keyword argument 'alpa'"),
    (["method=[greedy"], "[greedy"),
    (["method=[]"], "method=[] leaves nothing to run"),
    (["task=[describe]"], "task.describe.images must be given"),
    (["task=[describe]", "task.describe.images=nowhere"], "no folder nowhere"),
    (["task=[describe]", "task.describe.images=conf"], "conf is an empty data set"),
    (["task.miniature-chair.n=0"], "n=0 is an empty data set"),
    (["task.miniature-chair.split=shfted"], "unknown split 'shfted': did you mean 'shifted'"),
    (["method.contrast.beta=1.5"], "method contrast: beta is a share"),
    (["method.contrast.alpha=inf"], "method contrast: alpha must be a finite number"),
    (["method.contrast.tune.alpha=[.nan]", "tune=true"], "method contrast: alpha must be a finite number"),
    (["method.contrast.tune.alpha=2", "tune=true"], "tune.alpha must be a list"),
    (["tuning.budget=1", "tune=true"], "candidates under tune, more than tuning.budget=1"),
    (["method.contrast.detector.critical=9"], "method contrast: critical=9 leaves no block to watch"),
    (["method.contrast.detector=null"], "acts where its detector fires, and has none"),
    (["model.miniature-late-prior.device=cuda:7"], "device 'cuda:7' is not there; this machine has cpu"),
    (["model.miniature-late-prior.dtype=float31"], "dtype 'float31' is none"),
    (["model.miniature-late-prior.path=./nowhere"], "no folder ./nowhere"),
    (["model.miniature-late-prior.path=conf"], "no configuration at conf"),
    (["generation.batch_size=0"], "generation.batch_size=0; expected a whole number, at least 1"),
    (["generation.batch_size=many"], "generation.batch_size=many; expected a whole number"),
    (["bootstrap.resamples=0"], "bootstrap.resamples=0; expected"),
    (["bootstrap.seed=first"], "bootstrap.seed=first; expected a whole number, at least 0"),
    (["generation.seed=-1"], "generation.seed=-1; expected a whole number, at least 0"),
    (["overwrite=no"], "overwrite=no; expected true or false"),
    (["retry=maybe"], "retry=maybe; expected true or false"),
    (["tune=off"], "tune=off; expected true or false"),
    (["bootstrap=null"], "bootstrap must hold resamples, level, seed"),
    (["pictures=null"], "pictures must hold captions"),
    (["+generation.foo=1"], "generation must hold batch_size, seed; wrong or missing: foo"),
    (["pictures.captions=many"], "pictures.captions=many; expected a whole number, at least 0"),
    (["+method.greedy.generate.num_baems=2"], "generate takes no num_baems; did you mean 'num_beams'"),
    (["+method.greedy.generate.num_beams=0"], "num_beams=0; expected a whole number, at least 1"),
    (["+method.greedy.generate.early_stopping=maybe"], "method greedy, generate: `early_stopping` must be"),
    (["task.miniature-chair.max_new_tokens=0"], "max_new_tokens=0; expected a whole number, at least 1"),
    (["unfinished=cut"], "unfinished=cut; expected keep or drop"),
    (["bootstrap.level=95"], "bootstrap.level=95; expected a share between 0 and 1"),
    (["+method.greedy.generate.num_return_sequences=2"], "num_return_sequences must be 1"),
    (["tune=true", "tuning.task.split=shifted", "tuning.task.seed=10"], "images that knobs are tuned on"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_one_line_and_exit_code_2(arguments, message, harness, small, tmp_path, capsys):
    if "task=[describe]" in arguments:
        small = [argument for argument in small if "miniature-chair" not in argument]
    assert harness(*small, *arguments) == 2
    output = capsys.readouterr()
    last = output.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in output.err
    assert not (tmp_path / "run").exists()


def test_a_model_without_a_tokenizer(harness, small, tmp_path, capsys, checkpoint):
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare, ignore=shutil.ignore_patterns("token*"))
    assert harness(*small, f"model.miniature-late-prior.path={bare}") == 2
    assert "tokenizer" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_something_else_is_left_alone(harness, small, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    assert harness(*small, "overwrite=true") == 2
    assert "is not empty and holds no run" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_made(harness, small, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert harness(*small, f"folder={tmp_path / 'file' / 'run'}") == 2
    assert "choose another folder=" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(harness, small, monkeypatch):
    def broken(config, path):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(runner, "run", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        harness(*small)


def test_the_command_itself_ends_with_code_2_and_one_line(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "method=[contrats]", f"folder={tmp_path / 'run'}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        "error: unknown method 'contrats': did you mean 'contrast'? There are contrast, dola, greedy, "
        "skip, skip-always, skip1, skip2, skip3"
    ]
    assert not (tmp_path / "run").exists()


def test_help_lists_the_choices():
    command = [sys.executable, "-m", "benchmarks", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "method: contrast, dola, greedy" in shown
    assert re.search(r"model: .*llava-1.5-7b, .*miniature-natural", shown)
