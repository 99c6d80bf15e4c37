"""One batch on a real model: what is wrong with one item costs no other item its answer."""

import time
from dataclasses import replace

import pytest
import torch
from PIL import Image
from transformers import LogitsProcessor

from benchmarks import cost
from benchmarks.batch import Asking, conversation, outline
from benchmarks.miniature import world
from benchmarks.models import Checkpoint
from benchmarks.tasks import Item, Turn, about
from mutation_decode import Contrast, Detector, MutationLogitsProcessor

NEW = 6


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return Checkpoint(path=str(checkpoint), device="cpu").load("tiny")


@pytest.fixture
def asking(loaded):
    return Asking(loaded, None, {"max_new_tokens": NEW, "do_sample": False}, "text")


def items(count):
    scenes = world.scenes("shifted", count, seed=3)
    return [about({"image_id": s.key}, "describe this image .", s.image) for s in scenes]


def too_large_from(limit, model, monkeypatch):
    """generate runs out of memory with ``limit`` rows or more; returns the sizes that were asked."""
    sizes, generate = [], type(model).generate

    def limited(self, **inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] >= limit:
            torch.empty(2**50)
        return generate(self, **inputs)

    monkeypatch.setattr(type(model), "generate", limited)
    return sizes


def test_a_batch_that_does_not_fit_is_answered_in_halves(asking, loaded, monkeypatch):
    batch = items(7)
    whole, undisturbed = asking.lines(batch)
    assert undisturbed.halved == 0
    sizes = too_large_from(3, loaded.model, monkeypatch)
    lines, spent = asking.lines(batch)
    assert lines == whole
    assert sizes == [7, 4, 2, 2, 3, 2, 1]
    assert (spent.halved, spent.items, spent.tokens) == (3, 7, undisturbed.tokens)


def test_samples_of_halves_do_not_depend_on_how_far_the_whole_came(asking, loaded, monkeypatch):
    sampling = replace(asking, arguments={"max_new_tokens": NEW, "do_sample": True})
    batch = items(4)
    too_large_from(3, loaded.model, monkeypatch)
    early, _ = sampling.lines(batch, 5)
    draw = loaded.model.generate

    def late(**inputs):
        torch.rand(1)
        return draw(**inputs)

    monkeypatch.setattr(loaded.model, "generate", late)
    again, _ = sampling.lines(batch, 5)
    assert again != early, "the draw is felt"
    monkeypatch.setattr(loaded.model, "generate", draw)
    torch.rand(7)
    assert sampling.lines(batch, 5)[0] == early
    assert sampling.lines(batch, 6)[0] != early


def test_what_does_not_fit_alone_is_an_error_of_its_own(asking, loaded, monkeypatch):
    too_large_from(1, loaded.model, monkeypatch)
    lines, spent = asking.lines(items(2))
    assert [line["error"][:34] for line in lines] == ["out of memory, alone in its batch:"] * 2
    assert "can't allocate memory" in lines[0]["error"]
    assert spent.items == 0


