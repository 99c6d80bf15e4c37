"""Law 8: what was saved says which model it is for, and fits no other unsaid."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import TEXT, Family

from mutation_decode import Calibration, Contrast, Detector, Gate, MutationLogitsProcessor, Proposal, Skip
from mutation_decode.saved import SCHEMA, fingerprint

SKIP = Proposal(
    Skip(layers=[5, 6], gated=True), Detector(threshold=0.0, critical=7, include_last=True), Gate(0.9)
)
CONTRAST = Proposal(Contrast(alpha=-2, beta=0.02, layer=6), Detector(threshold=0.03, critical=0.5, until=7))


def small(blocks: int = 8, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**TEXT, "num_hidden_layers": blocks}))


@pytest.fixture(scope="module")
def model() -> Any:
    return small()


def made(model: Any, **changes: Any) -> Calibration:
    known = {"verdict": "early", "remedies": {"contrast": CONTRAST, "skip": SKIP}, "recommended": "skip"}
    return Calibration(**{**known, "model": fingerprint(model), "report": {"images": 3}, **changes})


@pytest.fixture
def path(model: Any, tmp_path: Path) -> Path:
    made(model).save(tmp_path / "c.json")
    return tmp_path / "c.json"


def test_what_was_saved_comes_back(model: Any, path: Path) -> None:
    again = Calibration.load(path, model)
    assert (again.verdict, again.recommended, dict(again.report)) == ("early", "skip", {"images": 3})
    assert again.remedies == {"contrast": CONTRAST, "skip": SKIP}
    assert (again.strategy, again.detector, again.gate) == (SKIP.strategy, SKIP.detector, SKIP.gate)
    assert again.settings("contrast") == {
        "strategy": CONTRAST.strategy,
        "detector": CONTRAST.detector,
        "gate": None,
    }
    assert [file.name for file in path.parent.iterdir()] == ["c.json"]  # and nothing half-written
    assert json.loads(path.read_text("utf-8"))["schema"] == SCHEMA


def test_detectors_and_strategies_load_their_part_of_it(model: Any, path: Path) -> None:
    assert Skip.load(path, model) == SKIP.strategy
    assert Contrast.load(path, model) == CONTRAST.strategy
    assert Detector.load(path, model) == SKIP.detector  # what goes with the recommended one
    assert Detector.load(path, remedy="contrast") == CONTRAST.detector


def test_a_calibration_builds_the_processor_that_is_used(one: Family, tmp_path: Path) -> None:
    made(one.model).save(tmp_path / "c.json")
    calibration = Calibration.load(tmp_path / "c.json", one.model)
    with calibration.processor(one.model, trace=True) as processor:
        answers = one.answers(0, 1, 2, logits_processor=[processor])
        assert processor.trace is not None
        assert processor.trace.acted.any()
    with MutationLogitsProcessor(
        one.model, SKIP.strategy, detector=SKIP.detector, gate=SKIP.gate
    ) as processor:
        assert torch.equal(one.answers(0, 1, 2, logits_processor=[processor]), answers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype_is_the_same_model(model: Any, path: Path, dtype: torch.dtype) -> None:
    Calibration.load(path, small().to(dtype))  # a warning would be an error
    assert fingerprint(small().to(dtype)) != fingerprint(small(seed=1).to(dtype))


LOADS = pytest.mark.parametrize(
    "load", [Calibration.load, Skip.load, Contrast.load, Detector.load], ids=lambda load: load.__qualname__
)


@LOADS
def test_another_model_of_the_same_shape_is_warned_of(path: Path, load: Any) -> None:
    with pytest.warns(
        UserWarning, match=r"c\.json was made for another model: the numbers of its head are oth"
    ):
        load(path, small(seed=1))
    load(path)  # where no model is given there is nothing to compare


@pytest.mark.parametrize(("factor", "same"), [(1.005, True), (0.995, True), (1.02, False), (0.98, False)])
def test_numbers_may_be_one_percent_off(path: Path, factor: float, same: bool) -> None:
    model = small()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(factor)
    with nullcontext() if same else pytest.warns(UserWarning, match="the numbers of its head are others"):
        Calibration.load(path, model)  # warnings are errors here


def test_a_deeper_model_is_warned_of_by_name(model: Any, path: Path) -> None:
    with pytest.warns(UserWarning, match=r"depth 8 is 9 here.*Calibrate this one"):
        assert Calibration.load(path, small(9)).strategy == SKIP.strategy
    with (
        pytest.warns(UserWarning, match="this calibration was made for another model: depth 8 is 9 here"),
        made(model).processor(small(9), "contrast"),
    ):
        pass


@LOADS
@pytest.mark.filterwarnings("ignore:.*was made for another model")
def test_layers_that_a_model_lacks_are_an_error(path: Path, load: Any) -> None:
    with pytest.raises(ValueError, match=r"c\.json does not fit this model: .*blocks"):
        load(path, small(5))


def test_a_calibration_that_recommends_nothing_says_so(model: Any, tmp_path: Path) -> None:
    nothing = made(model, verdict="none", remedies={}, recommended=None)
    nothing.save(tmp_path / "n.json")
    nothing = Calibration.load(tmp_path / "n.json", model)
    assert (nothing.strategy, nothing.detector, nothing.gate) == (None, None, None)
    with pytest.raises(ValueError, match=r"calibration \(none\) found no remedy that helps this model"):
        nothing.processor(model)
    with pytest.raises(ValueError, match=r"calibration \(early\) found no contrast that helps"):
        made(model, remedies={"skip": SKIP}).settings("contrast")
    with pytest.raises(
        ValueError, match=r"n\.json: this calibration \(none\) found no skip that helps, but noth"
    ):
        Skip.load(tmp_path / "n.json")
    with pytest.raises(ValueError, match="found no remedy that helps, but nothing"):
        Detector.load(tmp_path / "n.json")


def content(**changes: Any) -> str:
    """The text of a file that holds no remedies."""
    known: dict[str, Any] = {"schema": 1, "model": {}, "verdict": "none", "recommended": None}
    return json.dumps({**known, "remedies": {}, "report": {}, **changes})


@LOADS
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"c\.json: expected the JSON file of a calibration, got Expecting"),
        ("[]", r"expected the JSON file of a calibration, as `mutation-decode calibrate` writes it"),
        ('{"verdict": "late"}', r"expected the JSON file of a calibration"),
        ('{"schema": 2}', r"schema 1, got 2; calibrate again, or use the version"),
        (
            '{"schema": 1, "model": {}, "verdict": "late"}',
            "recommended, remedies, report, which this file lacks",
        ),
        (content(remedies=[]), r"c\.json: expected remedies of a calibration, got \[\]"),
        (content(model=None), r"c\.json: expected model of a calibration, got None"),
        (content(recommended=["skip"]), r"c\.json: expected recommended of a calibration, got \['skip'\]"),
        (
            content(recommended="skip", remedies={"skip": {"strategy": {}}, "contrast": 1}),
            r"c\.json: expected strategy, detector and gate of (skip|contrast), got ({'strategy': {}}|1)",
        ),
    ],
)
def test_what_is_no_calibration_is_refused(path: Path, load: Any, text: str, message: str) -> None:
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message):
        load(path)


def changed(path: Path, *keys: str, value: Any) -> None:
    content = json.loads(path.read_text("utf-8"))
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("remedies", "skip", "strategy", "wich"), 1, "the knobs of Skip: .*wich"),
        (("remedies", "contrast", "strategy", "beta"), 2, "the knobs of Contrast: beta is a share"),
        (("remedies", "skip", "gate", "max_prob"), 2, "the knobs of Gate: max_prob is a probability"),
        (("remedies", "dola"), {}, "expected remedies contrast and skip, got 'dola'"),
        (("recommended",), "dola", "recommends 'dola', which it does not hold"),
    ],
)
def test_knobs_that_are_none_are_named(path: Path, keys: tuple[str, ...], value: Any, message: str) -> None:
    changed(path, *keys, value=value)
    with pytest.raises(ValueError, match=rf"c\.json.*{message}"):
        Calibration.load(path)
