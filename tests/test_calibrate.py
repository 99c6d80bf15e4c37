"""Calibration of tiny models with random weights: what is counted, tried, chosen and told."""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from families import TEXT, Family
from labelled import encode, examples, tokenizer, word
from PIL import Image
from transformers import BatchFeature

from benchmarks.tuning import judge
from mutation_decode import Calibration, Example, MutationLogitsProcessor, calibrate, examine
from mutation_decode.calibrate import _chosen
from mutation_decode.encoding import encoder
from mutation_decode.gain import Measured, counted
from mutation_decode.words import Answer, Vocabulary, read

TOKENIZER = tokenizer()
NAMES = [word(token) for token in range(3, 116)]
FEW = "ignore:calibrated on 3 images"


def calibrated(family: Family, given: list[Example], **more: Any) -> Calibration:
    use = {"encode": encode(family), "objects": NAMES, "max_new_tokens": 10, "batch_size": 2, "budget": 3}
    return calibrate(family.model, TOKENIZER, given, **{**use, **more})


@pytest.fixture(scope="module")
def found(one: Family) -> Iterator[Calibration]:
    with warnings.catch_warnings(action="ignore"):
        yield calibrated(one, examples(one))


def answer(named: str, shown: str, words: int = 10) -> Answer:
    """An answer that names the objects of these letters."""
    right = tuple(each in shown for each in named)
    return Answer("w " * words, tuple(named), right, tuple(range(len(named))), frozenset(shown), 10)


def test_figures_by_hand() -> None:
    greedy = [answer("abx", "abc"), answer("ayyz", "ab"), answer("", "a")]
    figures = Measured(counted(greedy, [0, 5, 4])).figures
    values = {name: told.value for name, told in figures.items()}
    assert values == pytest.approx(
        {
            "CHAIR_i": 100 * 4 / 7,
            "CHAIR_s": 100 * 2 / 3,
            "recall": 100 * 3 / 6,
            "length": 10.0,
            "objects": 7 / 3,
            "fired": 100 * 9 / 30,
        }
    )


def test_an_object_named_twice_is_covered_once() -> None:
    assert counted([answer("aab", "abc")], [0])["covered"] == [2]


def test_differences_are_paired_by_image() -> None:
    greedy = counted([answer("ax", "ab"), answer("b", "ab"), answer("xyz", "a")] * 5, [0] * 15)
    for told in Measured(greedy).gain(greedy).differences.values():
        assert (told.value, told.low, told.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("named", "words", "fired", "against"),
    [
        ("ab", 10, 4, ()),
        ("ab", 10, 5, ("acts on 50 % of the tokens or more",)),
        ("ax", 10, 4, ("CHAIR_i not below greedy's",)),
        ("a", 10, 4, ("objects outside greedy's interval",)),
        ("ab", 11, 4, ("length outside greedy's interval",)),
        (
            "xyz",
            9,
            9,
            (
                "CHAIR_i not below greedy's",
                "recall below greedy's",
                "length outside greedy's interval",
                "objects outside greedy's interval",
                "acts on 50 % of the tokens or more",
            ),
        ),
    ],
)
def test_what_speaks_against_a_candidate(named: str, words: int, fired: int, against: Any) -> None:
    measured = Measured(counted([answer("ax", "ab"), answer("bx", "ab")] * 20, [0] * 40))
    gain = measured.gain(counted([answer(named, "ab", words)] * 40, [fired] * 40))
    assert gain.against == against
    values = {name: told.value for name, told in gain.figures.items()}
    assert judge({}, values, measured.figures, below=50.0).against == against, "the harness has another rule"
    assert gain.differences["CHAIR_i"].value == gain.figures["CHAIR_i"].value - 50


