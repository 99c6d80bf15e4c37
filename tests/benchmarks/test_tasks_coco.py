"""COCO's captions and POPE's questions as tasks, in their authors' layout, over real answers too."""

import json
import os
import re

import pytest
from layouts import broken, coco, coco_names, coco_objects, draw, odd, pope

from benchmarks import score
from benchmarks.statistics import intervals
from benchmarks.tasks import figures
from benchmarks.tasks.captions import Captions
from benchmarks.tasks.pope_task import Pope
from benchmarks.usage import UsageError

ASKED = {"prompt": "Please describe this image in detail.", "max_new_tokens": 64}


def captions(root, **given):
    defaults = {
        **{"images": None, "ground_truth": None, "list": None, "n": None, "after": 0, "seed": 0},
        **{"variant": "original", "synonyms": None},
    }
    return Captions(root=str(root), **{**defaults, **ASKED, **given})


def questions(folder, **given):
    defaults = {
        "questions": str(folder / "pope" / "coco_pope_random.json"),
        "images": str(folder / "coco" / "val2014"),
        **{"prompt": None, "n": None, "parser": "official", "max_new_tokens": 4},
    }
    return Pope(**{**defaults, **given})


def answered(task, texts):
    """Lines as the loop writes them."""
    numbers = {"tokens": 4, "fired": 0, "truncated": 0}
    items = task.items()
    return [{**item.record, task.answer: texts(item), **numbers} for item in items]


def by_command(tmp_path, lines, task, **settings):
    """Figures of ``python -m benchmarks.score`` on a run's file."""
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    words = [f"task={task}", f"predictions={file}", *(f"{key}={value}" for key, value in settings.items())]
    return score.from_words(words)[2](file).values()


def test_two_draws_of_one_seed_share_no_image(tmp_path):
    coco(tmp_path, 30)
    first, second = (
        {item.image_id for item in captions(tmp_path, **how).items()}
        for how in (
            {"n": 12, "seed": 5},
            {"n": 18, "after": 12, "seed": 5},
        )
    )
    assert len(first | second) == 30
    assert captions(tmp_path, n=3, after=12, seed=5).items() != captions(tmp_path, n=3, seed=5).items()
    with pytest.raises(UsageError, match="n=19 after 12 others is more than the 30 images"):
        captions(tmp_path, n=19, after=12).items()
    with pytest.raises(ValueError, match="after=-1 needs an n"):
        captions(tmp_path, n=3, after=-1)
    with pytest.raises(ValueError, match="after=2 needs an n"):
        captions(tmp_path, after=2)


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_all_images_of_a_year_in_the_order_of_their_ids(tmp_path, year):
    coco(tmp_path, 5, year)
    task = captions(tmp_path)
    items = task.items()
    assert [item.image_id for item in items] == coco_names(5, year)
    assert [item.turns[0].images[0]().size for item in items] == [(64, 48)] * 5
    assert {item.turns[0].text for item in items} == {ASKED["prompt"]}
    assert [path.name for path in task.files()] == [
        f"{what}_{split}{year}.json" for what in ("instances", "captions") for split in ("train", "val")
    ]
    for place, found in enumerate(task.truth().values()):
        assert found == {*coco_objects(place), "bench"}, "what is annotated, and what captions name"


def test_of_two_years_the_one_of_the_images_counts(tmp_path):
    coco(tmp_path, 3, "2017")
    coco(tmp_path / "other", 3)
    for file in (tmp_path / "other" / "annotations").iterdir():
        file.rename(tmp_path / "annotations" / file.name)
    assert [item.image_id for item in captions(tmp_path).items()] == coco_names(3, "2017")
    elsewhere = captions(tmp_path, images=str(tmp_path / "other" / "val2014"))
    assert [item.image_id for item in elsewhere.items()] == coco_names(3)


def test_the_draw_depends_on_seed_and_annotations_alone(tmp_path):
    coco(tmp_path, 12)
    drawn = [item.image_id for item in captions(tmp_path, n=5, seed=3).items()]
    assert len(set(drawn)) == 5
    assert [item.image_id for item in captions(tmp_path, n=5, seed=4).items()] != drawn
    for name in set(coco_names(12)) - {drawn[0]}:
        (tmp_path / "val2014" / name).unlink()
    assert [item.image_id for item in captions(tmp_path, n=5, seed=3).items()] == drawn


def test_a_list_names_images_in_any_form_and_is_taken_whole(tmp_path):
    coco(tmp_path, 4)
    file = tmp_path / "list.txt"
    file.write_text("\ufeff2139\r\n\r\nCOCO_val2014_000000000139.jpg\n000000001139.jpg\n")
    task = captions(tmp_path, list=str(file), n=1)
    assert [item.image_id for item in task.items()] == [coco_names(4)[place] for place in (2, 0, 1)]
    assert task.files() == captions(tmp_path).files(), "what it chooses are the items, and they are told"


