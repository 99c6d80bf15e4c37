"""The folder that can be published on the hub as it is, loaded by transformers' own custom_generate."""

import configparser
import dataclasses
import functools
import inspect
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from families import Family, ours_on
from more_families import idefics, mild
from test_ways_of_generating import Heard
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, dynamic_module_utils

from mutation_decode import Anatomy, Contrast, Detector, Gate, MutationLogitsProcessor, Skip

ROOT = Path(__file__).parent.parent
HUB = ROOT / "hub" / "mutation-decode"


@pytest.fixture(autouse=True)
def _modules_are_kept_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """transformers copies what it loads into a folder of its own, at home."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])


def by_hub(family: Family, *rows: int, folder: Path = HUB, **arguments: Any) -> Any:
    """Ten tokens by way of the folder."""
    use = {"custom_generate": str(folder), "trust_remote_code": True, "revision": "main", **arguments}
    return family.generate(*rows, **use)


class Bans(LogitsProcessor):  # type: ignore[misc]
    """A processor of the caller's own: one token is never said."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, torch.tensor([self.token]), -torch.inf)


WAYS = [
    ({}, Contrast(), {}, {}),
    ({"alpha": 1.5, "beta": 0.02}, Contrast(alpha=1.5, beta=0.02), {}, {}),
    (
        {"strategy": "contrast", "layer": 3, "always": True, "exact": True},
        Contrast(layer=3, always=True),
        {},
        {},
    ),
    ({"strategy": "skip"}, Skip(), {}, {}),
    ({"strategy": "skip", "layers": [2, 5], "gated": True}, Skip(layers=[2, 5], gated=True), {}, {}),
    ({"norm": False, "alpha": 2.0}, Contrast(alpha=2.0), {"norm": False}, {}),
    ({"changed": True, "alpha": 1.5}, Contrast(alpha=1.5), {"gate": Gate(changed=True)}, {}),
    ({"toward": "text", "alpha": 1.5}, Contrast(alpha=1.5), {"gate": Gate(toward="text")}, {}),
    ({"alpha": 1.5}, Contrast(alpha=1.5), {}, {"num_beams": 3, "num_return_sequences": 2}),
    ({"alpha": 1.5}, Contrast(alpha=1.5), {}, {"do_sample": True, "num_return_sequences": 2}),
    ({"strategy": "skip", "layers": [6]}, Skip(layers=[6]), {}, {"num_beams": 2}),
]


