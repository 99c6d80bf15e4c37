import json
from collections import Counter

import pytest

from benchmarks.tasks import pope, pope_questions
from benchmarks.tasks.pope_questions import SCRIPT_TEMPLATES, STRATEGIES, Question, build
from benchmarks.usage import UsageError

KITCHENS = {
    "a": ["cup", "oven", "table"],
    "b": ["cup", "table", "sink", "dog"],
    "c": ["oven", "sink", "apple", "table"],
    "d": ["cat", "bowl"],
    "e": ["bird", "car", "tie"],
    "f": ["car", "tie", "bus", "bird"],
}
"""e and f stand apart: with one, two objects beside a present one, adversarial runs out of companions."""


def absent(questions, image):
    """What is asked of an image and not there, in order."""
    return [question.object for question in questions if question.image == image and question.label == "no"]


def test_hand_made_annotations_give_the_questions_worked_out_by_hand():
    built = build(KITCHENS, seed=0, images=5)
    assert {question.image for question in built["popular"]} == set("abcef"), "d has two objects"
    assert list(built) == list(STRATEGIES)
    for questions in built.values():
        assert [question.question_id for question in questions] == list(range(1, 31))
        for image, names in KITCHENS.items():
            asked = [question for question in questions if question.image == image]
            assert [q.label for q in asked] == ["yes", "no"] * (3 if len(names) > 2 else 0)
            assert [q.object for q in asked[::2]] == names[:3] * (len(names) > 2)
            assert not set(absent(questions, image)) & set(names)
            assert len(set(absent(questions, image))) == len(asked[1::2]), "no object twice in an image"
    # table stands in three images; cup, oven, sink, bird, car, tie in two; apple, dog, bus in one
    assert absent(built["popular"], "e")[0] == "table"
    assert set(absent(built["popular"], "a")) <= {"sink", "bird", "car", "tie"}
    # cup stands beside table (twice), oven, sink, dog (once): a lacks sink and dog, and sink is seen first
    assert absent(built["adversarial"], "a")[0] == "sink"
    # bird stands beside car and tie (twice) and bus (once): e lacks only bus; f lacks none, and draws
    assert absent(built["adversarial"], "e")[0] == "bus"


def test_the_article_follows_the_first_letter():
    texts = {question.text for question in build(KITCHENS, seed=0, images=5)["random"]}
    assert {"Is there an oven in the image?", "Is there a cup in the image?"} <= texts


def test_a_seed_repeats_itself_and_another_one_differs():
    assert build(KITCHENS, seed=3, images=4) == build(KITCHENS, seed=3, images=4)
    assert build(KITCHENS, seed=3, images=4) != build(KITCHENS, seed=4, images=4)


def test_real_annotations_give_what_the_official_script_writes_after_the_same_seed(data, tmp_path):
    objects = json.loads((data / "chair" / "ground_truth_500.json").read_text())
    built = build(objects, seed=0, images=100, templates=SCRIPT_TEMPLATES)
    # of the output of github.com/AoiDragon/POPE (utils.py at 7cf0a02) after random.seed(0)
    assert {s: pope_questions.write(tmp_path / s, built[s]).md5 for s in STRATEGIES} == OFFICIAL_MD5
    assert pope_questions.read(tmp_path / "random").typos == 44


OFFICIAL_MD5 = {
    "random": "ebe0106e8d7cce122168eff3a4a253ad",
    "popular": "8b65aeded9d588e04a470ddaba3db91a",
    "adversarial": "e53e6707df2614ee1fbe0b13fb9f42a5",
}


@pytest.mark.parametrize(
    ("objects", "images", "message"),
    [
        (KITCHENS, 6, r"at least images=6 >= 1 images with 3 objects, got 5"),
        (KITCHENS, 0, r"at least images=0"),
        ({"a": ["cup", "cup", "dog"]}, 1, r"1 images list an object twice, the first of them \['a'\]"),
        ({"a": ["cup", "oven", "dog"]}, 1, r"1 images leave fewer than 3 of the 3 objects absent.*\['a'\]"),
    ],
)
def test_annotations_that_cannot_give_questions_are_refused(objects, images, message):
    with pytest.raises(ValueError, match=message):
        build(objects, seed=0, images=images)


