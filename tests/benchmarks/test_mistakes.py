"""What a user can get wrong: one clear line, exit code 2, nothing written."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchmarks import run as runner
from benchmarks.typed import mistyped

ROOT = Path(__file__).parents[2]
METHODS = ", ".join(sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")))

CASES = [
    (["method=[greedy,contrats]"], "unknown method 'contrats': did you mean 'contrast'? There are beam5"),
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
    (["task=[describe]", "task.describe.images=null"], "task describe: images must be text, got null"),
    (["task=[describe]", "task.describe.images=[a,b]"], "images must be text, got ['a', 'b']"),
    (["task.miniature-chair.prompt=5"], "task miniature-chair: prompt must be text, got 5"),
    (["task.miniature-chair.n=true"], "n must be a whole number, got true"),
    (["task.miniature-chair=null"], "task miniature-chair must be a mapping, such as {key: value}, got null"),
    (["task=null"], "task=null: expected names of tasks. There are amber-discriminative"),
    (["tuning=null"], "tuning=null: expected names of tunings. There are coco, miniature"),
    (["=3"], "=3: expected key=value"),
    (["model.miniature-late-prior.dtype=5"], "model miniature-late-prior: dtype must be text, got 5"),
    (["model.miniature-late-prior.dtype=null"], "dtype must be text, got null"),
    (["model.miniature-late-prior.template=5"], "template must be text or null, got 5"),
    (["model.llava-1.5-7b.path=x"], "a dot divides keys; write model.llava-1_5-7b for model.llava-1.5-7b"),
    (["model.miniature-late-prior.path=null"], "path must be text, got null"),
    (["model.miniature-late-prior.processor=5"], "processor must be a mapping or null, got 5"),
    (["method.greedy=5"], "method greedy must be a mapping, such as {key: value}, got 5"),
    (["method.greedy.generate=5"], "method greedy: generate must be a mapping, such as {key: value}, got 5"),
    (["method.greedy.generate={do_sample:true}"], "has no do_sample; a + adds it: +method.greedy."),
    (["method.greedy.generate.do_sample=true"], "has no do_sample; a + adds it: +method.greedy."),
    (["method.contrast.detector={alpa:1}"], "unknown key method.contrast.detector.alpa: There are _target_"),
    (["method.contrast.detector._target_=no.Such"], "_target_=no.Such; expected a class that can be"),
    (["method.contrast.tune=5", "tune=true"], "tune must be a mapping, such as {key: value}, got 5"),
    (["folder=/proc/x"], "/proc/x: No such file or directory; choose another folder="),
    (["task.miniature-chair.n=0"], "n=0 is an empty data set"),
    (["task.miniature-chair.split=shfted"], "unknown split 'shfted': did you mean 'shifted'"),
    (["method.contrast.beta=1.5"], "method contrast: beta is a share"),
    (["method.contrast.alpha=inf"], "method contrast: alpha must be a finite number"),
    (["method.contrast.tune={alpha:[.nan]}", "tune=true"], "method contrast: alpha must be a finite number"),
    (["method.contrast.tune={alpha:2}", "tune=true"], "tune.alpha must be a list"),
    (["method=[dola]", "tuning.budget=1", "tune=true"], "candidates under tune, more than tuning.budget=1"),
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
    (["tuning.budget=null"], "tuning.budget=None; expected a whole number, at least 1"),
    (["tuning.below=half"], "tuning.below=half; expected a percent of the tokens"),
    (["+method.greedy.generate.max_new_tokens=null"], "max_new_tokens=None; expected a whole number"),
    (["overwrite=no"], "overwrite=no; expected true or false"),
    (["retry=maybe"], "retry=maybe; expected true or false"),
    (["tune=off"], "tune=off; expected true or false"),
    (["bootstrap=null"], "bootstrap must hold resamples, level, seed"),
    (["pictures=null"], "pictures must hold captions, worst"),
    (["+generation.foo=1"], "generation must hold batch_size, seed; wrong or missing: foo"),
    (["pictures.captions=many"], "pictures.captions=many; expected a whole number, at least 0"),
    (["pictures.worst=-1"], "pictures.worst=-1; expected a whole number, at least 0"),
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


@dataclass
class Knobs:
    share: float = 0.5
    names: str | Sequence[int] = "low"
    options: Mapping[str, Any] | None = None
    unknown: Path | int = 1
    kind: ClassVar[str] = "knobs"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"share": 1, "names": [1, 2], "options": {"a": 1}, "other": 3, "kind": 3}, None),
        ({"unknown": "anything"}, None),
        ({"share": {"_target_": "builtins.float"}}, None),
        ({"share": True}, "share must be a number, got true"),
        ({"share": "0.5"}, "share must be a number, got '0.5'"),
        ({"names": 5}, "names must be text or a list, got 5"),
        ({"options": "a"}, "options must be a mapping or null, got 'a'"),
        ({"options": [1]}, "options must be a mapping or null, got [1]"),
    ],
)
def test_types_are_told_in_words(values, told):
    assert mistyped(Knobs, values) == told


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
        f"error: unknown method 'contrats': did you mean 'contrast'? There are {METHODS}"
    ]
    assert not (tmp_path / "run").exists()


def test_help_lists_the_choices():
    command = [sys.executable, "-m", "benchmarks", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"method: {METHODS}" in shown
    assert re.search(r"model: .*llava-1.5-7b, .*miniature-natural", shown)


NO_SUPERUSER = """
import ctypes, os, sys
for capability in (1, 2) if os.getuid() == 0 else ():  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Runs Python as somebody to whom a file's permissions apply."""

