"""``python -m benchmarks.prepare``: whole folders, and everything that can be missing or damaged in one."""

import json
import re
import shutil
import subprocess
import sys
from functools import partial

import pytest
from conftest import ROOT
from layouts import amber, benchmarks_data, broken, coco, coco_names, draw

from benchmarks import prepare, score
from benchmarks.tasks import pope_questions
from benchmarks.usage import UsageError


@pytest.fixture
def checked(command):
    """``python -m benchmarks.prepare WORDS`` in this process."""
    return partial(command, prepare)


def test_whole_folders_end_with_a_summary(checked, tmp_path):
    folder = benchmarks_data(tmp_path)
    draw(folder / "coco" / "val2014" / coco_names(4)[1], mode="L")
    code, out, _ = checked("task=chair", f"root={folder / 'coco'}")
    assert code == 0
    assert "captions: 4 items; their images hold 16 objects" in out
    assert "4 of 4 images can be read: 3 RGB, 1 L" in out
    assert out.endswith("coco is whole\n")
    code, out, _ = checked("task=amber", f"root={folder / 'amber'}")
    assert code == 0
    assert "generative: 4 items; officially 1,004" in out
    assert "discriminative: 24 items; officially 14,216" in out
    assert out.count("annotations.json: ") == 1
    code, out, _ = checked("task=pope", f"root={folder / 'pope'}")
    assert code == 0
    assert "adversarial: 24 items; the file has 24 questions; official ones have 3,000, or 2,910" in out
    md5 = pope_questions.read(folder / "pope" / "coco_pope_popular.json").md5
    assert re.search(rf"coco_pope_popular\.json: [0-9,]+ bytes, md5:{md5}", out)


def test_images_that_are_missing_or_damaged_are_counted_and_the_first_five_named(checked, tmp_path):
    coco(tmp_path / "coco", 16)
    names, folder = coco_names(16), tmp_path / "coco" / "val2014"
    bad = broken(tmp_path / "bad")
    for name, damage in zip(names, bad, strict=False):
        shutil.copy(tmp_path / "bad" / damage, folder / name)
    for name in names[-6:]:
        (folder / name).unlink()
    code, out, error = checked("task=chair", f"root={tmp_path / 'coco'}")
    assert code == 2
    assert f"{16 - len(bad) - 6} of 16 images can be read" in out
    lines = [line for line in out.splitlines() if line.startswith("not whole: ")]
    assert lines[0] == (
        f"not whole: missing images: 6, the first of them {', '.join(names[-6:-1])}; "
        "they are in val2014.zip of cocodataset.org/#download"
    )
    assert lines[1].startswith(f"not whole: damaged images: {len(bad)}, the first of them {names[0]} (")
    assert names[5] not in lines[1]
    assert len(lines) == 2
    assert error == f"error: {tmp_path / 'coco'} is not whole; what is missing or damaged stands above\n"


def test_only_the_images_of_a_run_are_looked_at_if_so_asked(checked, tmp_path):
    coco(tmp_path, 8)
    for name in coco_names(8)[2:]:
        (tmp_path / "val2014" / name).unlink()
    (tmp_path / "list.txt").write_text("139\n1139\n")
    code, out, _ = checked("task=chair", f"root={tmp_path}", f"list={tmp_path / 'list.txt'}")
    assert (code, "2 of 2 images can be read" in out) == (0, True)
    assert checked("task=chair", f"root={tmp_path}", "n=8", "seed=1")[0] == 2


def test_all_that_is_missing_is_listed_once(checked, tmp_path):
    code, out, _ = checked("task=amber", f"root={tmp_path / 'none'}")
    assert code == 2
    lines = out.splitlines()
    assert len(lines) == len(set(lines)) == 3
    assert "lacks annotations.json, relation.json, safe_words.txt, query/query_generative.json" in lines[0]
    assert "there is no folder of images" in lines[1]
    assert "github.com/junyangwang0410/AMBER" in lines[2]
    code, out, _ = checked("task=pope", f"root={tmp_path / 'none'}")
    assert code == 2
    for strategy in pope_questions.STRATEGIES:
        assert f"there is no question file {tmp_path}/none/coco_pope_{strategy}.json" in out
    assert out.count("github.com/AoiDragon/POPE") == 1


