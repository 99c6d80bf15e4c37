"""Where a prompt comes from: a template, a chat template, the tokenizer's, or nothing but the words."""

import json
import shutil

import pytest
import tiny_kinds
import tiny_models
from tiny_models import ASKED, answers, assistant, checkpoint, picture, user


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return tiny_models.write("llava", tmp_path_factory.mktemp("tiny") / "llava")


def test_one_that_puts_its_image_before_the_text_takes_one_turn_with_one_image(tmp_path):
    loaded = checkpoint(tiny_models.write("instructblip", tmp_path / "instructblip")).load("instructblip")
    assert (loaded.prompting, loaded.rendered(ASKED[1])) == ("plain", "Is there a dog?")
    for wrong, said in (
        ([user("Compare", picture("red"), picture("blue"))], "takes one image.*has 2"),
        ([user("Nothing to see?")], "takes one image.*has 0"),
        ([user("One?", picture("red")), assistant("A cat."), user("And?")], r"has 3 turns \(user, assistant"),
    ):
        with pytest.raises(ValueError, match=said):
            loaded.inputs([wrong])


def test_the_first_token_is_not_said_twice(llava, tmp_path):
    folder = shutil.copytree(llava, tmp_path / "begins")
    for start in ("", "<s>"):
        (folder / "chat_template.jinja").write_text(start + tiny_kinds.VICUNA, encoding="utf-8")
        loaded = checkpoint(folder).load("begins")
        assert loaded.rendered(ASKED[0]).startswith(start + "USER")
        assert loaded.inputs(ASKED)["input_ids"].eq(1).sum(dim=1).tolist() == [1, 1, 1]


def test_a_template_of_the_yaml_comes_before_the_chat_template(llava):
    loaded = checkpoint(llava, template="Q: {images}\n{prompt} A:").load("llava")
    assert loaded.prompting == "template"
    assert loaded.rendered([user("{images} {prompt} {x}?", picture("red"))]) == (
        "Q: <image>\n{images} {prompt} {x}? A:"
    )
    assert loaded.rendered([user("Both?", picture("red"), picture("blue"))]) == "Q: <image><image>\nBoth? A:"
    assert len(answers(loaded, ASKED)) == 3
    with pytest.raises(ValueError, match=r"one turn of the user, and the conversation has 3 turns"):
        loaded.inputs([[user("One?"), assistant("A cat."), user("Two?", picture("red"))]])


def test_without_a_chat_template_the_tokenizer_s_is_used_and_without_that_the_bare_prompt(llava, tmp_path):
    folder = shutil.copytree(llava, tmp_path / "bare")
    (folder / "chat_template.jinja").unlink()
    plain = checkpoint(folder).load("bare")
    assert plain.prompting == "plain"
    assert plain.rendered(ASKED[2]) == "<image>\nDescribe"
    assert plain.rendered([user("Nothing to see?")]) == "Nothing to see?"
    config = folder / "tokenizer_config.json"
    of_text = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}[assistant]"
    values = {**json.loads(config.read_text("utf-8")), "chat_template": of_text}
    config.write_text(json.dumps(values), encoding="utf-8")
    chat = checkpoint(folder).load("bare")
    assert chat.prompting == "tokenizer's chat template"
    turns = [user("One?", picture("red"), picture("blue")), assistant("A cat."), user("And?", picture("red"))]
    assert chat.rendered(turns) == (
        "[user] <image><image>\nOne? [assistant] A cat. [user] <image>\nAnd? [assistant]"
    )
    assert len(answers(chat, [turns, *ASKED])) == 4


def test_bare_prompts_are_told_once_and_only_where_nobody_chose_them(llava, tmp_path, capfd):
    folder = shutil.copytree(llava, tmp_path / "bare")
    (folder / "chat_template.jinja").unlink()
    instructblip = tiny_models.write("instructblip", tmp_path / "instructblip")
    for path, template in ((folder, "{images}{prompt}"), (llava, None), (instructblip, None)):
        checkpoint(path, template=template).check("mine")
    assert "note: " not in capfd.readouterr().err
    for _ in range(2):
        checkpoint(folder).check("mine")
    notes = [line for line in capfd.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: no chat template at {folder}: prompts are bare; set model.mine.template"]


def test_a_tokenizer_without_a_pad_token_pads_with_its_last(llava, tmp_path):
    folder = shutil.copytree(llava, tmp_path / "padless")
    config = folder / "tokenizer_config.json"
    values = {k: v for k, v in json.loads(config.read_text("utf-8")).items() if k != "pad_token"}
    config.write_text(json.dumps({**values, "padding_side": "right"}), encoding="utf-8")
    loaded = checkpoint(folder).load("padless")
    ids = loaded.inputs(ASKED)["input_ids"]
    assert ids[2, 0] == loaded.processor.tokenizer.eos_token_id == 2
    assert answers(loaded, ASKED) == [answers(loaded, [one])[0] for one in ASKED]