def test_an_official_file_is_read_with_its_md5_and_count(data):
    read = pope_questions.read(data / "pope" / "coco_pope_random.json")
    assert (read.count, read.typos, read.md5) == (3000, 0, "dc9b6c41ad832c48da758cfa85b37d2c")
    assert read.questions[0].object == "snowboard"
    assert Counter(question.label for question in read.questions) == {"yes": 1500, "no": 1500}


def test_the_official_typo_is_read_counted_and_asked_as_it_stands(tmp_path):
    line = {"question_id": 0, "image": "a.jpg", "image_id": 7, "text": SCRIPT_TEMPLATES[1].format("oven")}
    path = tmp_path / "coco_pope_popular.json"
    path.write_text(json.dumps({**line, "label": "no"}) + "\n\n")
    read = pope_questions.read(path)
    assert read.questions == (Question(0, "a.jpg", "Is there an oven in the imange?", "no"),)
    assert (read.questions[0].object, read.typos, read.count) == ("oven", 1, 1)
    with pytest.raises(ValueError, match="question 1: expected 'Is there a X"):
        Question(1, "a.jpg", "What is there?", "no").object  # noqa: B018


def test_what_was_written_is_read_back(tmp_path):
    written = pope_questions.write(tmp_path / "q.json", build(KITCHENS, seed=1, images=4)["popular"])
    assert pope_questions.read(tmp_path / "q.json") == written
    assert json.loads((tmp_path / "q.json").read_text().splitlines()[0])["question_id"] == 1


GOOD = {"question_id": 1, "image": "a", "text": "Is there a dog in the image?", "label": "yes"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "an empty data set"),
        ("[1]\nno", "2 wrong: line 1 is no JSON object; line 2 is no JSON"),
        (json.dumps({**GOOD, "label": "Yes"}), "line 1: the label is neither yes nor no but 'Yes'"),
        (json.dumps({"question_id": 1}), "line 1 has no image"),
        (json.dumps({**GOOD, "text": 3}), "image and text must be text"),
        (f"{json.dumps(GOOD)}\n" * 3, "question_id 1 stands 3 times"),
    ],
)
def test_a_wrong_question_file_is_refused_with_its_name_and_place(tmp_path, content, message):
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(UsageError, match=rf"q\.json: .*{message}"):
        pope_questions.read(tmp_path / "q.json")


def test_objects_are_read_in_the_official_layout(tmp_path):
    path = tmp_path / "objects.json"
    path.write_text("".join(json.dumps({"image": k, "objects": v}) + "\n" for k, v in KITCHENS.items()))
    assert pope_questions.read_objects(path) == KITCHENS
    path.write_text('{"image": "a", "objects": ["cup"]}\n{"image": "a", "objects": []}\n{"objects": [3]}\n')
    with pytest.raises(UsageError, match="2 wrong: line 2: a stands there twice; line 3 has no image"):
        pope_questions.read_objects(path)
    with pytest.raises(UsageError, match=r"nowhere\.json"):
        pope_questions.read_objects(tmp_path / "nowhere.json")


def test_answers_are_paired_by_id_and_wrong_ids_are_refused_before_anything_is_scored():
    questions = tuple(Question(n, f"{n}.jpg", GOOD["text"], "yes" if n % 2 else "no") for n in range(8))
    asked = pope_questions.Questions(questions, md5="")
    pairs = asked.pair([(n, "Yes" if n % 2 else "No") for n in reversed(range(8))])
    assert pairs[:2] == [("0.jpg", "no", "No"), ("1.jpg", "yes", "Yes")]
    assert pope.score(pairs).official()["accuracy"] == 1
    with pytest.raises(ValueError, match="one answer to each of 8 ids") as error:
        asked.pair([(0, "Yes"), (0, "No"), ("x", "No"), (1, None)])
    assert "1 duplicate ids, the first of them ['0']" in str(error.value)
    assert "1 unknown ids, the first of them ['x']" in str(error.value)
    assert "6 ids without an answer, the first of them ['2', '3', '4', '5', '6']" in str(error.value)
    assert "1 ids whose answer is no text, the first of them ['1']" in str(error.value)