def test_another_failure_is_no_lack_of_memory(asking, loaded, monkeypatch):
    def broken(self, **inputs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(type(loaded.model), "generate", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        asking.lines(items(2))


def test_a_prompt_beyond_the_context_is_named_and_the_others_are_answered(asking, loaded):
    context = loaded.context
    batch = items(3)
    long = about({"image_id": "long"}, "describe this image . " * context, batch[1].turns[0].images[0])
    lines, _ = asking.lines([batch[0], long, batch[2]])
    assert lines[1]["error"].endswith(f"max_new_tokens={NEW} exceed the model's context of {context}")
    assert "text" not in lines[1]
    alone, _ = asking.lines([batch[0], batch[2]])
    assert [lines[0], lines[2]] == alone


def test_a_prompt_that_just_fits_is_answered(asking, loaded):
    def asked(words):
        return about({"image_id": str(words)}, " ".join(["image"] * words), items(1)[0].turns[0].images[0])

    (length,) = loaded.lengths(loaded.inputs([conversation(asked(1))[0]]))
    most = loaded.context - NEW - length + 1
    fits, beyond = asking.lines([asked(most), asked(most + 1)])[0]
    assert "text" in fits
    assert f"a prompt of {loaded.context - NEW + 1} tokens" in beyond["error"]


def test_a_conversation_that_the_model_does_not_take_is_named(asking):
    batch = items(2)
    bare = Item({"image_id": "bare"}, (Turn("user", "what is <image> this ?"),))
    lines, _ = asking.lines([batch[0], bare, batch[1]])
    assert lines[1]["error"].startswith("the model does not take this: ")
    assert [lines[0], lines[2]] == asking.lines(batch)[0]


@pytest.mark.parametrize(
    ("mode", "converted"), [("L", ["L"]), ("RGBA", ["RGBA"]), ("P", ["P"]), ("I;16", ["I;16"]), ("RGB", None)]
)
def test_images_of_other_modes_are_converted_and_named(asking, mode, converted):
    image = Image.new(mode, (40, 40), 60)
    (line,), _ = asking.lines([about({"image_id": "a"}, "describe this image .", lambda: image)])
    assert line.get("converted") == converted
    assert "text" in line


def test_an_image_that_is_not_there_is_an_error_and_another_one_s_answer_stays(asking, tmp_path):
    (there,) = items(1)
    gone = about({"image_id": "gone"}, "describe this image .", lambda: Image.open(tmp_path / "gone.png"))
    lines, spent = asking.lines([gone, there])
    assert lines[0]["error"].startswith("FileNotFoundError: ")
    assert lines[1] == asking.lines([there])[0][0]
    assert spent.items == 1
    assert asking.lines([gone])[1].items == 0


def test_earlier_turns_and_several_images_come_in_their_order():
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    turns = (
        Turn("user", "what is this ?", (lambda: red,)),
        Turn("assistant", "a wall ."),
        Turn("user", "and this ?", (lambda: blue, lambda: red)),
    )
    item = Item({"image_id": "a"}, turns)
    messages, modes = conversation(item)
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    kinds = [[part["type"] for part in message["content"]] for message in messages]
    assert kinds == [["image", "text"], ["text"], ["image", "image", "text"]]
    assert messages[2]["content"][0]["image"].getpixel((0, 0)) == (0, 0, 255)
    assert modes == []
    assert [[part["type"] for part in message["content"]] for message in outline(item)] == kinds


def test_an_answer_ends_where_its_method_says(asking, loaded):
    batch = items(2)
    whole, _ = asking.lines(batch)
    assert all(line["truncated"] and line["tokens"] == NEW for line in whole)
    last = loaded.processor.tokenizer(whole[0]["text"].split()[2], add_special_tokens=False)["input_ids"][0]
    own = replace(asking, arguments={**asking.arguments, "eos_token_id": [last]})
    first = own.lines(batch)[0][0]
    assert first["truncated"] == 0
    assert first["tokens"] == whole[0]["text"].split().index(whole[0]["text"].split()[2]) + 1


def test_tokens_after_a_row_s_end_are_neither_counted_nor_fired(asking, loaded):
    batch = items(3)
    inputs = loaded.inputs([conversation(item)[0] for item in batch])
    output = loaded.model.generate(**inputs, **asking.arguments)
    made = output[:, inputs["input_ids"].shape[1] :].tolist()
    end = made[0][1]
    lengths = [[*row, end].index(end) + 1 for row in made]
    assert min(lengths) <= 2 < NEW < max(lengths), "one row ends early, another one never"
    detector = Detector(threshold=0.0, critical=0.5)
    with MutationLogitsProcessor(
        loaded.model, Contrast(alpha=0.0), detector=detector, trace="watched"
    ) as processor:
        own = replace(asking, processor=processor, arguments={**asking.arguments, "eos_token_id": end})
        lines, _ = own.lines(batch)
    assert [line["tokens"] for line in lines] == [min(length, NEW) for length in lengths]
    assert [line["fired"] for line in lines] == [line["tokens"] for line in lines]
    assert [line["truncated"] for line in lines] == [int(length > NEW) for length in lengths]


class Slow(LogitsProcessor):
    """Takes its time at every token but the first."""

    seen = 0

    def __call__(self, input_ids, scores):
        time.sleep(0.05 if self.seen else 0)
        self.seen += 1
        return scores


def test_the_first_token_and_all_of_them_are_timed_over_halves_too(asking, loaded, monkeypatch):
    slow = replace(asking, arguments={**asking.arguments, "logits_processor": [Slow()]})
    slow.lines(items(1))
    _, spent = replace(asking, arguments={**asking.arguments, "logits_processor": [Slow()]}).lines(items(2))
    pauses = 0.05 * (NEW - 1)
    assert spent.seconds > pauses
    assert spent.first < spent.seconds - pauses
    too_large_from(2, loaded.model, monkeypatch)
    _, halved = slow.lines(items(2))
    assert halved.seconds > 2 * pauses


@pytest.mark.parametrize(
    ("ids", "generated", "ended"),
    [
        ([[5, 6, 7, 8, 9, 4], [5, 6, 7, 8, 2, 0]], [6, 5], [False, True]),  # 2 ends, 0 fills up
        ([[5, 6, 7, 8, 9, 4], [5, 6, 7, 0, 0, 0]], [6, 3], [False, True]),  # a stop string
        ([[5, 6, 7], [5, 6, 0]], [3, 2], [True, True]),  # before max_new_tokens: all have ended
        ([[5, 6, 7, 8, 9, 2], [5, 0, 7, 8, 9, 4]], [6, 6], [True, False]),
    ],
)
def test_ends_and_what_fills_up(asking, loaded, ids, generated, ended):
    own = replace(asking, arguments={**asking.arguments, "eos_token_id": 2})
    assert loaded.processor.tokenizer.pad_token_id == 0
    found, ends = own._ends(torch.tensor(ids))
    assert found.sum(1).tolist() == generated
    assert ends.tolist() == ended


def test_an_end_that_also_fills_up_is_one_token(asking):
    own = replace(asking, arguments={**asking.arguments, "eos_token_id": [0, 2]})
    found, ends = own._ends(torch.tensor([[5, 6, 0, 0, 0, 0], [5, 6, 7, 8, 9, 4]]))
    assert found.sum(1).tolist() == [3, 6]
    assert ends.tolist() == [True, False]


def test_what_a_batch_took(asking, tmp_path):
    lines, spent = asking.lines(items(3))
    assert 0 < spent.first < spent.seconds
    assert spent.tokens == sum(line["tokens"] for line in lines)
    assert 2**24 < spent.peak < 2**38
    file = tmp_path / "0.jsonl"
    cost.keep(file, 0, spent)
    with file.open("a") as half:
        half.write('{"batch": 1, "it')  # a full disk
    cost.keep(file, 1, cost.Spent(items=1, tokens=10, seconds=1.0, first=9.0, peak=2**31, halved=2))
    with file.open("a") as half:
        half.write('{"batch": 2, "it')
    found = cost.summary([file])
    assert found["batches"] == 2
    assert found["halved"] == 2
    assert found["first_token_seconds"] == pytest.approx((spent.first + 9) / 2)
    assert found["tokens_per_second"] == pytest.approx((spent.tokens + 10) / (spent.seconds + 1))
    assert found["peak_gib"] == 2
    assert cost.summary([]) is None