def test_what_is_one_sentence_stays_one(checked, tmp_path):
    coco(tmp_path, 4)
    code, out, _ = checked("task=chair", f"root={tmp_path}", "n=99")
    assert code == 2
    told = [line for line in out.splitlines() if line.startswith("not whole: ")]
    assert told == ["not whole: n=99 is more than the 4 images that there are; n=null takes all"]


def test_the_images_of_pope_are_beside_a_root_that_is_here(checked, tmp_path, monkeypatch):
    folder = benchmarks_data(tmp_path)
    monkeypatch.chdir(folder / "pope")
    code, out, _ = checked("task=pope", "root=.")
    assert (code, "4 of 4 images can be read" in out) == (0, True)


def test_damaged_annotations_and_doubled_ids_are_named(checked, tmp_path):
    folder = benchmarks_data(tmp_path)
    (folder / "coco" / "annotations" / "instances_train2014.json").write_text('{"annotations": [')
    code, out, _ = checked("task=chair", f"root={folder / 'coco'}")
    assert code == 2
    assert re.search(r"not whole: cannot read .*instances_train2014\.json as JSON", out)
    questions = folder / "pope" / "coco_pope_random.json"
    questions.write_text(questions.read_text() * 2)
    code, out, _ = checked("task=pope", f"root={folder / 'pope'}")
    assert code == 2
    assert "question_id 1 stands 2 times" in out
    assert "popular: 24 items" in out, "the other files are looked at all the same"
    relation = folder / "amber" / "data" / "relation.json"
    relation.write_text(json.dumps({"sky": []}))
    code, out, _ = checked("task=amber", f"root={folder / 'amber'}")
    assert (code, "words without an entry in relation.json" in out) == (2, True)


def test_questions_are_built_where_there_are_none(checked, tmp_path):
    coco(tmp_path / "coco", 6)
    words = ("task=pope", f"root={tmp_path / 'pope'}", "build=true", "n=5", "seed=7")
    code, out, _ = checked(*words)
    assert code == 0
    assert "5 of 5 images can be read" in out
    annotated = json.loads((tmp_path / "coco" / "annotations" / "instances_val2014.json").read_text())
    names = {category["id"]: category["name"] for category in annotated["categories"]}
    there = {(one["image_id"], names[one["category_id"]]) for one in annotated["annotations"]}
    for strategy in pope_questions.STRATEGIES:
        built = pope_questions.read(tmp_path / "pope" / f"coco_pope_{strategy}.json").questions
        assert len(built) == 30
        assert all(((int(q.image[-16:-4]), q.object) in there) == (q.label == "yes") for q in built)
    before = (tmp_path / "pope" / "coco_pope_random.json").read_bytes()
    code, _, error = checked(*words)
    assert code == 2
    assert "holds coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json already" in error
    assert (tmp_path / "pope" / "coco_pope_random.json").read_bytes() == before
    code, _, error = checked("task=pope", f"root={tmp_path / 'other'}", "build=true", "n=500")
    assert (code, "cannot build questions: expected at least images=500" in error) == (2, True)
    assert not (tmp_path / "other").exists()


MISTAKES = {
    "": "unknown task '': ",
    "task=chiar": "unknown task 'chiar': did you mean 'chair'?",
    "task=chair": "root must be given: root=DIR",
    "task=chair task=amber root=a": "task is given twice: task=chair and task=amber",
    "task=chair root=a root=": "root is given twice: root=a and root=",
    "task=chair root=a rot=b": "unknown key rot: did you mean 'root'?",
    "task=amber root=a build=true": "unknown key build: ",
    "task=amber root=a n=0": "n=0; expected a whole number, at least 1",
    "task=chair root=a seed=x": "seed=x; expected a whole number, at least 0",
    "task=pope root=a build=yes": "build=yes; expected true or false",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_words_that_mean_nothing(checked, words):
    code, _, error = checked(*words.split())
    assert code == 2
    assert error.startswith(f"error: {MISTAKES[words]}")


def test_a_scorer_s_key_is_given_once():
    with pytest.raises(UsageError, match="predictions is given twice: predictions=a and predictions=b"):
        score.from_words(["task=chair", "predictions=a", "predictions=b"])


def test_as_a_command_of_its_own(tmp_path):
    amber(tmp_path / "amber", 2)
    command = [sys.executable, "-m", "benchmarks.prepare", "task=amber", f"root={tmp_path / 'amber'}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("amber is whole\n")
