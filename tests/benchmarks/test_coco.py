import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.tasks import chair, coco, coco_objects
from benchmarks.tasks.coco import ground_truth, image_id
from benchmarks.tasks.coco_objects import Objects, Vocabulary, needs, singular
from benchmarks.usage import UsageError

TABLE = """\
person, man, woman, boy, baby, child, people, adult, passenger
bicycle, bike
motorcycle, scooter,  motor bike, motor cycle
airplane, jet
bus, minibus
train
boat, canoe
bird, magpie
dog, collie, doggy, doggie
cow, calf, ox
elephant
tie, bow, bow tie
skis, ski
sports ball, ball
tennis racket, racket
wine glass
knife, pocketknife
chair, seat
dining table, table
toilet
tv
mouse
scissors
teddy bear
"""

QUIRKS = [
    ("A man, a DOG and two women.", ["person", "dog", "person"]),
    ("a dog. a bike. a boat", ["dog", "bicycle", "boat"]),
    ("children and people with calves, mice and knives", ["person", "person", "cow", "mouse", "knife"]),
    ("The seat of the toilet.", ["toilet"]),
    ("a toilet seat", ["toilet"]),
    ("toilet seats and a chair", ["toilet", "chair"]),
    ("a seat at a table", ["chair", "dining table"]),
    ("a dining table", ["dining table"]),
    ("a bow tie and a bow", ["tie", "tie"]),
    ("a baby elephant, an adult dog, a baby", ["elephant", "dog", "person"]),
    ("passenger jets, a passenger train, a passenger", ["airplane", "train", "person"]),
    ("a wine glass, two wine glasses", ["wine glass", "wine glass"]),
    ("a glass and his glasses", []),
    ("a tennis racket, a racket", ["tennis racket", "tennis racket"]),
    ("a sports ball, sports balls", ["sports ball", "sports ball"]),
    ("a motor bike", []),
    ("motor cycles and a motorcycle", ["motorcycle", "motorcycle"]),
    ("home plate by the train tracks", []),
    ("a teddy bear", ["teddy bear"]),
    ("scissors", ["scissors"]),
    ("", []),
]
"""What both variants make of captions, by the table above."""

DIFFERENCES = [
    ("a bus and a minibus", [], ["bus", "bus"]),
    ("buses and minibuses", ["bus", "bus"], ["bus", "bus"]),
    ("ties", [], ["tie"]),
    ("canoes", [], ["boat"]),
    ("collies and doggies", [], ["dog", "dog"]),
    ("magpies", [], ["bird"]),
    ("two men", ["person"], []),
    ("people are seated", ["person"], ["person", "chair"]),
    ("a man is skiing", ["person"], ["person", "skis"]),
]
"""Caption, what ``original`` finds, what ``wordnet`` finds."""


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory) -> Vocabulary:
    table = tmp_path_factory.mktemp("table") / "synonyms.txt"
    table.write_text(TABLE)
    return Vocabulary.read(table)


@pytest.fixture(scope="session")
def original(vocabulary) -> Objects:
    return Objects(vocabulary, "original")


@pytest.fixture
def nltk_data(data: Path, monkeypatch) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [os.fspath(data / "nltk_data")])


@pytest.fixture
def wordnet(vocabulary, nltk_data) -> Objects:
    return Objects(vocabulary, "wordnet")


def captions(data: Path) -> dict[str, str]:
    lines = (data / "chair" / "llava15_greedy_500.jsonl").read_text().splitlines()
    return {image_id(line["image_id"]): line["caption"] for line in map(json.loads, lines)}


def figures(data: Path, objects: Objects):
    mentions = {key: objects(text) for key, text in captions(data).items()}
    truth = ground_truth(data / "chair" / "ground_truth_500.json", objects, mentions)
    return chair.score(mentions, truth).figures()


# Figures of the official scorers, as the data folder's README lists them.


@pytest.mark.parametrize(
    ("variant", "counts", "values"),
    [
        ("original", {"CHAIR_i": (478, 3739), "recall": (1216, 1524)}, ("45.000", "12.784", "79.790")),
        ("wordnet", {"CHAIR_i": (482, 3787), "recall": (1225, 1524)}, ("45.000", "12.728", "80.381")),
    ],
)
def test_the_official_figures_come_out_on_500_real_captions(data, nltk_data, variant, counts, values):
    official = Vocabulary.read(data / "chair" / "synonyms.txt")
    found = figures(data, Objects(official, variant))
    assert {name: (found[name].numerator.sum(), found[name].denominator.sum()) for name in counts} == counts
    assert tuple(f"{found[name].value:.3f}" for name in ("CHAIR_s", "CHAIR_i", "recall")) == values