CALLS = """
import contextlib, importlib, io, json, sys
for name, *arguments in json.load(sys.stdin):
    sys.argv, error = [name, *arguments], io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            importlib.import_module(name).main()
            code = 0
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, error.getvalue()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_files_that_may_not_be_read(small, tmp_path, checkpoint):
    locked, weights = tmp_path / "locked", tmp_path / "weights"
    (locked / "inside").mkdir(parents=True)
    shutil.copytree(checkpoint, weights)
    (weights / "model.safetensors").chmod(0)
    path = "model.miniature-late-prior.path"
    describe = ["task=[describe]", f"task.describe.images={locked}"]
    small = [word for word in small if "miniature-chair" not in word]
    run = ["benchmarks.__main__", "method=[greedy]", *small]
    readable = "Permission denied; whoever runs this must be allowed to read it"
    calls = {
        f"{locked}: {readable}": [*run, *describe],
        f"{locked}/inside: {readable}": [*run, *describe, f"task.describe.images={locked}/inside"],
        f"{locked}/annotations/instances_": [*run, "task=[chair]", f"task.chair.root={locked}"],
        f"{locked}/model: {readable}": [*run, f"{path}={locked}/model"],
        f"{weights}/model.safetensors: {readable}": [*run, f"{path}={weights}"],
        f"{locked}/run: Permission denied; choose another folder=": [*run, f"folder={locked}/run"],
        f"{locked}/annotations/": ["benchmarks.prepare", "task=chair", f"root={locked}"],
        f"{locked}/p/coco_pope_": ["benchmarks.prepare", "task=pope", f"root={locked}/p", "build=true"],
    }
    locked.chmod(0)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", NO_SUPERUSER, "-c", CALLS],
            **{"cwd": ROOT, "capture_output": True, "text": True, "input": json.dumps([*calls.values()])},
        )
    finally:
        locked.chmod(0o700)
    assert ended.returncode == 0, ended.stderr
    for message, line in zip(calls, ended.stdout.splitlines(), strict=True):
        code, error = json.loads(line)
        assert (code, error.count("\n")) == (2, 1), error
        assert error.startswith(f"error: {message}")
        assert "Permission denied" in error
    assert not (tmp_path / "run").exists()


def test_a_mistake_that_only_several_processes_find_is_one_line(small, tmp_path, checkpoint):
    torn, yamls = tmp_path / "torn", tmp_path / "yamls"
    shutil.copytree(checkpoint, torn)
    content = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(content[: len(content) // 2])
    (yamls / "task").mkdir(parents=True)
    (yamls / "task" / "mine.yaml").write_text(
        "# @package task.mine\ndefaults: [/task/miniature-chair@_here_, _self_]\nn: 2\n"
    )
    small = [word for word in small if "miniature-chair" not in word]
    words = [*small, "method=[greedy]", "task=[mine]", f"model.miniature-late-prior.path={torn}"]
    command = [sys.executable, "-m", "benchmarks", "--config-dir", str(yamls), *words, "processes=2"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.stderr.startswith(f"error: model miniature-late-prior: {torn} cannot be loaded: ")
    assert ended.stderr.count("\n") == 1
    assert ended.returncode == 2
