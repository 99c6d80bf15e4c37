"""The curriculum: what the slots hold in words, who learns in which stage, and a folder that loads."""

import sys
from dataclasses import replace
from itertools import islice, repeat

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from benchmarks.miniature import curriculum, train, world
from benchmarks.miniature.learning import named, read, see
from benchmarks.miniature.model import build_model, build_processor
from benchmarks.miniature.packing import IGNORED, Packer, Turn

SHIPPED = train.MODELS / "miniature-late-prior"
SMALLEST = "1e-9"  # of the steps: one a stage


@pytest.fixture(scope="module")
def packer():
    return Packer(build_processor())


@pytest.fixture
def model(packer):
    torch.manual_seed(0)
    return build_model(len(packer.word), blocks=2).eval()


def changed(before, after) -> bool:
    """Whether any weight differs between two lists of the same."""
    return not all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_slots_hold_the_visible_things_as_words_and_nothing_else(packer):
    scene = world.Scene(
        (world.Thing("table", "red", 2), world.Thing("chair", "blue", 5, faint=True)),
        grain=1,
    )
    words = torch.randn(len(packer.word), 128)
    places = curriculum.Places(packer)
    slots = places(words, *named([scene]))[0]
    for cell in range(9):
        said = words[packer.word["table"]] + words[packer.word["red"]] if cell == 2 else torch.zeros(128)
        torch.testing.assert_close(slots[cell], said + places.place[cell], atol=1e-6, rtol=0)


def test_half_of_the_text_stands_over_empty_slots_and_then_is_captions_alone(packer, model):
    places = curriculum.Places(packer)
    answers = [packer.word["yes"], packer.word["no"]]
    filled = asked = 0
    for batch, slots in islice(curriculum.written(model, packer, places, curriculum.TEXT), 30):
        empty = (slots == places.place).flatten(1).all(1)
        filled += int((~empty).sum())
        answered = torch.isin(batch.targets, torch.tensor(answers)).any(1)
        assert not (answered & empty).any()
        assert answered[~empty].all()
        grounded = (batch.cells != IGNORED).any(1)
        assert torch.equal(grounded, ~empty)
        stops = (batch.targets == packer.word["</s>"]).sum(1)
        assert (stops[empty] == 2).all()
        asked += len(slots)
    assert asked == 30 * curriculum.ROWS
    assert filled / asked == pytest.approx(curriculum.FILLED, abs=0.1)


def test_the_words_in_the_slots_are_learned_from_what_is_asked_about_them(packer, model):
    places = curriculum.Places(packer)
    batch, slots = next(curriculum.written(model, packer, places, curriculum.TEXT))
    states = read(model, batch, slots).last_hidden_state[batch.targets != IGNORED]
    model.lm_head(states).logsumexp(-1).mean().backward()
    assert places.place.grad.abs().sum() > 0


def test_pictures_in_the_slots_are_read_as_the_stock_model_reads_them(packer, model):
    scene = world.scenes("clean", 1)[0]
    turn = Turn(world.CAPTION_PROMPT, world.caption(scene, np.random.default_rng(0), prior=False))
    batch, slots = next(curriculum.drawn(model, iter([packer.pack([scene], [[turn]])])))
    torch.testing.assert_close(
        slots, model.model.multi_modal_projector(see(model, batch.pixels).float()), rtol=0, atol=0
    )
    processor = build_processor()
    content = [{"type": "image"}, {"type": "text", "text": turn.prompt}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=[scene.image()], text=[f"{prompt} {turn.answer} </s>"], return_tensors="pt")
    with torch.no_grad():
        ours = model.lm_head(read(model, batch, slots).last_hidden_state)
        stock = model(**inputs).logits
    assert torch.equal(inputs["input_ids"], batch.ids)
    # the tower runs in bf16 in training
    torch.testing.assert_close(ours, stock, atol=0.02, rtol=0)


