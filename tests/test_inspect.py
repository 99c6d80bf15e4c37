"""mutation-decode inspect and doctor: what they say in a terminal, and what they make of mistakes."""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from mutation_decode import (
    Calibration,
    Contrast,
    Detector,
    MutationLogitsProcessor,
    Proposal,
    Record,
    Skip,
    cli,
    doctor,
    terminal,
)
from mutation_decode.inspecting import inspect
from mutation_decode.loading import load
from mutation_decode.saved import fingerprint

MODEL = Path(__file__).parents[1] / "benchmarks" / "miniature" / "models" / "miniature-late-prior"
PROMPT = "describe this image ."
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def image() -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return load(str(MODEL), "cpu", None)


def without_marks(text: str) -> str:
    return ESCAPES.sub("", text).replace("?", "")


@pytest.mark.parametrize("colours", [True, False], ids=["colours", "marks"])
@pytest.mark.parametrize("strategy", ["greedy", "contrast", "skip"])
def test_it_streams_what_the_traces_hold(
    loaded: tuple[Any, Any], image: Image.Image, strategy: str, colours: bool
) -> None:
    file = io.StringIO()
    found = inspect(
        *loaded, image, PROMPT, strategy=strategy, max_new_tokens=20, top=2, file=file, colours=colours
    )
    assert list(found) == ["greedy", *([strategy] if strategy != "greedy" else [])]
    told = without_marks(file.getvalue())
    for name, trace in found.items():
        assert trace.texts is not None
        assert f"\n{name}:\n{''.join(trace.texts[0])}\n" in told
        assert trace.top_ids is not None
        assert trace.top_ids.shape[-1] == 2
    assert ("\x1b[" in file.getvalue()) == colours
    assert ("word?? from" in file.getvalue()) != colours
    assert ("not fitted to this model" in told) == (strategy != "greedy")


def test_each_word_has_the_mark_of_its_risk(loaded: tuple[Any, Any], image: Image.Image) -> None:
    file = io.StringIO()
    trace = inspect(*loaded, image, PROMPT, max_new_tokens=20, file=file)["greedy"]
    assert trace.texts is not None
    answer = file.getvalue().split("greedy:\n")[1].removesuffix("\n")
    expected = [
        piece.strip() + "?" * sum(float(risk) >= least for least in (0.07, 0.2, 0.4))
        for piece, risk in zip(trace.texts[0], trace.risk[0], strict=True)
        if piece
    ]
    assert re.findall(r"[^\s.?]+\?*|\.\?*", answer) == expected
    assert "?" in "".join(expected)


@pytest.mark.parametrize(
    ("text", "risks", "expected"),
    [
        ("a cat.\nno", [0, 0, 0.25, 0, 0.5, 0.1, 0, 0.08, 0], "a cat???.?\nno?\n"),
        ("don't", [0.3, 0, 0, 0, 0], "don't??\n"),
        ("cafe\u0301 x", [0, 0, 0.1, 0.3, 0, 0, 0], "cafe\u0301?? x\n"),
        ("ab\u732b\u72ac", [0, 0, 0.3, 0], "ab\u732b??\u72ac\n"),
        ("a\x1b[2J\rb", [0.1] + [0] * 6, "a?\ufffd[2J\ufffdb\n"),
    ],
)
def test_a_word_of_several_tokens_has_one_mark(text: str, risks: list[float], expected: str) -> None:
    file = io.StringIO()

    class Risky:
        risk: Any = None

    class Letters:
        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(map(chr, ids))

    risky = Risky()
    streamer = terminal.RiskStreamer(risky, Letters(), file, colours=False)  # type: ignore[arg-type]
    streamer.put(torch.tensor([[1, 2, 3]]))
    for letter, risk in zip(text, risks, strict=True):
        risky.risk = torch.tensor([risk])
        streamer.put(torch.tensor([ord(letter)]))
    streamer.end()
    assert file.getvalue() == expected