LISTS = {
    "": r"is an empty data set; expected an image a line",
    "139\nsky\n139\n7\n": r"3 wrong: line 2 is no COCO image: 'sky'; line 3: 139 stands there twice; "
    r"line 4: 7 is none of the 4 images with a truth",
}


@pytest.mark.parametrize("text", LISTS)
def test_a_list_that_is_wrong(tmp_path, text):
    coco(tmp_path)
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UsageError, match=LISTS[text]):
        captions(tmp_path, list=str(tmp_path / "list.txt")).items()


def test_a_list_that_is_not_there_or_no_text(tmp_path):
    coco(tmp_path)
    with pytest.raises(UsageError, match=r"cannot read the list of images .*none\.txt.*No such file"):
        captions(tmp_path, list=str(tmp_path / "none.txt")).items()
    draw(tmp_path / "list.png")
    with pytest.raises(UsageError, match=r"cannot read the list of images .*list\.png"):
        captions(tmp_path, list=str(tmp_path / "list.png")).items()


def test_all_that_is_missing_is_told_at_once_with_where_to_get_it(tmp_path):
    with pytest.raises(UsageError) as caught:
        captions(tmp_path / "coco").items()
    for part in (
        "lacks instances_train2014.json, instances_val2014.json, captions_train2014.json",
        "there is no folder of images",
        "val2014.zip and annotations_trainval2014.zip from cocodataset.org/#download",
        f"{tmp_path}/coco/val2014/COCO_val2014_000000000042.jpg",
        f"{tmp_path}/coco/annotations/instances_val2014.json",
    ):
        assert part in str(caught.value)
    coco(tmp_path / "there")
    (tmp_path / "there" / "annotations" / "captions_val2014.json").unlink()
    with pytest.raises(UsageError, match=r"and lacks captions_val2014\.json.*; get val2014\.zip"):
        captions(tmp_path / "there").items()


def test_annotations_of_another_form_are_named(tmp_path):
    file = coco(tmp_path) / "annotations" / "captions_val2014.json"
    for content in ('{"annotations": []}', "[]", '{"images": [{"id": "x", "file_name": "x"}]}', "{"):
        file.write_text(content)
        with pytest.raises(UsageError, match=r"captions_val2014\.json is not in the form of COCO's captions"):
            captions(tmp_path, seed=len(content)).items()


def test_mistakes_in_the_settings(tmp_path):
    with pytest.raises(ValueError, match="unknown CHAIR variant 'orignal': did you mean 'original'"):
        captions(tmp_path, variant="orignal")
    with pytest.raises(ValueError, match="n=0 is an empty data set"):
        captions(tmp_path, n=0)
    coco(tmp_path)
    with pytest.raises(UsageError, match="n=5 is more than the 4 images that there are; n=null takes all"):
        captions(tmp_path, n=5).items()
    with pytest.raises(UsageError, match="cannot read the synonym table"):
        captions(tmp_path, synonyms=str(tmp_path / "none.txt")).items()


def test_images_that_cannot_be_read_are_found_out_when_their_turn_comes(tmp_path):
    coco(tmp_path, 9)
    names, folder = coco_names(9), tmp_path / "val2014"
    for name, bad in zip(names, broken(tmp_path / "bad"), strict=False):
        (folder / name).write_bytes((tmp_path / "bad" / bad).read_bytes())
    (folder / names[-1]).unlink()
    odd(tmp_path / "odd")
    (folder / names[-2]).write_bytes((tmp_path / "odd" / "deep.png").read_bytes())
    unread = []
    for item in captions(tmp_path).items():
        try:
            item.turns[0].images[0]()
        except (OSError, ValueError):
            unread.append(item.image_id)
    assert unread == [*names[:7], names[-1]]


def test_the_figures_are_those_of_the_score_command(tmp_path):
    coco(tmp_path / "coco", 6)
    told = [
        "A person and a dog.",
        "A cat\u2028and a bench.",
        "",
        "A zebra, a car and a pizza.",
        "Pizza.",
        "A bus.",
    ]
    task = captions(tmp_path / "coco", n=6, seed=1)
    texts = iter(told)
    lines = answered(task, lambda item: next(texts))
    found = task.score(lines)
    expected = by_command(tmp_path, lines, "chair", ground_truth=tmp_path / "coco" / "annotations")
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(
        {name: expected[name] for name in found}, rel=1e-12, nan_ok=True
    )
    assert 0 < found["CHAIR_i"].value < 100
    part = task.score(lines[2:5])
    assert len(part["recall"].numerator) == 3, "answers that are not there are not asked for"
    intervals(figures(task, lines[2:5]), figures(task, lines[2:5]), resamples=10)


