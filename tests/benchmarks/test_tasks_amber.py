"""AMBER's two parts as tasks, in a clone of its repository with drawn images, over real responses too."""

import json
import re
import shutil

import nltk
import pytest
from layouts import amber, draw

from benchmarks import score
from benchmarks.tasks.amber_task import Discriminative, Generative
from benchmarks.usage import UsageError


def generative(root, **given):
    defaults = {
        **{"images": None, "prompt": None, "n": None, "max_new_tokens": 8},
        **{"nouns": "table", "similarity": "exact", "similarity_table": None},
    }
    return Generative(root=str(root), **{**defaults, **given})


def discriminative(root, **given):
    defaults = {"images": None, "prompt": None, "n": None, "max_new_tokens": 8, "parser": "official"}
    return Discriminative(root=str(root), **{**defaults, **given})


def answered(task, texts):
    return [{**item.record, task.answer: texts(item)} for item in task.items()]


def by_command(tmp_path, lines, root, **settings):
    """Figures of ``python -m benchmarks.score`` on a run's file."""
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = {"annotations": root / "data", **settings}
    words = [f"{key}={value}" for key, value in given.items()]
    return score.from_words(["task=amber", f"predictions={file}", *words])[2](file).values()


def test_the_items_are_the_queries_of_the_files(tmp_path):
    root = amber(tmp_path / "amber", 3)
    told = generative(root).items()
    assert [dict(item.record) for item in told] == [
        {"id": str(place), "image_id": f"AMBER_{place}.jpg"} for place in (1, 2, 3)
    ]
    assert {item.turns[0].text for item in told} == {"Describe this image."}
    assert told[2].turns[0].images[0]().size == (64, 48)
    asked = discriminative(root).items()
    assert len(asked) == 18
    assert asked[0].record == {"id": "4", "image_id": "AMBER_1.jpg"}
    assert asked[0].turns[0].text == "Is the sky sunny in this image?"
    names = [path.relative_to(root / "data").as_posix() for path in generative(root).files()]
    assert names == [
        *("annotations.json", "relation.json", "safe_words.txt", "query/query_generative.json"),
        *(f"query/query_discriminative-{what}.json" for what in ("attribute", "existence", "relation")),
    ]
    assert generative(root, similarity_table="table.json").files()[-1].name == "table.json"


def test_the_first_images_and_a_prompt_of_one_s_own(tmp_path):
    root = amber(tmp_path / "amber", 3)
    assert [item.image_id for item in generative(root, n=2).items()] == ["AMBER_1.jpg", "AMBER_2.jpg"]
    asked = discriminative(root, n=2, prompt="{query} One word.").items()
    assert len(asked) == 12
    assert {item.image_id for item in asked} == {"AMBER_1.jpg", "AMBER_2.jpg"}
    assert asked[0].turns[0].text == "Is the sky sunny in this image? One word."
    assert generative(root, prompt="What is there?").items()[0].turns[0].text == "What is there?"


def test_the_data_folder_itself_and_images_elsewhere_will_do(tmp_path):
    root = amber(tmp_path / "amber", 3)
    shutil.move(root / "image", tmp_path / "pictures")
    items = generative(root / "data", images=str(tmp_path / "pictures")).items()
    assert items[0].turns[0].images[0]().size == (64, 48)
    shutil.move(tmp_path / "pictures", root / "images")
    assert len(generative(root).items()) == 3, "a folder images/ is found, too"


def test_the_figures_are_those_of_the_score_command(tmp_path):
    root = amber(tmp_path / "amber", 3)
    told = ["A man and a puppy under trees.", "The sky, a cloud and a camera.", "Nothing."]
    task = generative(root)
    lines = answered(task, lambda item: told[int(item.record["id"]) - 1])
    found = task.score(lines)
    expected = by_command(tmp_path, lines, root, nouns="table")
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(
        {name: expected[name] for name in found}, rel=1e-12, nan_ok=True
    )
    assert found["CHAIR"].value == pytest.approx(40), "the puppy and the cloud, of five nouns that count"
    assert len(task.score(lines[1:])["Cover"].numerator) == 2

    task = discriminative(root)
    lines = answered(task, lambda item: ("Yes", "No", "No.")[int(item.record["id"]) ** 2 % 5 % 3])
    found = task.score(lines)
    expected = by_command(tmp_path, lines, root, nouns="table")
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(
        {name: expected[name] for name in found}, rel=1e-12, nan_ok=True
    )
    assert {"F1", "F1_existence", "F1_attribute", "F1_relation"} <= found.keys()