def test_the_own_synonyms_give_figures_within_half_a_point(data):
    own, official = Vocabulary.read(), Vocabulary.read(data / "chair" / "synonyms.txt")
    ours, theirs = figures(data, Objects(own, "original")), figures(data, Objects(official, "original"))
    for name in ("CHAIR_s", "CHAIR_i", "recall"):
        assert ours[name].value == pytest.approx(theirs[name].value, abs=0.5)


def test_words_are_those_of_word_tokenize_on_500_real_captions(data, nltk_data, original):
    import nltk

    for text in captions(data).values():
        assert original._tokens(text.lower()) == nltk.word_tokenize(text.lower())


def test_tags_are_those_of_pos_tag_on_500_real_captions(data, nltk_data, original):
    import nltk

    tag = coco_objects._tagger()
    words = [original._tokens(text.lower()) for text in captions(data).values()]
    assert [tag(line) for line in words] == nltk.pos_tag_sents(words)
    assert tag([]) == []


# Captions made by hand.


@pytest.mark.parametrize(("text", "expected"), QUIRKS)
def test_both_variants_read_a_caption_as_the_official_code_does(original, text, expected):
    assert original(text) == expected


@pytest.mark.parametrize(("text", "expected"), QUIRKS)
def test_wordnet_reads_the_same_captions(wordnet, text, expected):
    assert wordnet(text) == expected


@pytest.mark.parametrize(("text", "by_original"), [line[:2] for line in DIFFERENCES])
def test_what_original_misses(original, text, by_original):
    assert original(text) == by_original


def test_what_wordnet_finds_there(wordnet):
    assert [wordnet(text) for text, _, _ in DIFFERENCES] == [by_wordnet for _, _, by_wordnet in DIFFERENCES]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *(("benches", "bench"), ("sandwiches", "sandwich"), ("toothbrushes", "toothbrush"), ("boxes", "box")),
        *(("glasses", "glass"), ("glass", "glas"), ("bus", "bu"), ("buses", "bus"), ("tennis", "tenni")),
        *(("puppies", "puppy"), ("ties", "ty"), ("trolleys", "trolley"), ("doggies", "doggies")),
        *(("buffaloes", "buffalo"), ("canoes", "cano"), ("shoes", "shoe"), ("vases", "vase")),
        *(("knives", "knife"), ("calves", "calf"), ("stoves", "stove"), ("gloves", "glove")),
        *(
            ("women", "woman"),
            ("people", "person"),
            ("children", "child"),
            ("geese", "goose"),
            ("oxen", "ox"),
        ),
        *(("sheep", "sheep"), ("skis", "ski"), ("scissors", "scissors"), ("dog'", "dog'"), ("", "")),
    ],
)
def test_singulars_of_the_original_variant(word, expected):
    assert singular(word) == expected


# Tables of synonyms.


def test_the_own_table_lists_the_objects_of_the_official_one_in_its_order(data):
    assert Vocabulary.read().objects == Vocabulary.read(data / "chair" / "synonyms.txt").objects


def test_the_own_table_holds_80_objects_and_no_word_that_cannot_match():
    own = Vocabulary.read()
    assert (len(own.objects), own.synonyms) == (80, "own")
    for word, expected in own.words.items():
        assert own.mentions(word.split(" ")) == [expected]


def test_a_table_by_path_is_named_with_its_md5(vocabulary):
    assert vocabulary.synonyms == "synonyms.txt md5 1f8c643286cc3336649a1567912d5ddb"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog, puppy\ncat,kitten\n", r"table\.txt, line 2: expected words divided by ', ', got 'cat,kitten'"),
        ("dog, puppy\n\ncat\n", r"table\.txt, line 2: expected words"),
        ("", r"table\.txt, line 1: expected words"),
        ("dog, puppy\nseal, puppy\n", r"table\.txt, line 2: 'puppy' already stands for 'dog'"),
        ("dog\ncat\ndog\n", r"table\.txt, line 3: 'dog' has a line already"),
    ],
)
def test_a_faulty_table_is_refused_by_file_and_line(tmp_path, text, message):
    table = tmp_path / "table.txt"
    table.write_text(text)
    with pytest.raises(UsageError, match=message):
        Vocabulary.read(table)


