"""A method's YAML: the strategy, and what stands beside it."""

from dataclasses import fields

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmarks.methods import build
from benchmarks.mistakes import CONF
from benchmarks.usage import UsageError
from mutation_decode import Contrast, Detector, Gate, LogitLens, Skip

NAMES = pytest.mark.parametrize("name", ["contrast", "skip", "skip1", "skip2", "skip3"])


def node(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"method=[{name}]", *(f"method.{name}.{o}" for o in overrides)])
    return OmegaConf.to_container(config.method[name])


@NAMES
def test_every_knob_of_the_library_is_a_key(name):
    spelled = node(name)
    strategy = Contrast if name == "contrast" else Skip
    assert {field.name for field in fields(strategy)} <= set(spelled)
    for key, knobs in (("detector", Detector), ("gate", Gate)):
        assert set(spelled[key]) == {"_target_", *(field.name for field in fields(knobs))}


@NAMES
def test_what_they_spell_is_what_the_library_does_by_itself(name):
    method = build(name, node(name))
    assert method.detector == (Detector() if name in ("contrast", "skip") else Detector.paper())
    assert method.gate == Gate()
    assert method.norm is True


@pytest.mark.filterwarnings("ignore:.* never acted")
def test_knobs_arrive_at_the_processor(checkpoint):
    from transformers import AutoModelForImageTextToText

    knobs = ("detector.divergence=tv", "detector.until=0.75", "gate.changed=true", "gate.max_prob=0.9")
    method = build("contrast", node("contrast", *knobs, "norm=false"))
    model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    with method.on(model) as processor:
        assert processor.detector == Detector(divergence="tv", until=0.75)
        assert processor.gate == Gate(max_prob=0.9, changed=True)
        model.generate(
            torch.tensor([[1, 4, 5]]), max_new_tokens=1, do_sample=False, logits_processor=[processor]
        )
        seen = processor.trace.js[0, 0]
    assert processor.trace.divergence == "tv"
    with torch.no_grad(), LogitLens(model, norm=False) as lens:
        model(torch.tensor([[1, 4, 5]]))
        expected = lens.take().change(divergence="tv")[0]
        watched = processor.detector.blocks(4)
        torch.testing.assert_close(seen[watched], expected[watched], atol=1e-4, rtol=1e-4)
        assert seen[: watched.start].isnan().all(), "no more than that is read"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (
            ["gate.max_prob=2"],
            "method contrast, gate: max_prob is a probability above 0 and at most 1, got 2",
        ),
        (["detector.divergence=l2"], "method contrast, detector: divergence is one of js, kl"),
        (["detector.divergence=tv", "detector.threshold=1.5"], "at most 1, got 1.5"),
        (["norm=3"], "method contrast: norm=3; expected true or false"),
        (
            ["layer=3", "always=true", "gate.changed=true"],
            "method contrast: a gate chooses among the tokens .*leave the gate at null",
        ),
    ],
)
def test_mistakes(knobs, message):
    with pytest.raises(UsageError, match=message):
        build("contrast", node("contrast", *knobs))


def test_knobs_of_a_method_that_was_not_chosen_are_no_plain_generate():
    with pytest.raises(UsageError, match=r"method skip has detector and no strategy .* it into method=\["):
        build("skip", {"detector": {"include_last": True}})


def test_a_window_beyond_the_model_is_the_users_mistake():
    method = build("contrast", node("contrast", "detector.until=13"))
    with pytest.raises(UsageError, match="method contrast: until=13: a model of 12 blocks ends at 12"):
        method.check(12)


def test_a_method_that_always_acts_may_spell_an_open_gate():
    assert build("contrast", node("contrast", "layer=3", "always=true")).strategy.always