@pytest.mark.parametrize(("knobs", "strategy", "more", "mode"), WAYS, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("found_with", [{}, {"critical": 2, "until": 7}], ids=["threshold", "range"])
def test_it_says_what_the_processor_says(
    one: Family, knobs: Any, strategy: Any, more: Any, mode: Any, found_with: Any
) -> None:
    detector = dataclasses.replace(one.detector, **found_with)
    with MutationLogitsProcessor(one.model, strategy, detector=detector, **more) as processor:
        torch.manual_seed(0)
        want = one.generate(0, 1, logits_processor=[processor], **mode)
    torch.manual_seed(0)
    found = by_hub(one, 0, 1, threshold=one.detector.threshold, **found_with, **knobs, **mode)
    assert torch.equal(found, want)
    torch.manual_seed(0)
    assert not torch.equal(found, one.generate(0, 1, **mode))
    assert ours_on(one.model) == []


def test_what_generate_takes_is_passed_on(one: Family) -> None:
    first = int(by_hub(one, 0, threshold=0.0)[0, -10])
    bans, heard = Bans(first), Heard()
    with MutationLogitsProcessor(one.model, detector=Detector(threshold=0.0)) as processor:
        want = one.generate(0, logits_processor=[bans, processor])
    full = {"return_dict_in_generate": True, "output_scores": True}
    config = GenerationConfig(max_new_tokens=10, **full, suppress_tokens=[0, 116, 117, 118, 119])
    for asked in (full, {"generation_config": config}):
        heard = Heard()
        found = by_hub(one, 0, threshold=0.0, logits_processor=[bans], streamer=heard, **asked)
        assert torch.equal(found.sequences, want)
        assert first not in want[0, -10:]
        assert torch.equal(torch.stack(heard.put_in[1:], dim=1), want[:, -10:])
        assert all((scores[:, first] == -torch.inf).all() for scores in found.scores)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"alhpa": 1.0},
            r"\['alhpa'\].*The knobs of this strategy are alpha, beta, layer, always, threshold",
        ),
        ({"strategy": "dola"}, "strategy is one of contrast, skip, got 'dola'"),
        ({"strategy": "skip", "alpha": 1.0}, "alpha belongs to strategy='contrast'; strategy='skip' has the"),
        ({"keep": 3}, "keep belongs to strategy='skip'; strategy='contrast' has the knobs alpha, beta"),
        ({"beta": 2.0}, "beta is a share of the best probability"),
        ({"threshold": -1.0}, "threshold is a JSD in nats"),
        ({"layer": 8, "always": True}, "layer=8 is no earlier readout of a model of 8 blocks"),
        ({"prompt_lookup_num_tokens": 2}, "several tokens from one forward"),
    ],
)
def test_mistakes_are_named(one: Family, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_hub(one, 0, **arguments)
    assert "generate" not in one.model.__dict__


def test_without_trust_it_is_transformers_that_refuses(one: Family) -> None:
    with pytest.raises(ValueError, match="pass the argument `trust_remote_code=True`"):
        by_hub(one, 0, trust_remote_code=False)


def test_a_processor_that_is_there_already_is_enough(one: Family) -> None:
    with MutationLogitsProcessor(one.model, Contrast(alpha=1.5), detector=one.detector) as processor:
        want = one.generate(0, 1, logits_processor=[processor])
        assert torch.equal(by_hub(one, 0, 1, logits_processor=[processor]), want)
        with pytest.raises(ValueError, match="a MutationLogitsProcessor already; leave strategy out"):
            by_hub(one, 0, logits_processor=[processor], strategy="skip")
        aside = by_hub(one, 0, 1, alpha=1.5, threshold=one.detector.threshold)
        assert torch.equal(aside, want)


def test_in_a_models_own_folder_it_stands_for_generate(other: Family, tmp_path: Path) -> None:
    """from_pretrained puts it in the place of the model's generate: it does not call itself."""
    other.model.save_pretrained(tmp_path / "model")
    shutil.copytree(HUB / "custom_generate", tmp_path / "model" / "custom_generate")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert isinstance(model.generate, functools.partial)
    family, threshold = dataclasses.replace(other, model=model), other.detector.threshold
    with MutationLogitsProcessor(other.model, Contrast(alpha=1.5), detector=other.detector) as processor:
        want = other.generate(0, 1, logits_processor=[processor])
    assert torch.equal(family.generate(0, 1, alpha=1.5, threshold=threshold), want)
    with MutationLogitsProcessor(model, Contrast(alpha=1.5), detector=other.detector) as processor:
        assert torch.equal(family.generate(0, 1, logits_processor=[processor]), want)
    assert isinstance(model.generate, functools.partial)
    assert ours_on(model) == []


def test_requirements_are_those_of_the_package_and_are_looked_at(one: Family, tmp_path: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = (HUB / "custom_generate" / "requirements.txt").read_text().split()
    needed = setup["options"]["install_requires"].split()
    assert lines[1:] == [line for line in needed if line.startswith(("torch", "transformers"))]
    name, least = lines[0].split(">=")
    assert name == setup["metadata"]["name"]
    copied = tmp_path / "another name"
    shutil.copytree(HUB, copied)
    assert torch.equal(by_hub(one, 0, threshold=0.0, folder=copied), by_hub(one, 0, threshold=0.0))
    (copied / "custom_generate" / "requirements.txt").write_text(f"{name}>=9{least}\n")
    with pytest.raises(ImportError, match=rf"Missing requirements.*\n{name}>=9{least} \(installed: "):
        by_hub(one, 0, folder=copied)


def test_the_card_has_every_argument_with_its_default() -> None:
    card = (HUB / "README.md").read_text(encoding="utf-8")
    assert "custom_generate" in yaml.safe_load(card.split("---")[1])["tags"]
    rows = dict(re.findall(r"^\| (`.+?`) \| (.+?) \|", card, flags=re.MULTILINE))
    told = {
        name: default
        for names, defaults in rows.items()
        for name, default in zip(names.replace("`", "").split(", "), defaults.split(", "), strict=True)
    }
    kinds = (Contrast, Skip, Detector, Gate)
    knobs = {field.name: field.default for kind in kinds for field in dataclasses.fields(kind)}
    assert len(knobs) == sum(len(dataclasses.fields(kind)) for kind in kinds), "no two have a name in common"
    of_processor = inspect.signature(MutationLogitsProcessor).parameters
    knobs |= {name: of_processor[name].default for name in ("norm", "exact", "anatomy")}
    as_written = {"none": None, "true": True, "false": False}
    assert {name: as_written.get(text, text.strip('`"')) for name, text in told.items()} == {
        "strategy": "contrast",
        **{name: str(v) if isinstance(v, float) else v for name, v in knobs.items()},
    }
    taken = {
        *inspect.signature(transformers.GenerationMixin.generate).parameters,
        *GenerationConfig().to_dict(),
    }
    assert not taken & set(knobs), "no knob hides an argument of generate"


def test_in_a_process_of_its_own_and_from_elsewhere(other: Family, tmp_path: Path) -> None:
    """The folder as it would be published, and a model; nothing of this repository but what is installed."""
    with MutationLogitsProcessor(other.model, Contrast(alpha=1.5), detector=other.detector) as processor:
        want = other.generate(0, logits_processor=[processor])[0]
    other.model.save_pretrained(tmp_path / "model")
    shutil.copytree(HUB, tmp_path / "mutation-decode")
    code = f"""
        import torch, transformers
        model = transformers.AutoModelForCausalLM.from_pretrained("model")
        ids = torch.tensor([{other.prompts[0]}])
        out = model.generate(
            ids, max_new_tokens=10, custom_generate="mutation-decode", trust_remote_code=True,
            alpha=1.5, threshold={other.detector.threshold!r},
        )
        print(out[0].tolist())
    """
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(want.tolist())


def test_parts_that_are_not_found_can_be_passed() -> None:
    """Idefics needs a picture to run; what its refusal says can be done on this way too."""
    family = mild(idefics)
    inputs = family.batch(0)
    arguments = {"custom_generate": str(HUB), "trust_remote_code": True, "max_new_tokens": 3}
    with pytest.raises(ValueError, match=r"anatomy=Anatomy.of\(model, inputs\)"):
        family.model.generate(**inputs, **arguments)
    family.model.generate(**inputs, **arguments, anatomy=Anatomy.of(family.model, inputs), threshold=0.0)
