"""What the methods with a second forward make of four tokens, their knobs, and what their YAMLs refuse."""

import math
from dataclasses import fields

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from scipy.special import expit
from tiny_models import assistant, user
from torch import tensor

from benchmarks.methods import build
from benchmarks.mistakes import CONF
from benchmarks.prompting import images_of
from benchmarks.second_forward import ICD, M3ID, PAI, VCD
from benchmarks.second_forward.ground import blind
from benchmarks.second_forward.noise import shares
from benchmarks.usage import UsageError

METHODS = {"vcd": VCD, "icd": ICD, "m3id": M3ID, "pai": PAI}
OWN = tensor([[0.5, 0.3, 0.15, 0.05]]).log()
OTHER = tensor([[0.5, 0.1, 0.2, 0.2]]).log()
NEVER = -math.inf


def close(found, expected):
    torch.testing.assert_close(found, tensor([expected]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [VCD, ICD])
def test_away_from_the_disturbed(kind):
    found = kind(alpha=1.0, beta=0.2).combine(OWN, OTHER, 7)
    # p^2 / p' of the tokens with at least 0.2 * 0.5
    close(found, [math.log(0.5), math.log(0.9), math.log(0.1125), NEVER])
    half = kind(alpha=0.5, beta=0.5).combine(OWN, OTHER, 7)
    close(half, [1.5 * math.log(0.5) - 0.5 * math.log(0.5), math.log(0.3**1.5 / 0.1**0.5), NEVER, NEVER])


def test_away_from_the_blind_the_more_the_later():
    method = M3ID(decay=math.log(2), confident=1.0)
    close(method.combine(OWN, OTHER, 0), OWN[0].tolist())
    close(method.combine(OWN, OTHER, 1), [math.log(p) for p in (0.5, 0.9, 0.1125, 0.0125)])
    close(method.combine(OWN, OTHER, 2), [math.log(p) for p in (0.5, 8.1, 0.0632812, 0.00078125)])
    later = M3ID(decay=math.log(2), confident=1.0, start=1)
    close(later.combine(OWN, OTHER, 1), method.combine(OWN, OTHER, 2)[0].tolist())
    cut = M3ID(decay=math.log(2), confident=1.0, beta=0.2).combine(OWN, OTHER, 1)
    close(cut, [math.log(0.5), math.log(0.9), math.log(0.1125), NEVER])


def test_rows_that_are_confident_stay():
    doubtful = tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    found = M3ID(decay=1.0, confident=0.45).combine(torch.cat([OWN, doubtful]) + 9, OTHER.repeat(2, 1), 1)
    assert torch.equal(found[0], OWN[0] + 9)
    assert not torch.equal(found[1], doubtful[0] + 9)
    assert M3ID() == M3ID(decay=0.02, start=0, confident=0.3, beta=0.0), "the paper's"


def test_pai_weighs_log_probabilities():
    method = PAI(gamma=2.0, beta=0.2)
    close(method.combine(OWN, OTHER, 3), [math.log(0.5), math.log(0.9), math.log(0.1125), NEVER])
    close(method.combine(OWN + 3, OTHER - 5, 3), method.combine(OWN, OTHER, 3)[0].tolist())
    close(PAI(gamma=1.5, beta=0.0).combine(OWN, OTHER, 3)[:, 1:2], [math.log(0.3**1.5 / 0.1**0.5)])
    assert PAI() == PAI(gamma=1.1, beta=0.1), "the published code's"


@pytest.mark.parametrize(
    ("method", "times"), [(VCD(alpha=0.5), 1.5), (ICD(), 2), (M3ID(decay=math.log(2), confident=1.0), 4)]
)
def test_constants(method, times):
    found, moved = method.combine(OWN, OTHER, 2), method.combine(OWN + 3, OTHER, 2)
    torch.testing.assert_close(moved, found + 3 * times)
    shifted = method.combine(OWN, OTHER + 3, 2)
    torch.testing.assert_close(shifted.log_softmax(-1), found.log_softmax(-1))


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("kind", METHODS.values())
def test_what_was_ruled_out_stays_out_and_nothing_is_changed_in_place(kind, beta):
    scores = torch.cat([OWN, OWN, torch.full((1, 4), NEVER)])
    scores[1, 0] = NEVER
    other = OTHER.repeat(3, 1)
    kept = scores.clone(), other.clone()
    for step in (0, 3):
        found = kind(beta=beta).combine(scores, other, step)
        assert not found.isnan().any()
        assert (found[scores == NEVER] == NEVER).all()
        assert found[1].argmax() == 1, "the best of what is left"
    assert torch.equal(scores, kept[0])
    assert torch.equal(other, kept[1])


@pytest.mark.parametrize("step", [0, 1, 500, 999])
def test_the_noise_is_that_of_the_published_code(step):
    published = {
        0: (0.99999, 0.00473),
        1: (0.99998, 0.00669),
        500: (0.86302, 0.50517),
        999: (0.28504, 0.95851),
    }
    assert shares(step) == pytest.approx(published[step], abs=1e-5)
    product = math.prod(
        1 - (1e-5 + (5e-3 - 1e-5) * expit(-6 + 12 * index / 999)) for index in range(step + 1)
    )
    assert shares(step)[0] ** 2 == pytest.approx(product)


def test_the_disturbed_and_the_blind_conversation():
    picture = Image.new("RGB", (4, 4))
    asked = [user("What is it?", picture), assistant("A wall."), user("And this?", picture, picture)]
    disturbed = ICD(instruction="Guess.").disturbed(asked)
    assert disturbed[:2] == asked[:2]
    assert disturbed[2]["content"] == [*asked[2]["content"][:2], {"type": "text", "text": "Guess. And this?"}]
    without = blind(asked)
    assert images_of(without) == []
    assert [m["content"][-1]["text"] for m in without] == ["What is it?", "A wall.", "And this?"]
    assert len(images_of(asked)) == 3


def node(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"method=[{name}]", *(f"method.{name}.{o}" for o in overrides)])
    return OmegaConf.to_container(config.method[name])