def test_a_table_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the synonym table .*none\.txt"):
        Vocabulary.read(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9, bar")
    with pytest.raises(UsageError, match=r"cannot read the synonym table .*latin\.txt"):
        Vocabulary.read(tmp_path / "latin.txt")


# nltk's data.


def test_missing_data_is_told_before_anything_is_loaded(tmp_path, monkeypatch, vocabulary):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [os.fspath(tmp_path)])
    both = r"python -m nltk\.downloader averaged_perceptron_tagger_eng wordnet \("
    with pytest.raises(UsageError, match=both):
        Objects(vocabulary, "wordnet")
    (tmp_path / "taggers" / "averaged_perceptron_tagger_eng").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"python -m nltk\.downloader wordnet \("):
        needs("wordnet")
    (tmp_path / "corpora").mkdir()
    with zipfile.ZipFile(tmp_path / "corpora" / "wordnet.zip", "w") as archive:  # as the downloader leaves it
        archive.writestr("wordnet/index.noun", "")
    needs("wordnet")


def test_original_needs_no_data(tmp_path, monkeypatch, vocabulary):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [os.fspath(tmp_path)])
    assert Objects(vocabulary, "original")("Two dogs. A boat.") == ["dog", "boat"]


def test_an_unknown_variant_is_refused():
    with pytest.raises(UsageError, match="unknown CHAIR variant 'wordnets': did you mean 'wordnet'"):
        needs("wordnets")


def test_nltk_is_not_imported_before_it_is_needed():
    code = "import sys, benchmarks.tasks.coco; sys.exit('nltk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# Ground truth.


def write_coco(folder: Path, year: int = 2014) -> None:
    """Images 1 and 2 in train, 3 and 226988 in val; 3 has no annotated object, 1 is crowded."""
    outline = [[10.5, 20, 30.25, 4e1], [1, -2, 3, 4]]
    runs = {"counts": [3, 5, 9], "size": [480, 640]}
    categories = [{"supercategory": "x", "id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
    licenses = [{"url": "http://x", "id": 1, "name": "Attribution License"}]
    instances = {
        "train": [(1, 1, runs), (1, 1, outline), (2, 18, outline)],
        "val": [(226988, 18, outline), (226988, 1, [outline[0]])],
    }
    captions = {
        "train": [(1, "Two men with a racket"), (1, 'a "dog": [2, 3] of them'), (2, "a dog.")],
        "val": [(3, "nothing to see"), (226988, "a boat"), (226988, "Boats.")],
    }
    folder.mkdir(exist_ok=True)
    for split in ("train", "val"):
        about = {"info": {"year": year}, "licenses": licenses, "images": [{"id": 1, "file_name": "a.jpg"}]}
        for name, lines in (
            (
                "instances",
                [
                    {
                        "segmentation": shape,
                        "area": 2.5,
                        "image_id": key,
                        "bbox": [1, 2.5],
                        "category_id": kind,
                    }
                    for key, kind, shape in instances[split]
                ],
            ),
            ("captions", [{"image_id": key, "id": 7, "caption": text} for key, text in captions[split]]),
        ):
            known = {"categories": categories} if name == "instances" else {}
            text = json.dumps({**about, "annotations": lines, **known})
            (folder / f"{name}_{split}{year}.json").write_text(text)


TRUTH = {
    "1": {"person", "tennis racket", "dog"},
    "2": {"dog"},
    "3": set(),
    "226988": {"dog", "person", "boat"},
}


@pytest.mark.parametrize("year", [2014, 2017])
@pytest.mark.parametrize("chunk", [1, 50, 2**24])
def test_instances_and_captions_of_both_splits_are_united(tmp_path, monkeypatch, original, year, chunk):
    monkeypatch.setattr(coco, "CHUNK", chunk)
    write_coco(tmp_path, year)
    assert ground_truth(tmp_path, original) == TRUTH


def test_only_the_wanted_images_are_read_in_their_order(tmp_path, original):
    write_coco(tmp_path)
    asked: list[str] = []

    class Asked(Objects):
        def __call__(self, text):
            asked.append(text)
            return super().__call__(text)

    objects = Asked(original.vocabulary, "original")
    found = ground_truth(tmp_path, objects, ["COCO_val2014_000000226988.jpg", 2])
    assert list(found.items()) == [("226988", TRUTH["226988"]), ("2", TRUTH["2"])]
    assert sorted(asked) == ["Boats.", "a boat", "a dog."]


def test_missing_annotations_are_named_with_where_to_get_them(tmp_path, original):
    none = r"has none of the annotations and lacks instances_train2014\.json, .*annotations_trainval2014\.zip"
    with pytest.raises(UsageError, match=none):
        ground_truth(tmp_path, original)
    write_coco(tmp_path, 2017)
    (tmp_path / "captions_val2017.json").unlink()
    one = (
        r"has instances_train2017\.json, instances_val2017\.json, captions_train2017\.json and lacks "
        r"captions_val2017\.json: they are in annotations_trainval2017\.zip of cocodataset\.org"
    )
    with pytest.raises(UsageError, match=one):
        ground_truth(tmp_path, original)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.99])
