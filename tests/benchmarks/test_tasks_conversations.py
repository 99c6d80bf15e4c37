"""Conversations in transformers' chat format as items, and what is wrong with a file of them."""

import json
import re

import pytest
from layouts import conversations, draw

from benchmarks.tasks.conversations import Conversations
from benchmarks.usage import UsageError

USER = {"role": "user", "content": "Hello"}


def task(file, **given):
    return Conversations(**{"file": str(file), "images": None, "max_new_tokens": 4, **given})


def write(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def asked(*parts):
    return {"messages": [{"role": "user", "content": list(parts)}]}


def test_turns_and_images_stand_as_in_the_file(tmp_path):
    for place, name in enumerate(("a.jpg", "b.png")):
        draw(tmp_path / name, place)
    one, _, both = task(conversations(tmp_path / "all.jsonl", ["a.jpg", "b.png"])).items()
    assert one.record == {"id": "about a.jpg", "image_id": "a.jpg"}
    assert [(turn.role, turn.text, len(turn.images)) for turn in one.turns] == [
        ("user", "What is there?", 1),
        ("assistant", "A dog.", 0),
        ("user", "And what else?", 0),
    ]
    assert both.record == {"id": "all", "image_id": "a.jpg"}
    first, second = (read().convert("RGB").tobytes() for read in both.turns[0].images)
    assert first != second
    assert one.turns[0].images[0]().convert("RGB").tobytes() == first


def test_a_line_may_leave_out_its_id_hold_no_image_and_be_of_any_script(tmp_path):
    file = write(
        tmp_path / "a.jsonl",
        "\ufeff" + json.dumps({"messages": [{"role": "system", "content": "Kurz."}, USER]}) + "\r\n",
        "\n",
        '{"id": 7, "messages": [{"role": "user", "content": "Was ist\u2028das, 猫?"}]}\n',
    )
    items = task(file).items()
    assert [dict(item.record) for item in items] == [
        {"id": "1", "image_id": "1"},
        {"id": "7", "image_id": "7"},
    ]
    assert [turn.role for turn in items[0].turns] == ["system", "user"]
    assert items[1].turns[0].text == "Was ist\u2028das, 猫?"
    assert task(file).files() == (file,)


def test_images_of_another_folder(tmp_path):
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    draw(tmp_path / "pictures" / "deep" / "a.jpg")
    file = write(
        tmp_path / "a.jsonl", asked({"type": "image", "path": "deep/a.jpg"}, {"type": "text", "text": "?"})
    )
    with pytest.raises(UsageError, match=re.escape("has none of 1 images, such as deep/a.jpg")):
        task(file).items()
    (item,) = task(file, images=str(tmp_path / "pictures")).items()
    assert item.turns[0].images[0]().size == (64, 48)


def test_every_wrong_line_is_named(tmp_path):
    text, image = {"type": "text", "text": "What?"}, {"type": "image", "image": "a.jpg"}
    wrong = {
        " is no JSON (Expecting value)": "nothing\n",
        " is not in transformers' chat format (AttributeError": [1],
        " is not in transformers' chat format (KeyError('messages'))": {"id": "x"},
        " is not in transformers' chat format (KeyError('type'))": asked({"text": "a"}),
        " is not in transformers' chat format (TypeError": {"messages": [{"role": "user", "content": None}]},
        ": expected the roles system, user, assistant, got 'bot'": {"messages": [{**USER, "role": "bot"}]},
        ": expected the last turn to be the user's": {"messages": [USER, {**USER, "role": "assistant"}]},
        ": expected parts of the type text or image, got 'video'": asked({"type": "video"}),
        ": expected the images of a turn before its text": asked(text, image),
        ": expected an image to be the name of a file, got": asked(
            {"type": "image", "url": "http://a/b.jpg"}
        ),
        ": expected an image to be the name of a file, got {": asked({**image, "image": "https://a/b.jpg"}),
        ": the id '1' stands there twice": {"id": "1", "messages": [USER]},
    }
    for message, line in wrong.items():
        file = write(tmp_path / "a.jsonl", {"messages": [USER]}, line)
        with pytest.raises(UsageError, match=re.escape(f"a.jsonl: 1 wrong: line 2{message}")):
            task(file).items()
    file = write(tmp_path / "a.jsonl", *(["nothing\n"] * 7))
    with pytest.raises(UsageError, match=r"7 wrong: line 1 .*line 5 is no JSON \(Expecting value\)$"):
        task(file).items()


def test_no_file_and_an_empty_one(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the conversations .*none\.jsonl.*No such file"):
        task(tmp_path / "none.jsonl").items()
    with pytest.raises(UsageError, match="is an empty data set; expected a conversation a line"):
        task(write(tmp_path / "a.jsonl", "\n")).items()
