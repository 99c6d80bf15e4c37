"""Methods with a second forward in a run: beside greedy, stopped and resumed, out of memory, refused."""

import json

import pytest
import torch

from benchmarks.batch import Asking, conversation
from benchmarks.miniature import world
from benchmarks.models import Checkpoint
from benchmarks.second_forward import ICD, M3ID, PAI, VCD
from benchmarks.tasks import about

NAMES = ("vcd", "icd", "m3id", "pai")
ARGUMENTS = {"max_new_tokens": 6, "do_sample": False}


def items(count):
    scenes = world.scenes("shifted", count, seed=3)
    return [about({"image_id": s.key}, "describe this image .", s.image) for s in scenes]


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return Checkpoint(path=str(checkpoint), device="cpu").load("tiny")


def test_a_run_that_was_stopped_goes_on_to_the_same_file(harness, small, tmp_path):
    words = [
        *small,
        f"method=[greedy,{','.join(NAMES)}]",
        *("method.m3id.decay=1.0", "method.pai.gamma=9", "method.vcd.noise_step=999"),
        *("task.miniature-chair.n=4", "generation.batch_size=2"),
    ]
    assert harness(*words) == 0
    files = {file.parent.name: file for file in (tmp_path / "run" / "predictions").rglob("*.jsonl")}
    assert set(files) == {"greedy", *NAMES}
    whole = {name: file.read_text() for name, file in files.items()}
    lines = {name: [json.loads(line) for line in text.splitlines()] for name, text in whole.items()}
    captions = {name: tuple(line["caption"] for line in found) for name, found in lines.items()}
    assert len(set(captions.values())) >= 4, "they say other things than greedy"
    for name, found in lines.items():
        assert len(found) == 4
        assert [line["fired"] for line in found] == [line["tokens"] * (name != "greedy") for line in found]
    for name in NAMES:
        files[name].write_text("".join(line + "\n" for line in whole[name].splitlines()[:2]))
    assert harness(*words) == 0
    assert {name: file.read_text() for name, file in files.items()} == whole
    rows = json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["greedy", *NAMES]
    assert [row["figures"]["fired"]["value"] for row in rows] == [0, 100, 100, 100, 100]


@pytest.mark.parametrize("method", [VCD(noise_step=999), ICD(), M3ID(decay=1.0), PAI(gamma=9.0)])
def test_halves_of_a_batch_that_does_not_fit_give_its_answers(loaded, monkeypatch, method):
    asking = Asking(loaded, None, ARGUMENTS, "text", method)
    whole, _ = asking.lines(items(3), 7)
    sizes, generate = [], type(loaded.model).generate

    def limited(self, **inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 2:
            torch.empty(2**50)
        return generate(self, **inputs)

    monkeypatch.setattr(type(loaded.model), "generate", limited)
    lines, spent = asking.lines(items(3), 7)
    assert lines == whole
    assert spent.halved == 1
    assert sizes == [3, 2, 2, 1, 1], "both forwards are prepared for each half"


def test_noise_is_the_seeds_and_the_pictures(loaded):
    asked = [conversation(item)[0] for item in items(2)]
    inputs = loaded.inputs(asked)

    def noise(conversations, given, seed):
        return VCD().other(loaded, conversations, given, seed)["pixel_values"]

    first = noise(asked, inputs, 4)
    assert torch.equal(noise(asked, inputs, 4), first)
    torch.rand(3)
    assert torch.equal(noise(asked, inputs, 4), first), "whatever was drawn before"
    assert not torch.equal(noise(asked, inputs, 5), first)
    swapped = [asked[1], asked[1]]
    twice = noise(swapped, loaded.inputs(swapped), 4)
    assert not torch.equal(twice[0], twice[1]), "each has its own"
    torch.testing.assert_close(twice[1], first[1], atol=0, rtol=0)


def test_a_second_prompt_beyond_the_context_is_an_error_of_its_item(loaded):
    most = loaded.context - ARGUMENTS["max_new_tokens"]
    asking = Asking(loaded, None, ARGUMENTS, "text", ICD(instruction="image " * most))
    (line,), _ = asking.lines(items(1))
    assert "exceed the model's context of" in line["error"]
    assert "text" in Asking(loaded, None, ARGUMENTS, "text", ICD(instruction="image")).lines(items(1))[0][0]


def test_beams_end_a_run_before_it_begins(harness, small, tmp_path, capsys):
    assert harness(*small, "method=[greedy,vcd]", "+method.vcd.generate.num_beams=2") == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: method vcd runs the model a second time, whose rows cannot follow beams; got num_beams=2; "
        "set it to 1, or leave vcd out"
    )
    assert not (tmp_path / "run").exists()