def test_greedys_figures_and_curves_are_those_of_plain_generate(one: Family, found: Calibration) -> None:
    given = examples(one)
    vocabulary = Vocabulary.of(NAMES)
    plain = one.answers(0, 1, 2)
    answers = [
        read(tokens.tolist(), each.objects, TOKENIZER, vocabulary)
        for tokens, each in zip(plain, given, strict=True)
    ]
    wanted = Measured(counted(answers, [0] * 3)).figures
    assert found.report["greedy"] == {name: told.plain() for name, told in wanted.items()}
    assert 0 < wanted["CHAIR_i"].value < 100
    named = sum(len(each.named) for each in answers)
    counts = found.report["tokens"]
    assert counts["hallucinated"] + counts["correct"] == named
    findings = examined(one)
    assert findings.verdict == found.verdict
    assert findings.to_json()["leads"] == found.report["leads"]
    assert np.allclose(findings.to_json()["js"]["correct"], found.report["js"]["correct"], atol=1e-3)


def test_each_trial_is_what_its_knobs_give(one: Family, found: Calibration) -> None:
    given, vocabulary = examples(one), Vocabulary.of(NAMES)
    plain = zip(one.answers(0, 1, 2), given, strict=True)
    greedy = [read(ids.tolist(), each.objects, TOKENIZER, vocabulary) for ids, each in plain]
    measured = Measured(counted(greedy, [0] * 3))
    with warnings.catch_warnings(action="ignore"):
        findings = examined(one)
        for kind in ("contrast", "skip"):
            trials = found.report["trials"][kind]
            assert 0 < len(trials) <= 3
            for proposal, trial in zip(findings.propose(kind, 3), trials, strict=True):
                with MutationLogitsProcessor(
                    one.model,
                    proposal.strategy,
                    detector=proposal.detector,
                    gate=proposal.gate,
                    trace="watched",
                ) as processor:
                    ids = one.answers(0, 1, 2, logits_processor=[processor])
                    assert processor.trace is not None
                    fired = processor.trace.fired.sum(dim=1).tolist()
                answers = [
                    read(row.tolist(), each.objects, TOKENIZER, vocabulary)
                    for row, each in zip(ids, given, strict=True)
                ]
                gain = measured.gain(counted(answers, fired))
                assert trial["figures"] == {name: told.plain() for name, told in gain.figures.items()}
                assert trial["against"] == list(gain.against)


def test_the_best_that_qualifies_is_chosen(found: Calibration) -> None:
    best = {}
    for kind, trials in found.report["trials"].items():
        good = {at: t["figures"]["CHAIR_i"][0] for at, t in enumerate(trials) if not t["against"]}
        if good:
            best[kind] = min(good.values())
            assert good[found.report["chosen"][kind]] == best[kind]
    assert set(found.remedies) == set(best)
    assert found.recommended == (min(best, key=best.__getitem__) if best else None)
    json.dumps(found.report, allow_nan=False)
    shown = str(found)
    assert f"verdict: {found.verdict} (3 images" in shown
    assert f"recommended: {found.recommended or 'nothing'}" in shown


def hand_made(one: Family, contrast: int, skip: int, images: int = 60) -> Calibration:
    """Chosen of one contrast and one skip, which mend the answers to so many of the images."""
    findings = examined(one)
    greedy = [answer("ax", "ab")] * images
    measured = Measured(counted(greedy, [0] * images))
    tried: Any = {kind: findings.propose(kind, 1) for kind in ("contrast", "skip")}
    mended = {tried["contrast"][0]: contrast, tried["skip"][0]: skip}
    gains = {
        each: measured.gain(counted([answer("ab", "ab")] * n + greedy[n:], [1] * images))
        for each, n in mended.items()
    }
    return _chosen(one.model, replace(findings, images=images), measured, tried, gains)


def test_the_kind_of_the_lower_chair_i_is_recommended_and_both_are_kept(one: Family) -> None:
    better = hand_made(one, 20, 10)
    assert better.recommended == "contrast"
    assert set(better.remedies) == {"contrast", "skip"}
    assert better.report["notes"] == []
    assert hand_made(one, 10, 20).recommended == "skip"
    assert hand_made(one, 20, 20).recommended == "contrast"  # of equals the first
    alone = hand_made(one, 0, 5)
    assert (alone.recommended, set(alone.remedies)) == ("skip", {"skip"})