@pytest.mark.parametrize("name", METHODS)
def test_their_yamls_spell_every_knob_as_it_is_by_default(name):
    spelled = node(name)
    assert {field.name for field in fields(METHODS[name])} == set(spelled) - {"_target_", "generate", "tune"}
    method = build(name, spelled)
    assert method.second == METHODS[name]()
    assert method.strategy is None
    assert not method.gated


@pytest.mark.parametrize(
    ("name", "knob", "message"),
    [
        ("vcd", "alpha=-1", "method vcd: alpha is a finite number, at least 0; got -1"),
        ("icd", "alpha=inf", "method icd: alpha is a finite number"),
        ("vcd", "beta=2", "method vcd: beta is a share of the best probability, between 0 and 1; got 2"),
        ("pai", "beta=nan", "method pai: beta is a share"),
        ("vcd", "noise_step=1000", r"method vcd: noise_step is a step of the diffusion, 0\.\.999; got 1000"),
        ("vcd", "noise_step=1.5", "method vcd: noise_step must be a whole number, got 1.5"),
        ("icd", "instruction=' '", "method icd: instruction is what disturbs the prompt; got none"),
        ("icd", "instruction=3", "method icd: instruction must be text, got 3"),
        ("m3id", "decay=-0.1", "method m3id: decay is a finite number, at least 0"),
        ("m3id", "start=-1", "method m3id: start is a finite number, at least 0"),
        ("m3id", "confident=0", "method m3id: confident is a probability above 0 and at most 1; got 0"),
        ("pai", "gamma=inf", "method pai: gamma is a finite number; got inf"),
        ("pai", "gamma=much", "method pai: gamma must be a number, got 'much'"),
    ],
)
def test_wrong_knobs(name, knob, message):
    with pytest.raises(UsageError, match=message):
        build(name, node(name, knob))


@pytest.mark.parametrize(
    ("stray", "message"),
    [
        (
            {"detector": None, "norm": True},
            "method vcd has detector, norm, and acts on every token by a second",
        ),
        ({"generate": {"num_beams": 5}}, "whose rows cannot follow beams; got num_beams=5; set it to 1"),
        ({"generate": {"prompt_lookup_num_tokens": 3}}, "cannot follow prompt_lookup_num_tokens; leave"),
        ({"generate": {"num_return_sequences": 2}}, "method vcd: num_return_sequences must be 1"),
        ({"generate": 3}, "method vcd: generate must be a mapping"),
    ],
)
def test_what_does_not_go_with_a_second_forward(stray, message):
    with pytest.raises(UsageError, match=message):
        build("vcd", {**node("vcd"), **stray})
