"""The conformance command: processes that end, lines, files, mistakes; and checks that can fail."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ends
import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from benchmarks.conformance import checks, table
from benchmarks.conformance.__main__ import run
from benchmarks.conformance.conform import of_kind
from benchmarks.conformance.isolated import outcomes
from benchmarks.conformance.kinds import Kind, a_picture, pixels
from benchmarks.conformance.outcome import PASS, Outcome
from benchmarks.conformance.types import KINDS, TEXT
from benchmarks.usage import UsageError
from mutation_decode import Anatomy, Contrast, MutationLogitsProcessor, Readout

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architectures.md"
LINE = re.compile(r"^\| `(?P<name>[^`]+)`")


def conformance(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.conformance", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1100, check=False)


def test_what_ends_a_process_ends_one_line_only() -> None:
    names = ["first", "abort", "exit", "hang", "grow", "last"]
    found = outcomes(ends.check, names, processes=3, seconds=8, memory=2 << 30)
    result = dict(zip(names, found, strict=True))
    assert result["first"] == Outcome(PASS, PASS, ("first",))
    assert result["abort"].contrast == "its process ended by itself (SIGABRT)"
    assert result["exit"].skip == "its process ended by itself (exit code 3)"
    assert result["hang"].contrast == "took more than 8 seconds"
    assert result["grow"].skip == "its process ended by itself (exit code 1)"
    assert result["last"] == Outcome(PASS, PASS, ("last",))


def test_a_line_a_type_in_order_and_a_json(tmp_path: Path) -> None:
    types = ["llava", "pi0", "mllama", "llama"]
    done = conformance(f"types={','.join(types)}", f"json={tmp_path / 'a.json'}")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == types
    assert lines[0] == "llava: contrast: pass; skip: pass"
    assert lines[1] == "pi0: neither: PI0ForConditionalGeneration has no generate"
    assert lines[-1] == (
        "Contrast passes for 2 and skip for 2 of 3 image-text-to-text types; contrast passes for 1 and skip "
        "for 1 of 1 text families."
    )
    read = json.loads((tmp_path / "a.json").read_text())
    assert list(read) == types
    assert read["llava"] == {"contrast": "pass", "skip": "pass"}
    assert read["pi0"] == dict.fromkeys(("contrast", "skip"), "PI0ForConditionalGeneration has no generate")


@pytest.mark.timeout(1200)
def test_the_page_says_of_every_type_what_comes_of_it_now(tmp_path: Path) -> None:
    """Of every third one, as all of them take minutes; MUTATION_DECODE_CONFORMANCE=1 for all."""
    skip_unless_the_page_is_of_this_version()
    page = rows(PAGE)
    names = list(page)[:: int(os.environ.get("MUTATION_DECODE_CONFORMANCE", "3"))]
    done = conformance(f"types={','.join(names)}", f"table={tmp_path / 'a.md'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(tmp_path / "a.md") == {name: page[name] for name in names}, "make conformance says otherwise"


def rows(page: Path) -> dict[str, tuple[str, str]]:
    """Type -> what came of contrast and of skip, the reasons without their figures, which vary."""
    lines = page.read_text().splitlines()
    reasons = {
        m[1]: re.sub(r"[\d.e-]+", "#", m[2]) for line in lines if (m := re.match(r"- (\d+): (.*)", line))
    }
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if LINE.match(line)]

    def said(cell: str) -> str:
        number = re.search(r"\d+", cell)
        return reasons[number[0]] if number else cell

    return {cell[1].strip("`"): (said(cell[3]), said(cell[4])) for cell in cells}


def skip_unless_the_page_is_of_this_version() -> None:
    version = re.search(r"with transformers (\S+) and", PAGE.read_text())
    assert version is not None
    if version[1] != transformers.__version__:
        pytest.skip(f"the page is of transformers {version[1]}, this is {transformers.__version__}")


def test_the_page_is_of_the_installed_transformers_and_holds_every_type() -> None:
    skip_unless_the_page_is_of_this_version()
    found = rows(PAGE)
    assert list(found) == [*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, *TEXT]
    pictures = [found[name] for name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES]
    text = [found[name] for name in TEXT]
    assert sum(contrast == PASS for contrast, _ in pictures) >= 93
    assert sum(skip == PASS for _, skip in pictures) >= 80
    assert sum(contrast == PASS for contrast, _ in text) >= 20


def test_every_type_of_the_page_has_its_miniature() -> None:
    assert set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) <= set(KINDS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["types=lava"], "unknown model type 'lava': did you mean 'llava'"),
        (["type=llava"], "type=llava: expected key=value; did you mean 'types'"),
        (["llava"], "llava: expected key=value"),
        (["processes=0"], "processes=0; expected a whole number, at least 1"),
        (["json=a.md", "table=a.md"], "json=a.md and table=a.md are the same file"),
        (["types=llava", "json=nowhere/a.json"], "json=nowhere/a.json; expected a file in a folder that is"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(told)}"):
        run(words)


def test_a_mistake_ends_with_one_line_and_exit_code_2() -> None:
    done = conformance("types=lava")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown model type 'lava'")
    assert done.stderr.count("\n") == 1


# That the checks can fail: each is shown a model that is read or changed wrongly.

LLAVA = Kind(config={"vision_config": {"patch_size": 8}}, image=a_picture(4), inputs=pixels(3, 16, 16))


def wrong_parts(change: Callable[[Anatomy], Anatomy]) -> Callable[..., Any]:
    plain = Anatomy.of
    return lambda *args: change(plain(*args))


def test_a_last_block_that_is_finished_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    change = wrong_parts(lambda parts: replace(parts, scale=1.01))
    monkeypatch.setattr(Anatomy, "of", change)
    outcome = of_kind("llava", LLAVA)
    assert re.match(r"the last block read with the head is \S+ off its own logits", outcome.contrast)


def test_a_readout_of_another_layer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Readout.__init__

    def shifted(self: Readout, logits: Any, *args: Any) -> None:
        plain(self, logits.roll(1, dims=1), *args)

    monkeypatch.setattr(Readout, "__init__", shifted)
    assert re.match(r"readout 4 is \S+ off what the model says", of_kind("llava", LLAVA).contrast)


def test_scores_that_move_where_they_must_not_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Contrast.__call__

    def moved(self: Contrast, readout: Any, mutations: Any, scores: Any) -> Any:
        return plain(self, readout, mutations, scores).flip(-1)

    monkeypatch.setattr(Contrast, "__call__", moved)
    assert of_kind("llava", LLAVA).contrast == "contrast with alpha 0 changes tokens"


def test_a_contrast_without_effect_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Contrast, "__call__", lambda self, readout, mutations, scores: scores)
    assert (
        "other scores than those of the tokens at which something fires" in of_kind("llava", LLAVA).contrast
    )


def test_readouts_that_are_off_at_later_tokens_only_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, steps = Readout.__init__, iter([False] + [True] * 1000)

    def shifted(self: Readout, logits: Any, *args: Any) -> None:
        late = logits.shape[1] == 3 and next(steps)  # the lens of the check reads two layers and the last
        plain(self, logits.roll(1, dims=1) if late else logits, *args)

    monkeypatch.setattr(Readout, "__init__", shifted)
    assert re.match(r"readout 4 is \S+ off what the model says", of_kind("llava", LLAVA).contrast)


def test_scores_that_move_where_nothing_fires_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.where

    def everywhere(acts: Any, moved: Any, scores: Any) -> Any:
        rows = isinstance(scores, Tensor) and acts.shape == (len(scores), 1) and scores.shape[1:] == (120,)
        return moved + 1 if rows else plain(acts, moved, scores)

    monkeypatch.setattr(torch, "where", everywhere)
    assert (
        "other scores than those of the tokens at which something fires" in of_kind("llava", LLAVA).contrast
    )


def test_blocks_that_are_not_left_out_although_asked_for_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = MutationLogitsProcessor._decide

    def fewer(self: Any, ids: Any, lowest: int) -> Any:
        return plain(self, ids, 5)

    monkeypatch.setattr(MutationLogitsProcessor, "_decide", fewer)
    outcome = of_kind("llava", LLAVA)
    assert (outcome.contrast, outcome.skip) == (PASS, "other blocks are left out than the strategy asks for")


def test_rows_that_depend_on_each_other_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Contrast.__call__

    def mixed(self: Contrast, readout: Any, mutations: Any, scores: Any) -> Any:
        moved = plain(self, readout, mutations, scores)
        return moved if self.alpha in (0, 5) else moved.mean(dim=0, keepdim=True).expand_as(scores)

    monkeypatch.setattr(Contrast, "__call__", mixed)
    assert re.match(r"row \d .* in a batch than alone", of_kind("llava", LLAVA).contrast)


def test_blocks_that_are_left_out_elsewhere_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_skip", with_shifted_reference(checks._skip, monkeypatch))
    outcome = of_kind("llava", LLAVA)
    assert outcome.contrast == PASS
    assert re.match(r"skip is \S+ off a forward from scratch", outcome.skip)


def with_shifted_reference(check: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """In the reference of this check, the block beside each that was left out is left out."""
    plain = checks.reference

    def shifted(subject: Any, parts: Any, rows: Any, answers: Any, skipped: Any) -> Any:
        return plain(subject, parts, rows, answers, skipped.roll(1, dims=-1))

    def run_check(*args: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(checks, "reference", shifted)
            return check(*args)

    return run_check


def test_a_picture_without_effect_is_found() -> None:
    same = replace(LLAVA, inputs=lambda rows, ids: {"pixel_values": torch.ones(len(rows), 3, 16, 16)})
    assert "gives the same logits for another picture" in of_kind("llava", same).contrast


def test_hooks_that_are_left_behind_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MutationLogitsProcessor, "close", lambda self: None)
    kept: list[Any] = []
    plain = MutationLogitsProcessor.__init__

    def keep(self: Any, *args: Any, **kwargs: Any) -> None:
        kept.append(self)
        plain(self, *args, **kwargs)

    monkeypatch.setattr(MutationLogitsProcessor, "__init__", keep)
    assert of_kind("llava", LLAVA).contrast == "something is left on the model: generate"


def test_letters_of_notes_go_on_after_z() -> None:
    assert [table.letter(n) for n in (0, 25, 26, 27, 51, 52, 702)] == [
        "a",
        "z",
        "aa",
        "ab",
        "az",
        "ba",
        "aaa",
    ]
