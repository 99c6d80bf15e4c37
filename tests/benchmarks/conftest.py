import os
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as entry

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data() -> Path:
    """Small real inputs beside the checkout, never part of it."""
    default = ROOT.parent / "shared" / "data"
    folder = Path(os.environ.get("MUTATION_DECODE_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; point MUTATION_DECODE_TEST_DATA at it")
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A random LLaVA of four blocks with its processor, in the layout of save_pretrained."""
    import torch

    from benchmarks.miniature.model import build_model, build_processor

    folder = tmp_path_factory.mktemp("checkpoint")
    processor = build_processor()
    torch.manual_seed(0)
    build_model(len(processor.tokenizer), blocks=4).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


SMALL = (
    "bootstrap.resamples=100",
    "generation.batch_size=4",
    "pictures.captions=5",
    "pictures.worst=0",
    "tune=false",
    "tuning.task.n=4",
    "tuning.task.max_new_tokens=6",
    "task.miniature-chair.n=6",
    "task.miniature-chair.max_new_tokens=6",
)
"""One task in seconds."""


@pytest.fixture
def small(checkpoint, tmp_path) -> list[str]:
    """Arguments of a run that takes seconds, into tmp_path/run."""
    return [f"model.miniature-late-prior.path={checkpoint}", f"folder={tmp_path / 'run'}", *SMALL]


@pytest.fixture
def harness(monkeypatch):
    """``python -m benchmarks ARGUMENTS`` in this process; returns its exit code."""
    monkeypatch.chdir(ROOT)

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
        try:
            entry.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


@pytest.fixture
def command(monkeypatch, capsys):
    """A command's module in this process: (exit code, what it printed, its error)."""

    def call(module, *words):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
        code = 0
        try:
            module.main()
        except SystemExit as end:
            code = end.code
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A tiny LLaVA as its authors' checkpoints are."""
    import tiny_models

    return tiny_models.write("llava", tmp_path_factory.mktemp("tiny") / "llava")


@pytest.fixture
def copy(tiny, tmp_path) -> Path:
    """A checkpoint to break."""
    return shutil.copytree(tiny, tmp_path / "broken")