def test_the_projector_learns_to_say_of_a_picture_what_stood_there_in_words(packer, model, tmp_path):
    shipped = AutoModelForImageTextToText.from_pretrained(SHIPPED, dtype=torch.float32)
    model.model.vision_tower.load_state_dict(shipped.model.vision_tower.state_dict())
    places = curriculum.Places(packer)
    scenes = world.scenes("clean", 16, seed=9)
    aim = places(model.get_input_embeddings().weight, *named(scenes)).detach()

    def missed() -> float:
        """Of the variance of what the slots held."""
        with torch.no_grad():
            shown = model.model.multi_modal_projector(see(model, packer.pixels(scenes)).float())
        return float((shown - aim).square().mean() / aim.var())

    before, tower = missed(), see(model, packer.pixels(scenes)).clone()
    training = train.Training(build_processor(), tmp_path, torch.device("cpu"))
    curriculum.place(training, model, places, replace(curriculum.PLACING, steps=40, rate=6e-3))
    assert missed() < 0.9 < before
    assert torch.equal(see(model, packer.pixels(scenes)), tower)


def test_the_grounding_head_learns_from_what_enters_the_fourth_block(packer, tmp_path):
    training = train.Training(build_processor(), tmp_path, torch.device("cpu"))
    deeper, head = build_model(len(packer.word), blocks=5), torch.nn.Linear(128, 18)
    read_by_head, entered = [], []
    head.register_forward_pre_hook(lambda _, inputs: read_by_head.append(inputs[0].detach()))
    deeper.model.language_model.layers[3].register_forward_pre_hook(
        lambda _, inputs: entered.append(inputs[0].detach())
    )
    places = curriculum.Places(packer)
    stage = replace(curriculum.TEXT, steps=2)
    before = [weight.detach().clone() for weight in head.parameters()]
    lessons = curriculum.written(deeper, packer, places, stage)
    curriculum.teach(training, "text", deeper, stage, lessons, [places], head)
    assert changed(before, head.parameters())
    assert not changed(read_by_head, entered)


def test_a_quarter_of_the_steps_of_tuning_have_faithful_captions(packer, monkeypatch):
    monkeypatch.setattr(curriculum, "batches", lambda _, stage: repeat(stage.prior))
    drawn = list(islice(curriculum.mixed(packer, curriculum.TUNING), 1000))
    assert 1 - np.mean(drawn) == pytest.approx(curriculum.FAITHFUL, abs=0.04)


def test_each_stage_teaches_its_own_parts_and_a_stopped_run_goes_on(tmp_path, monkeypatch):
    command = ["curriculum", "--work", str(tmp_path), "--scale", SMALLEST, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", command)
    curriculum.main()
    start = torch.load(tmp_path / "start.pt")
    text, placing, captioning, tuning = (
        torch.load(tmp_path / f"{name}.pt")["weights"] for name in ("text", "placing", "captioning", "tuning")
    )
    aligned, tuned = (
        AutoModelForImageTextToText.from_pretrained(tmp_path / name, dtype=torch.float32)
        for name in ("aligned", "miniature-curriculum")
    )
    projector = [*aligned.model.multi_modal_projector.parameters()]
    decoder = [*aligned.model.language_model.parameters(), *aligned.lm_head.parameters()]
    assert len(text) == len(decoder) + 3  # the places, the grounding head
    assert len(tuning) == len(decoder) + len(projector)
    assert not changed(text[: len(decoder)], decoder)
    assert changed([start["model.language_model.embed_tokens.weight"]], text[:1])
    assert changed([weight for name, weight in start.items() if "multi_modal_projector" in name], placing)
    assert changed(placing, captioning)
    assert not changed(captioning, projector)
    assert changed(decoder[-1:], tuning[len(decoder) - 1 : len(decoder)])
    assert not changed(
        [weight.bfloat16().float() for weight in tuning],
        [
            *tuned.model.language_model.parameters(),
            *tuned.lm_head.parameters(),
            *tuned.model.multi_modal_projector.parameters(),
        ],
    )
    monkeypatch.setattr(torch.optim.AdamW, "step", None)  # what was learned is not learned again
    curriculum.main()
    again = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "miniature-curriculum", dtype=torch.float32
    )
    assert not changed(tuned.parameters(), again.parameters())
    (tmp_path / "tuning.pt").unlink()
    with pytest.raises(TypeError):
        curriculum.main()
    monkeypatch.setattr(sys, "argv", [*command[:4], "0.5"])
    with pytest.raises(SystemExit, match="another scale"):
        curriculum.main()
