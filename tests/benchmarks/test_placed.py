import pytest

from benchmarks.tasks.coco_objects import Objects, Vocabulary
from benchmarks.tasks.miniature import Captions
from benchmarks.tasks.placed import placed


@pytest.fixture(scope="module")
def objects():
    return Objects(Vocabulary.read(None), "original")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A hot dog and two dogs.", [("hot dog", 2), ("dog", 18)]),
        ("Two men with a baby elephant. A bow tie is on the bench.",
         [("person", 4), ("elephant", 20), ("tie", 36), ("bench", 50)]),
        ("A red dog, a dining table and a dog", [("dog", 6), ("dining table", 13), ("dog", 32)]),
        ("A toilet seat and a chair", [("toilet", 2), ("chair", 20)]),
        ("nothing of note", []),
        ("", []),
    ],
)  # fmt: skip
def test_objects_of_coco_and_where_they_are_named(objects, text, found):
    assert [name for name, _ in found] == objects(text)
    assert placed(objects, text) == found


def test_the_miniatures_words():
    task = Captions(split="validation", n=3, seed=1, prompt="describe this image .", max_new_tokens=64)
    image = task.items()[0].image_id
    text = "there is a table . it is red . there is a chair ."
    assert task.named(text) == [("table", 11), ("chair", 42)]
    assert task.shown(image) == task.scenes()[image].objects