def test_a_gain_that_may_be_chance_is_told(one: Family) -> None:
    with pytest.warns(UserWarning, match="the gain is within its interval"):
        hand_made(one, 1, 0)


def test_what_comes_after_a_rows_end_is_counted_nowhere(one: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = one.answers(0, 1, 2)
    end = next(int(token) for token in plain[:, 2:].flatten() if not (plain[:, :2] == token).any())
    monkeypatch.setattr(one.model.generation_config, "eos_token_id", end)
    with warnings.catch_warnings(action="ignore"):
        found = calibrated(one, examples(one), budget=1)
        for kind in ("contrast", "skip"):
            trial = found.report["trials"][kind][0]
            remedy = found.remedies.get(kind) or examined(one).propose(kind, 1)[0]
            with MutationLogitsProcessor(
                one.model, remedy.strategy, detector=remedy.detector, gate=remedy.gate, trace="watched"
            ) as processor:
                one.generate(0, 1, 2, logits_processor=[processor])
            trace = processor.trace
            assert trace is not None
            assert not trace.generated.all()
            share = 100 * (trace.fired & trace.generated).sum() / trace.generated.sum()
            assert trial["figures"]["fired"][0] == pytest.approx(float(share), abs=1e-3)


def examined(one: Family) -> Any:
    truths = [each.objects for each in examples(one)]
    given = [(one.batch(0, 1, 2), truths)]
    return examine(one.model, TOKENIZER, given, mentions=Vocabulary.of(NAMES), max_new_tokens=10)


def test_where_nothing_can_be_gained_it_warns_and_recommends_nothing(one: Family) -> None:
    right = [Example(row, NAMES) for row in range(3)]
    with (
        pytest.warns(UserWarning, match="nothing that was tried helps this model"),
        pytest.warns(UserWarning, match="calibrated on 3 images: the intervals are wide"),
    ):
        found = calibrated(one, right, budget=1)
    assert (found.verdict, found.recommended, found.strategy) == ("none", None, None)
    assert "recommended: nothing" in str(found)
    assert "CHAIR_i not below greedy's" in found.report["trials"]["skip"][0]["against"]


@pytest.mark.filterwarnings("ignore:nothing that was tried", FEW, "ignore:the gain is within")
def test_captions_of_ones_own_are_measured_in_place_of_the_models(one: Family) -> None:
    given = [Example(0, ["thing50"], "thing50 thing60 thing70"), *examples(one)[1:]]
    found = calibrated(one, given, budget=1, kinds=("contrast",))
    own = calibrated(one, [Example(0, ["thing50"]), *given[1:]], budget=1, kinds=("contrast",))
    assert found.report["greedy"] == own.report["greedy"]
    assert sum(found.report["tokens"].values()) == 3 + 10 + 10
    assert sum(own.report["tokens"].values()) == 30
    assert list(found.report["trials"]) == ["contrast"]


@pytest.mark.filterwarnings("ignore:nothing that was tried", FEW, "ignore:the gain is within")
def test_progress_and_mentions_of_ones_own(one: Family, capsys: pytest.CaptureFixture[str]) -> None:
    def mentions(text: str) -> list[tuple[str, int]]:
        return [("Thing3", 0)] if text else []

    found = calibrated(one, examples(one), budget=1, mentions=mentions, progress=True)
    assert found.report["tokens"]["correct"] == 3
    assert found.report["tokens"]["hallucinated"] == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "greedy: 2 of 3 images\ngreedy: 3 of 3 images\n2 candidates: 2 of 3 images\n" in told.err


@pytest.mark.filterwarnings("ignore:nothing that was tried", FEW)
def test_what_a_model_refuses_is_told_and_the_rest_is_tried(
    one: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one.model.generation_config, "use_cache", False)  # Skip needs it
    found = calibrated(one, [Example(row, ["thing3"]) for row in range(3)], budget=1)
    trial = found.report["trials"]["skip"][0]
    assert trial["figures"] is None
    assert trial["against"][0].startswith("refused: ")
    assert found.report["trials"]["contrast"][0]["figures"] is not None


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        ([], {}, "expected examples, .* got 0 examples"),
        ([Example(0, ["thing3"])], {"batch_size": 0}, "at least 1 for batch_size, max_new_tokens"),
        ([Example(0, ["thing3"])], {"budget": 0}, "got 1 examples, 2, 10 and 0"),
        ([Example(0, ["thing3"])], {"kinds": ("dola",)}, "kinds are contrast and skip, got .'dola'"),
        ([Example(0, ["thing3"])], {"kinds": ()}, "kinds are contrast and skip, got ()"),
        ([Example(0, "thing3")], {}, r"several names of objects, got the text 'thing3'; write \['thing3'\]"),
        ([Example(0, ["thing3"])], {"objects": "thing3"}, "several names of objects, got the text 'thing3'"),
        ([Example(0, [])], {"objects": None}, "an object is named by a word; there is none"),
        (
            [Example(0, ["thing3"])],
            {"encode": None},
            "expected a processor with a tokenizer and a chat template .* pass encode=",
        ),
        ([Example(0, ["thing3"], " ")], {}, "an empty caption cannot be measured"),
    ],
)
def test_mistakes_are_named(one: Family, given: list[Example], more: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrated(one, given, **more)


def test_warnings_are_the_callers(one: Family) -> None:
    with pytest.warns(UserWarning, match="calibrated on 1 images|nothing that was tried") as told:
        calibrate(
            one.model,
            TOKENIZER,
            [Example(0, NAMES)],
            encode=encode(one),
            max_new_tokens=2,
            budget=1,
            kinds=("contrast",),
        )
    assert {warning.filename for warning in told} == {__file__}


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:calibrated on", "ignore:nothing that was tried", "ignore:the gain is")
def test_shallow_models_are_calibrated_too(depth: int) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**TEXT, "num_hidden_layers": depth})
    model = transformers.LlamaForCausalLM(config).eval()

    def prompts(images: Sequence[int]) -> dict[str, torch.Tensor]:
        ids = torch.tensor([[5, 6, 7 + image] for image in images])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    given = [Example(row, NAMES[::2]) for row in range(3)]
    found = calibrate(model, TOKENIZER, given, encode=prompts, objects=NAMES, max_new_tokens=6, budget=12)
    assert len(found.report["auroc_of_blocks"]) == depth
    for trials in found.report["trials"].values():
        assert trials
        assert all(trial["figures"] or "names all 1 blocks" in trial["against"][0] for trial in trials)


class Shows:
    """A processor as those of real checkpoints are used, and what was asked of it."""

    chat_template = None

    def __init__(self) -> None:
        self.tokenizer = tokenizer()
        self.tokenizer.chat_template = "a template"
        self.seen: dict[str, Any] = {}

    def apply_chat_template(self, turns: Any, *, chat_template: str, add_generation_prompt: bool) -> str:
        return chat_template

    def __call__(self, **seen: Any) -> BatchFeature:
        self.seen = {**seen, "side": self.tokenizer.padding_side}
        return BatchFeature({"input_ids": torch.ones(1, 2, dtype=torch.long)})


def test_images_are_turned_the_way_up_and_a_tokenizers_template_is_enough(
    one: Family, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # on its side
    Image.new("RGB", (40, 20)).save(tmp_path / "photo.jpg", exif=exif)
    shows = Shows()
    shows.tokenizer.padding_side = "right"
    inputs = encoder(one.model, shows)([tmp_path / "photo.jpg"])
    assert inputs["input_ids"].shape == (1, 2)
    assert shows.seen["images"][0][0].size == (20, 40)
    assert (shows.seen["text"], shows.seen["side"]) == (["a template"], "left")
    assert shows.tokenizer.padding_side == "right"