def test_the_official_counts_of_real_captions(data, tmp_path):
    truth = data / "chair" / "ground_truth_500.json"
    folder = tmp_path / "val2014"
    folder.mkdir()
    draw(folder / "COCO_val2014_000000226988.jpg")
    task = captions(
        tmp_path, ground_truth=str(truth), synonyms=str(data / "chair" / "synonyms.txt"), n=500, seed=5
    )
    text = (data / "chair" / "llava15_greedy_500.jsonl").read_text().splitlines()
    known = {f"COCO_val2014_{line['image_id']:012d}.jpg": line["caption"] for line in map(json.loads, text)}
    found = task.score(answered(task, lambda item: known[item.image_id]))
    assert (found["CHAIR_i"].numerator.sum(), found["CHAIR_i"].denominator.sum()) == (478, 3739)
    assert (found["recall"].numerator.sum(), found["recall"].denominator.sum()) == (1216, 1524)
    assert found["CHAIR_s"].value == 45


def test_pope_asks_its_questions_as_they_are_or_within_a_text(tmp_path):
    coco(tmp_path / "coco", 4)
    pope(tmp_path / "pope", 4)
    task = questions(tmp_path)
    items = task.items()
    assert len(items) == 24
    assert dict(items[0].record) == {
        "question_id": "1",
        "image_id": items[0].image_id,
        "question": items[0].turns[0].text,
    }
    assert items[0].turns[0].images[0]().size == (64, 48)
    worded = questions(tmp_path, prompt="{question} {Yes} or no?").items()
    assert worded[5].turns[0].text == f"{items[5].turns[0].text} {{Yes}} or no?"
    some = questions(tmp_path, n=2).items()
    assert [item.record for item in some] == [item.record for item in items[:12]]


def test_pope_files_of_a_clone_are_found(tmp_path):
    coco(tmp_path / "coco", 4)
    pope(tmp_path / "pope" / "output" / "coco", 4)
    task = questions(tmp_path)
    assert len(task.items()) == 24
    assert task.files() == [tmp_path / "pope" / "output" / "coco" / "coco_pope_random.json"]


def test_pope_figures_are_those_of_the_score_command(tmp_path):
    coco(tmp_path / "coco", 5)
    pope(tmp_path / "pope", 5)
    task = questions(tmp_path)
    said = ("Yes", "No, there is none", "maybe")
    lines = answered(task, lambda item: said[int(item.record["question_id"]) ** 2 % 7 % 3])
    found = task.score(lines)
    expected = by_command(tmp_path, lines, "pope", questions=tmp_path / "pope" / "coco_pope_random.json")
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(
        {name: expected[name] for name in found}, rel=1e-12, nan_ok=True
    )
    part = task.score(lines[7:20])
    assert {len(column.numerator) for column in part.values()} == {len({x["image_id"] for x in lines[7:20]})}
    assert part["accuracy"].denominator.sum() == 13


def test_the_official_counts_of_real_answers(data, tmp_path):
    file = data / "pope" / "coco_pope_random.json"
    first = json.loads(file.read_text().splitlines()[0])["image"]
    draw(tmp_path / first)
    task = questions(tmp_path, questions=str(file), images=str(tmp_path))
    text = (data / "pope" / "llava15_random_answers.jsonl").read_text().splitlines()
    known = {str(line["question_id"]): line["text"] for line in map(json.loads, text)}
    found = task.score(answered(task, lambda item: known[item.record["question_id"]]))
    hit, said, right = (found[n].numerator.sum() for n in ("recall", "yes", "accuracy"))
    assert (hit, said - hit, right - hit) == (1073, 96, 1404)
    assert found["recall"].denominator.sum() - hit == 427


def test_what_pope_misses(tmp_path):
    with pytest.raises(UsageError) as caught:
        questions(tmp_path).items()
    for part in (
        "there is no question file",
        "there is no folder of images",
        "output/coco/ of github.com/AoiDragon/POPE",
        "val2014.zip, from cocodataset.org/#download",
    ):
        assert part in str(caught.value)
    pope(tmp_path / "pope", 4)
    os.makedirs(tmp_path / "coco" / "val2014")
    with pytest.raises(UsageError, match=re.escape("has none of 4 images, such as COCO_val2014_")):
        questions(tmp_path).items()


def test_pope_ids_that_stand_twice(tmp_path):
    coco(tmp_path / "coco")
    file = pope(tmp_path / "pope") / "coco_pope_random.json"
    file.write_text(file.read_text() + file.read_text().splitlines()[4])
    with pytest.raises(UsageError, match="question_id 5 stands 2 times"):
        questions(tmp_path, n=3).items()


def test_mistakes_in_pope_s_settings(tmp_path):
    with pytest.raises(ValueError, match="unknown parser 'offical': did you mean 'official'"):
        questions(tmp_path, parser="offical")
    with pytest.raises(ValueError, match=re.escape("expected a prompt with {question}")):
        questions(tmp_path, prompt="Is there?")
    with pytest.raises(ValueError, match="n=-1 is an empty data set"):
        questions(tmp_path, n=-1)