@pytest.mark.parametrize("name", ["instances_train2014.json", "captions_val2014.json"])
def test_a_damaged_file_is_refused_by_name(tmp_path, original, name, keep):
    write_coco(tmp_path)
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text[: int(keep * len(text))])
    with pytest.raises(UsageError, match=f"cannot read .*{name} as JSON: "):
        ground_truth(tmp_path, original)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is not in the form of COCO's annotations"),
        ({"annotations": [{"image_id": 1}]}, "is not in the form of COCO's annotations: KeyError"),
        ({"annotations": 5}, "is not in the form of COCO's annotations: TypeError"),
        (
            {
                "annotations": [{"image_id": 1, "category_id": 4}],
                "categories": [{"id": 4, "name": "yeti"}],
            },
            "lacks the category 'yeti' of .*instances_val2014",
        ),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, original, content, message):
    write_coco(tmp_path)
    (tmp_path / "instances_val2014.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        ground_truth(tmp_path, original)


def test_a_prepared_file_is_taken_as_it_is(tmp_path, original):
    file = tmp_path / "truth.json"
    file.write_text(json.dumps({"000000000007": ["dog", "dog"], "8": []}))
    assert ground_truth(file, original) == {"7": {"dog"}, "8": set()}
    assert ground_truth(file, original, [8]) == {"8": set()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"7": ["dog"', "cannot read .* as JSON"),
        ('[{"7": ["dog"]}]', "expected a JSON object, image id -> list of objects"),
        ('{"7": "dog"}', "expected a JSON object, image id -> list of objects"),
        ('{"7": ["dog", "man"]}', r"image 7 has \['man'\], which the synonym table does not list"),
        ('{"7": [1]}', r"image 7 has \[1\]"),
        ('{"7": ["dog"], "007": ["bus"]}', "lists 1 images twice"),
        ('{"seven": ["dog"]}', "expected a COCO image such as 226988 .*, got 'seven'"),
        ('{"7": ["dog"]}', r"knows nothing of 2 images, the first of them \['8', '9'\]"),
    ],
)
def test_a_faulty_prepared_file_is_refused(tmp_path, original, content, message):
    file = tmp_path / "truth.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=message):
        ground_truth(file, original, [8, 7, 9])


def test_a_path_that_is_not_there_is_refused(tmp_path, original):
    with pytest.raises(UsageError, match=r"cannot read .*nowhere as JSON: .*No such file"):
        ground_truth(tmp_path / "nowhere", original)


@given(number=st.integers(0, 10**12 - 1))
def test_every_form_of_an_image_id_means_the_same(number):
    forms = [number, str(number), f"{number:012}", f"{number:012}.jpg"]
    forms += [f"COCO_{split}2014_{number:012}.jpg" for split in ("train", "val")]
    forms += [f"val2014/COCO_val2014_{number:012}.jpg"]
    assert {image_id(form) for form in forms} == {str(number)}


@pytest.mark.parametrize(
    "value", ["", "dog", "12a", "-5", -5, 3.0, True, None, "COCO_val2014_.jpg", "12.txt"]
)
def test_what_is_no_image_id_is_refused(value):
    with pytest.raises(UsageError, match="expected a COCO image such as 226988"):
        image_id(value)


# Laws.


@given(lines=st.permutations([(key, text) for key, (text, _) in enumerate(QUIRKS)]))
def test_the_order_of_captions_changes_nothing(original, lines):
    truth = {str(key): {"dog", "person"} for key, _ in lines}
    whole = chair.score({str(key): original(text) for key, text in lines}, truth)
    assert {key: list(caption.mentions) for key, caption in whole.captions.items()} == {
        str(key): expected for key, (_, expected) in enumerate(QUIRKS)
    }
    straight = chair.score({str(key): expected for key, (_, expected) in enumerate(QUIRKS)}, truth)
    values = {name: figure.value for name, figure in whole.figures().items()}
    assert values == {name: figure.value for name, figure in straight.figures().items()}