@pytest.mark.parametrize(
    ("wish", "environment", "terminal_", "expected"),
    [
        ("auto", {"TERM": "xterm"}, True, True),
        ("auto", {"TERM": "xterm"}, False, False),
        ("auto", {"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ("auto", {"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ("auto", {"TERM": "dumb"}, True, False),
        ("auto", {}, True, False),
        ("always", {}, False, True),
        ("never", {"TERM": "xterm"}, True, False),
    ],
)
def test_colours_are_for_terminals_that_have_them(
    wish: str, environment: dict[str, str], terminal_: bool, expected: bool
) -> None:
    file = io.StringIO()
    file.isatty = lambda: terminal_  # type: ignore[method-assign]
    assert terminal.has_colours(file, wish, environment) is expected


def test_the_risk_of_the_token_at_hand_is_that_of_the_trace(loaded: tuple[Any, Any]) -> None:
    model = loaded[0]
    ids = {"input_ids": torch.tensor([[1, 5, 6, 7]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}

    class Watching(transformers.generation.streamers.BaseStreamer):
        def __init__(self, processor: MutationLogitsProcessor) -> None:
            self.processor, self.told = processor, list[float]()

        def put(self, value: torch.Tensor) -> None:
            if value.dim() == 1:
                assert self.processor.risk is not None
                self.told.append(float(self.processor.risk[0]))

        def end(self) -> None: ...

    for strategy, trace in ((Contrast(), True), (Skip(), Record())):
        with MutationLogitsProcessor(model, strategy, trace=trace) as processor:
            watching = Watching(processor)
            assert processor.risk is None
            model.generate(**ids, max_new_tokens=6, logits_processor=[processor], streamer=watching)
            assert processor.trace is not None
            assert watching.told == processor.trace.risk[0].tolist()
            assert processor.risk is None


def test_with_a_calibration_risk_is_read_where_it_looks(
    loaded: tuple[Any, Any], image: Image.Image, tmp_path: Path
) -> None:
    strategy, detector = (
        Contrast(alpha=1.0, beta=0.02),
        Detector(threshold=0.02, critical=9, include_last=True),
    )
    made = {"verdict": "late", "model": fingerprint(loaded[0]), "report": {}}
    remedies = {"contrast": Proposal(strategy, detector)}
    path = tmp_path / "calibration.json"
    Calibration(**made, recommended="contrast", remedies=remedies).save(path)
    found = inspect(
        *loaded, image, PROMPT, strategy=str(path), max_new_tokens=12, file=(file := io.StringIO())
    )
    assert list(found) == ["greedy", "contrast"]
    assert "not fitted" not in file.getvalue()
    assert found["greedy"].watched == found["contrast"].watched == (9, 12)
    fired = detector(found["greedy"].js[0]).fired
    assert torch.equal(found["greedy"].fired[0], fired)
    Calibration(**made, recommended=None, remedies={}).save(path)
    alone = inspect(
        *loaded, image, PROMPT, strategy=str(path), max_new_tokens=12, file=(file := io.StringIO())
    )
    assert list(alone) == ["greedy"]
    assert "recommends nothing, so there is the plain answer alone" in file.getvalue()


def run(*words: Any, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mutation_decode.cli", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    )


def test_inspect_writes_a_page(tmp_path: Path, image: Image.Image) -> None:
    file, out = tmp_path / "a photo.png", tmp_path / "p\u00e4ge.html"
    image.save(file)
    words = ["--prompt", PROMPT, "--max-new-tokens", 6, "--strategy", "skip", "--out", out]
    plain = {"PYTHONIOENCODING": "ascii"}
    done = run("inspect", "--model", MODEL, "--image", file, *words, environment=plain)
    assert done.returncode == 0, done.stderr
    assert f"written to {out}".replace("\u00e4", "?") in done.stdout
    assert "\x1b" not in done.stdout
    page = out.read_text("utf-8")
    assert "a photo.png" in page
    assert PROMPT in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a photo.png", "p\u00e4ge.html"]


def refused(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    assert end.value.code == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("mutation-decode")]
    return line


def test_mistakes_are_one_line(
    tmp_path: Path, image: Image.Image, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, text, out = tmp_path / "photo.png", tmp_path / "text.png", tmp_path / "page.html"
    image.save(photo)
    text.write_text("no image")
    words = ["inspect", "--model", MODEL, "--out", out, "--image"]
    assert f"--image: {text} cannot be read" in refused(capsys, *words, text)
    Image.new("1", (15000, 15000)).save(huge := tmp_path / "huge.png")
    assert "could be decompression bomb" in refused(capsys, *words, huge)
    assert "cannot be read: FileNotFoundError" in refused(capsys, *words, tmp_path / "none.png")
    assert "expected greedy, contrast, skip or" in refused(capsys, *words, photo, "--strategy", "skipp")
    assert "expected the JSON file of a calibration" in refused(capsys, *words, photo, "--strategy", text)
    assert "there is no folder" in refused(capsys, *words[:4], tmp_path / "no" / "p.html", "--image", photo)
    assert "cannot be loaded" in refused(
        capsys, "inspect", "--model", tmp_path, "--image", photo, "--out", out
    )
    monkeypatch.setattr("mutation_decode.inspecting.find_spec", lambda _: None)
    assert "a page needs bokeh; pip install 'mutation-decode[inspect]'" in refused(capsys, *words, photo)
    assert not out.exists()


def test_doctor_tells_what_works(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cli.main(["doctor", "--model", str(MODEL)])
    told = capsys.readouterr().out
    assert "tried with: a grey picture and a question" in told
    assert "12 blocks from model.language_model.layers.0 (LlamaDecoderLayer) on" in told
    assert "then model.language_model.norm; head lm_head" in told
    assert "ok lens: the last block reads as the model's own logits" in told
    assert "cache: DynamicCache of DynamicLayer" in told
    for name in ("contrast", "contrast, beams", "skip", "skip, beams", "skip of a fixed set"):
        assert f"ok {name}: acted on 100 % of 8 tokens" in told
    assert re.search(r"cost, skip, firing always: \d\.\d\d times", told)
    folder = tmp_path / "config only"
    folder.mkdir()
    shutil.copy(MODEL / "config.json", folder)
    cli.main(["doctor", "--model", str(folder)])
    told = capsys.readouterr().out
    assert "built with random weights" in told
    assert "tokens without a picture (no processor)" in told
    assert "ok skip, beams" in told
    assert "cannot be loaded" in refused(capsys, "doctor", "--model", tmp_path)


def test_doctor_says_no_with_the_reason(loaded: tuple[Any, Any]) -> None:
    model = transformers.RwkvForCausalLM(
        transformers.RwkvConfig(vocab_size=50, hidden_size=16, num_hidden_layers=4, context_length=64)
    ).eval()
    told = {each.name: each for each in doctor.checkup(model, doctor.example(model, None)[0])}
    assert told["lens"].works
    assert told["skip"].works is False
    assert "beside" in told["skip"].told or "cache" in told["skip"].told
    assert "cost, contrast" in told or not told["contrast"].works
    model.head = torch.nn.Linear(16, 50, bias=True)
    model.get_output_embeddings = lambda: None  # type: ignore[method-assign]
    last = [*doctor.checkup(model, doctor.example(model, None)[0])][-1]
    assert (last.name, last.works) == ("lens", False)
    assert last.told.count("\n") == 0
