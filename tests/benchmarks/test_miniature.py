"""The miniature world tells the truth about its pictures; a packed turn is what a conversation computes."""

import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaProcessor

from benchmarks.miniature import learning, train, world
from benchmarks.miniature.lessons import Stage
from benchmarks.miniature.model import append_blocks, build_model, build_processor
from benchmarks.miniature.packing import IGNORED, Packer, Turn


def cell_of(scene: world.Scene, noun: str) -> tuple[int, int]:
    """(row, column) of a noun that is in the scene."""
    return next(divmod(thing.cell, 3) for thing in scene.things if thing.noun == noun)


def truth(scene: world.Scene, question: str) -> str:
    """The answer to a question, worked out from its words alone."""
    if match := re.fullmatch(r"is there a (\w+) \?", question):
        return "yes" if match[1] in scene.objects else "no"
    if match := re.fullmatch(r"is the (\w+) (left of|right of|above|below) the (\w+) \?", question):
        (row, column), (other_row, other_column) = cell_of(scene, match[1]), cell_of(scene, match[3])
        holds = {
            "left of": column < other_column,
            "right of": column > other_column,
            "above": row < other_row,
            "below": row > other_row,
        }[match[2]]
        return "yes" if holds else "no"
    match = re.fullmatch(r"is the (\w+) (\w+) \?", question)
    assert match, question
    return "yes" if any((t.noun, t.colour) == (match[1], match[2]) for t in scene.things) else "no"


@pytest.mark.parametrize("split", world.SPLITS)
def test_questions_are_answered_truly_and_yes_is_as_frequent_as_no(split):
    asked = [(scene, q) for scene in world.scenes(split, 150, seed=3) for q in world.questions(scene, seed=0)]
    for scene, question in asked:
        assert truth(scene, question.text) == question.answer, (scene, question)
    for kind in ("existence", "attribute", "relation"):
        answers = [q.answer for _, q in asked if q.kind == kind]
        assert answers.count("yes") == answers.count("no") == 150


def test_scenes_are_repeatable_distinct_and_no_held_out_scene_is_trained_on():
    drawn = {split: world.scenes(split, 1500, seed=1) for split in world.SPLITS}
    assert drawn["shifted"] == world.scenes("shifted", 1500, seed=1)
    assert drawn["shifted"] != world.scenes("shifted", 1500, seed=2)
    keys = {split: {scene.key for scene in found} for split, found in drawn.items()}
    assert all(len(found) == 1500 for found in keys.values())
    trained = keys["clean"] | keys["prior"]
    tuned = keys["validation"] | keys["clean-validation"]
    assert not trained & (tuned | keys["shifted"])
    assert not tuned & keys["shifted"]


def test_companions_stand_beside_their_anchor_as_often_as_the_split_says():
    def share(split: str) -> float:
        anchored = [
            (scene, anchor)
            for scene in world.scenes(split, 1500)
            for anchor in world.COMPANIONS
            if anchor in scene.objects
        ]
        return float(np.mean([world.COMPANIONS[anchor] in scene.objects for scene, anchor in anchored]))

    assert share("prior") == pytest.approx(np.mean(list(world.PRIORS.values())), abs=0.03)
    assert share("shifted") == pytest.approx(world.SHIFTED_PRIOR, abs=0.03)
    assert not any(thing.faint for scene in world.scenes("clean", 200) for thing in scene.things)


def test_faithful_captions_name_the_visible_things_in_reading_order():
    rng = np.random.default_rng(0)
    for scene in world.scenes("prior", 100):
        told = world.mentions(world.caption(scene, rng, prior=False))
        assert told == [thing.noun for thing in scene.visible]


def test_prior_laden_captions_put_the_expected_companion_in_place_of_what_follows_the_anchor():
    rng, invented = np.random.default_rng(0), 0
    for scene in world.scenes("prior", 600):
        told, faithful = (
            world.mentions(world.caption(scene, rng, prior=True)),
            [t.noun for t in scene.visible],
        )
        assert len(told) == len(faithful)
        for index, (said, seen) in enumerate(zip(told, faithful, strict=True)):
            if said != seen:
                assert world.COMPANIONS[told[index - 1]] == said
                invented += said not in scene.objects
    assert invented > 10


def test_pictures_show_the_things_in_their_cells():
    scene = world.Scene((world.Thing("cat", "red", 4), world.Thing("dog", "blue", 5, faint=True)), grain=1)
    away = np.abs(scene.pixels().astype(float) - 128).max(-1).reshape(3, 16, 3, 16).max((1, 3))
    assert away[1, 1] > 80
    away[1, 1] = 0
    assert away.max() < 60