def test_answers_that_are_not_there_are_not_asked_for(tmp_path):
    task = discriminative(amber(tmp_path / "amber", 3), parser="lenient")
    lines = answered(task, lambda item: "no.")
    part = task.score([line for line in lines if line["image_id"] != "AMBER_2.jpg"][1:])
    assert {len(column.numerator) for column in part.values()} == {2}
    assert part["accuracy"].denominator.sum() == 11
    assert part["recall"].value == 100


def test_the_official_figures_of_real_responses(data, tmp_path, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [str(data / "nltk_data")])
    draw(tmp_path / "AMBER_1.jpg")
    task = generative(data / "amber", images=str(tmp_path), nouns="nltk", n=166)
    text = json.loads((data / "amber" / "llava15_responses_166.json").read_text())
    known = {str(line["id"]): line["response"] for line in text}
    found = task.score(answered(task, lambda item: known[item.record["id"]]))
    columns = ("CHAIR", "Cover", "Cog")
    assert [found[name].numerator.sum() for name in columns] == [95, 472, 26]
    assert [found[name].denominator.sum() for name in columns] == [1260, 927, 807]
    assert found["Hal"].numerator.sum() == 166 - 104
    asked = discriminative(data / "amber", images=str(tmp_path)).items()
    assert len(asked) == 14_216


def test_all_that_is_missing_is_told_at_once_with_where_to_get_it(tmp_path):
    for task in (generative, discriminative):
        with pytest.raises(UsageError) as caught:
            task(tmp_path / "nothing").items()
        for part in (
            f"{tmp_path}/nothing/data lacks annotations.json, relation.json, safe_words.txt, query/",
            f"there is no folder of images {tmp_path}/nothing/image; ",
            "get data/ from github.com/junyangwang0410/AMBER, and the images from the link in its README",
            f"{tmp_path}/nothing/image/AMBER_1.jpg",
        ):
            assert part in str(caught.value)
    root = amber(tmp_path / "amber")
    (root / "data" / "query" / "query_generative.json").unlink()
    with pytest.raises(UsageError, match=r"data lacks query/query_generative\.json; get data/ from"):
        generative(root).items()


def test_ids_that_stand_twice_and_damaged_files_are_named(tmp_path):
    root = amber(tmp_path / "twice")
    file = root / "data" / "query" / "query_generative.json"
    file.write_text(json.dumps([*json.loads(file.read_text()), json.loads(file.read_text())[1]]))
    with pytest.raises(UsageError, match=r"query_generative\.json: 1 duplicate ids, the first of them 2"):
        generative(root).items()
    root = amber(tmp_path / "half")
    (root / "data" / "annotations.json").write_text("[{")
    with pytest.raises(UsageError, match=r"annotations\.json: no valid JSON"):
        discriminative(root).items()


def test_a_missing_image_ends_no_run(tmp_path):
    root = amber(tmp_path / "amber", 3)
    (root / "image" / "AMBER_2.jpg").unlink()
    items = generative(root).items()
    with pytest.raises(FileNotFoundError, match=r"AMBER_2\.jpg"):
        items[1].turns[0].images[0]()
    assert items[2].turns[0].images[0]().size == (64, 48)


def test_what_finds_the_nouns_is_checked_before_the_run(tmp_path):
    root = amber(tmp_path / "amber")
    with pytest.raises(UsageError, match=r"unknown nouns 'nlkt': did you mean 'nltk'"):
        generative(root, nouns="nlkt").items()
    with pytest.raises(UsageError, match="the similarity table needs the path"):
        generative(root, similarity="table").items()


def test_mistakes_in_the_settings(tmp_path):
    for task in (generative, discriminative):
        with pytest.raises(ValueError, match="n=0 is an empty data set"):
            task(tmp_path, n=0)
    with pytest.raises(ValueError, match="unknown parser 'strict'"):
        discriminative(tmp_path, parser="strict")
    with pytest.raises(ValueError, match=re.escape("expected a prompt with {query} in the question's place")):
        discriminative(tmp_path, prompt="Yes or no?")
