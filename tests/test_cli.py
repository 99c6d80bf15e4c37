"""The command, in processes and in this one: what it writes, and what it says of mistakes."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from mutation_decode import Calibration, cli
from mutation_decode.examples import read_examples

MODEL = Path(__file__).parents[1] / "benchmarks" / "miniature" / "models" / "miniature-late-prior"
PROMPT = ["--prompt", "describe this image ."]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures of noise, and what they are said to show."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "objects": ["cat", "chair"]}))
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n\n", "utf-8")
    return tmp_path / "data.jsonl"


def failed(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """The one line that a mistake ends with."""
    with pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    assert end.value.code == 2
    told = capsys.readouterr().err
    line = told.splitlines()[-1]
    assert line.startswith("mutation-decode")
    return line


@pytest.mark.filterwarnings(
    "ignore:calibrated on 2 images", "ignore:nothing that was tried", "ignore:the gain is"
)
def test_calibrate_writes_a_file_that_loads(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    words = ["calibrate", "--model", MODEL, "--data", data, "--out", out, "--budget", "1", "--limit", "2"]
    cli.main([*map(str, words), *PROMPT, "--max-new-tokens", "12"])
    told = capsys.readouterr()
    assert "verdict: " in told.out
    assert f"written to {out}" in told.out
    assert "greedy: 2 of 2 images" in told.err
    calibration = Calibration.load(out)
    assert calibration.report["images"] == 2
    assert calibration.model["depth"] == 12
    assert sorted(file.name for file in tmp_path.iterdir() if file.suffix != ".png") == [
        "data.jsonl",
        "out.json",
    ]


def test_as_a_process() -> None:
    words = [sys.executable, "-m", "mutation_decode.cli", "calibrate", "--model", "m", "--data", "none.jsonl"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mutation-decode: [Errno 2] No such file or directory: 'none.jsonl'\n"


def test_diagnose_prints_what_images_alone_say(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["diagnose", "--model", MODEL, "--images", data.parent, *PROMPT, "--max-new-tokens", "12"]
    cli.main([str(word) for word in words])
    assert "readout" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r'expected {"image": path, .* got no JSON \('),
        ("[1]", r"got list"),
        ('{"image": "0.png", "objects": ["cat"], "captions": "x"}', "got also captions"),
        ('{"objects": ["cat"]}', "expected the path of an image, got None"),
        ('{"image": "0.png"}', "expected objects as a list of names, got None"),
        ('{"image": "0.png", "objects": "cat"}', "expected objects as a list of names, got 'cat'"),
        ('{"image": "0.png", "objects": ["cat", ""]}', r"a list of names, got \['cat', ''\]"),
        ('{"image": "0.png", "objects": [], "caption": 3}', "a caption as text, or none at all, got 3"),
        ('{"image": "9.png", "objects": []}', r"expected an image at .*9\.png, got FileNotFoundError"),
        ('{"image": "data.jsonl", "objects": []}', r"an image at .*data\.jsonl, got UnidentifiedImageError"),
    ],
)
def test_a_bad_line_is_named_before_a_model_is_loaded(
    data: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    data.write_text(data.read_text("utf-8").replace("\n\n", f"\n\n{line}\n"), "utf-8")
    told = failed(capsys, "calibrate", "--model", "nowhere", "--data", data, "--out", data.parent / "c.json")
    assert re.search(rf"data\.jsonl:5: .*{message}", told)
    assert not (data.parent / "c.json").exists()


def test_other_mistakes_are_one_line_too(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ("calibrate", "--model", MODEL, "--data")
    assert "No such file" in failed(capsys, *ask, tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n", "utf-8")
    assert "empty.jsonl: expected lines of" in failed(capsys, *ask, tmp_path / "empty.jsonl")
    assert "--out: there is no folder" in failed(capsys, *ask, data, "--out", tmp_path / "none" / "c.json")
    assert "expected a whole number from 1 on, got '0'" in failed(capsys, *ask, data, "--limit", 0)
    assert "cannot be loaded" in failed(capsys, "calibrate", "--model", tmp_path, "--data", data)
    assert "'float33' is no dtype" in failed(capsys, *ask, data, "--dtype", "float33")
    assert "expected a file, got the folder" in failed(capsys, *ask, data, "--out", tmp_path)
    (tmp_path / "bare.jsonl").write_text('{"image": "0.png", "objects": []}\n', "utf-8")
    assert "bare.jsonl: no image shows an object" in failed(capsys, *ask, tmp_path / "bare.jsonl")
    (tmp_path / "wide.jsonl").write_text('{"image": "0.png"}\n', "utf-16")
    assert "wide.jsonl: expected text in utf-8" in failed(capsys, *ask, tmp_path / "wide.jsonl")
    broken = shutil.copytree(MODEL, tmp_path / "broken")
    (broken / "model.safetensors").chmod(0o600)
    (broken / "model.safetensors").write_bytes(b"\x01" * 100)
    assert "cannot be loaded" in failed(capsys, "calibrate", "--model", broken, "--data", data)
    if not torch.cuda.is_available():
        assert "cannot be loaded" in failed(capsys, *ask, data, "--device", "cuda")
    diagnose = ("diagnose", "--model", MODEL, "--images")
    assert "expected a folder, got" in failed(capsys, *diagnose, data)
    (tmp_path / "bare").mkdir()
    assert "expected images (.bmp" in failed(capsys, *diagnose, tmp_path / "bare")
    (tmp_path / "bare" / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:3000])
    assert "cut.png cannot be read: OSError" in failed(capsys, *diagnose, tmp_path / "bare")


def test_what_a_model_does_not_allow_is_one_line(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.ProcessorMixin, "apply_chat_template", _refuses)
    assert failed(capsys, "calibrate", "--model", MODEL, "--data", data) == "mutation-decode: no such turns"
    assert failed(capsys, "diagnose", "--model", MODEL, "--images", data.parent) == (
        "mutation-decode: no such turns"
    )


def _refuses(*_: Any, **__: Any) -> str:
    raise ValueError("no such\n turns")


def test_a_file_is_read_with_a_mark_of_its_encoding_and_with_line_ends_inside_a_text(data: Path) -> None:
    line = json.dumps({"image": "0.png", "objects": [], "caption": "a\u2028b"}, ensure_ascii=False)
    data.write_text(data.read_text("utf-8") + line, "utf-8-sig", newline="\r\n")
    told = read_examples(data)
    assert [example.objects for example in told] == [("cat", "chair")] * 3 + [()]
    assert told[3].caption == "a\u2028b"


def test_the_console_script_is_installed_with_the_package() -> None:
    config = (Path(__file__).parents[1] / "setup.cfg").read_text("utf-8")
    assert "mutation-decode = mutation_decode.cli:main" in config


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.split() == ["mutation-decode", version("mutation-decode")]