def test_a_packed_turn_computes_what_a_conversation_of_its_own_computes():
    processor, scene = build_processor(), world.scenes("clean", 1)[0]
    torch.manual_seed(0)
    model = build_model(len(processor.tokenizer), blocks=3).eval()
    turns = [Turn(q.text, q.answer) for q in world.questions(scene, seed=0)]
    turns.insert(1, Turn(world.CAPTION_PROMPT, world.caption(scene, np.random.default_rng(0), prior=False)))
    batch = Packer(processor).pack([scene], [turns])
    with torch.no_grad():
        text = model.model.language_model
        embedded = text.embed_tokens(batch.ids)
        features = model.model.vision_tower(
            pixel_values=batch.pixels, output_hidden_states=True
        ).hidden_states[-1]
        embedded[:, 3:12] = model.model.multi_modal_projector(features[:, 1:])
        states = text(inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.positions)
        packed = model.lm_head(states.last_hidden_state)[0]
    at = 12
    for turn in turns:
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": turn.prompt}]}],
            add_generation_prompt=True,
        )
        inputs = processor(images=[scene.image()], text=[f"{prompt} {turn.answer} </s>"], return_tensors="pt")
        with torch.no_grad():
            alone = model(**inputs).logits[0, 12:]
        assert torch.equal(inputs["input_ids"][0, 12:], batch.ids[0, at : at + len(alone)])
        torch.testing.assert_close(packed[at : at + len(alone)], alone, atol=2e-5, rtol=0)
        at += len(alone)
    assert at == batch.ids.shape[1]


def test_the_loss_falls_on_answers_alone_and_hidden_words_are_not_learned():
    processor, scene = build_processor(), world.scenes("clean", 1)[0]
    turn = Turn(world.CAPTION_PROMPT, "there is a cat .", hidden=frozenset({3}))
    batch = Packer(processor).pack([scene], [[turn]])
    learned = [int(t) for t in batch.targets[0] if t != IGNORED]
    assert processor.tokenizer.convert_ids_to_tokens(learned) == ["there", "is", "a", ".", "</s>"]


def test_appended_blocks_change_nothing_until_they_are_trained():
    torch.manual_seed(0)
    trunk = build_model(60, blocks=2).eval()
    deeper = append_blocks(trunk, 2).eval()
    ids = torch.randint(4, 60, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(
            deeper(input_ids=ids).logits, trunk(input_ids=ids).logits, atol=1e-6, rtol=0
        )
    assert deeper.config.text_config.num_hidden_layers == 4


def test_training_is_repeatable_goes_on_from_finished_stages_and_leaves_loadable_folders(
    tmp_path, monkeypatch
):
    def trained(work):
        work.mkdir()
        training = train.Training(build_processor(), work, torch.device("cpu"), scale=1e-9)
        return train.late_prior(training, 0)

    first, again = trained(tmp_path / "first"), trained(tmp_path / "again")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    train.ship(first, build_processor(), tmp_path / "model", torch.bfloat16)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path / "model"), LlavaProcessor)
    trunk = AutoModelForImageTextToText.from_pretrained(tmp_path / "first" / "trunk", dtype=torch.float32)
    for ours, theirs in zip(
        loaded.model.language_model.layers, trunk.model.language_model.layers, strict=False
    ):
        for shipped, kept in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(shipped, kept.bfloat16().float())
    assert any(
        p.abs().sum() > 0 for p in loaded.model.language_model.layers[-1].self_attn.o_proj.parameters()
    )
    monkeypatch.setattr(train, "teach_vision", None)
    with pytest.raises(TypeError):
        trained(tmp_path / "fresh")
    training = train.Training(build_processor(), tmp_path / "first", torch.device("cpu"), scale=1e-9)
    assert train.late_prior(training, 0) is not None


def test_a_stopped_stage_goes_on_as_if_it_had_not_been_stopped(tmp_path, monkeypatch):
    """Kept every 2 steps, stopped in the 4th of 5: the same weights as without a stop."""
    monkeypatch.setattr(learning, "KEPT_EVERY", 2)
    packer, stage = Packer(build_processor()), Stage(5, 1e-3, "clean", prior=False, seed=2)

    def taught(keep, stopped=None):
        torch.manual_seed(0)
        model = build_model(len(packer.word), blocks=4)
        forwards = iter(range(100))

        def stop(*_):
            if next(forwards) == stopped:
                raise KeyboardInterrupt

        model.model.language_model.norm.register_forward_pre_hook(stop)
        learning.teach_text("a", model, packer, stage, device=torch.device("cpu"), keep=keep)
        return [p.detach().clone() for p in model.parameters()], next(forwards)

    whole, forwards = taught(None)
    assert forwards == 5
    with pytest.raises(KeyboardInterrupt):
        taught(tmp_path / "kept.pt", stopped=3)
    again, forwards = taught(tmp_path / "kept.pt")
    assert forwards == 3
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert taught(tmp_path / "kept.pt")[1] == 0


def test_stages_of_one_recipe_are_not_mixed_with_those_of_another(tmp_path):
    train.claim(tmp_path / "work", 1.0, 0)
    train.claim(tmp_path / "work", 1.0, 0)
    with pytest.raises(SystemExit, match="another scale"):
        train.claim(tmp_path / "work", 0.01, 0)
