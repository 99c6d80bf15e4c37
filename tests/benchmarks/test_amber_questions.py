import json
from fractions import Fraction

import pytest

from benchmarks.tasks import amber_files, amber_questions
from benchmarks.tasks.amber_questions import Question, amber_score, score
from benchmarks.usage import UsageError

NAMES = ("all", "existence", "attribute", "state", "number", "action", "relation")


@pytest.fixture(scope="module")
def annotations(data):
    return [
        entry
        for entry in json.loads((data / "amber" / "annotations.json").read_text())
        if entry["type"] != "generative"
    ]


@pytest.fixture(scope="module")
def files(data):
    return amber_files.read(data / "amber")


def belongs(kind, dimension):
    """Whether an annotation's type is of a dimension, by its spelling."""
    if dimension == "existence":
        return "hallucination" in kind
    if dimension in ("state", "number", "action"):
        return kind.endswith(dimension)
    return dimension == "all" or dimension in kind


COUNTS = ("asked", "right", "no", "said", "hit", "unparsed")
FIGURES = ("accuracy", "precision", "recall", "F1")


def of(table, dimension, names):
    """The entries of one dimension."""
    return tuple(table[dimension][name] for name in names)


def by_hand(annotations, responses, dimension):
    """Counts and official figures again, over the raw annotations, with sets of ids and exact fractions."""
    truth = {e["id"]: e["truth"] for e in annotations if belongs(e["type"], dimension)}
    no = {key for key, right in truth.items() if right == "no"}
    said = {key for key in truth if responses[key] == "No"}
    yes = {key for key in truth if responses[key] == "Yes"}
    right = (no & said) | (yes - no)
    start = Fraction(3 if dimension == "attribute" else 1, 1000)

    def percent(part, whole):
        return round(100 * Fraction(len(part)) / (len(whole) + start), 1)

    p, r = percent(no & said, said), percent(no & said, no)
    f1 = round(2 * p * r / (p + r + Fraction(1, 10 if dimension == "existence" else 100)), 1)
    counts = (len(truth), len(right), len(no), len(said), len(no & said), len(truth.keys() - said - yes))
    figures = (percent(right, truth), p, r, f1)
    return counts, tuple(map(float, figures))


RIGHT = {"yes": "Yes", "no": "No"}
WRONG = {"yes": "No", "no": "Yes"}
ANSWERS = {
    "all Yes": lambda n, truth: "Yes",
    "all No": lambda n, truth: "No",
    "right": lambda n, truth: RIGHT[truth],
    "wrong every 7th": lambda n, truth: (WRONG if n % 7 == 0 else RIGHT)[truth],
    "lower case every 3rd": lambda n, truth: RIGHT[truth].lower() if n % 3 == 0 else RIGHT[truth],
    "verbose every 5th": lambda n, truth: f"{RIGHT[truth]}, there it is." if n % 5 == 0 else WRONG[truth],
    "No every 2nd": lambda n, truth: "No" if n % 2 else "Yes",
    "a rare No": lambda n, truth: "No" if n % 41 == 0 else "",
}


@pytest.mark.parametrize("answers", ANSWERS)
def test_every_dimension_of_the_real_annotations_is_as_computed_by_hand(answers, annotations, files):
    responses = {e["id"]: ANSWERS[answers](e["id"], e["truth"]) for e in annotations}
    found = score(responses.items(), files.questions)
    assert found.dimensions() == list(NAMES)
    for name in NAMES:
        counts, figures = by_hand(annotations, responses, name)
        assert of(found.counts(), name, COUNTS) == counts, name
        assert of(found.official(), name, FIGURES) == figures, name


def test_nothing_but_no_gives_the_figures_worked_out_on_paper(files):
    found = score(((key, "No") for key in files.questions), files.questions)
    assert {name: of(found.counts(), name, ("asked", "no")) for name in NAMES} == {
        "all": (14216, 9427),
        "existence": (4924, 4924),
        "attribute": (7628, 3814),
        "state": (4764, 2382),
        "number": (2072, 1036),
        "action": (792, 396),
        "relation": (1664, 689),
    }
    assert {name: of(found.official(), name, FIGURES) for name in NAMES} == {
        "all": (66.3, 66.3, 100.0, 79.7),
        "existence": (100.0, 100.0, 100.0, 100.0),
        **dict.fromkeys(("attribute", "state", "number", "action"), (50.0, 50.0, 100.0, 66.7)),
        "relation": (41.4, 41.4, 100.0, 58.6),
    }


def asked(**groups):
    """Questions of hand-made types, numbered from 0: kind -> right answers, one image each."""
    pairs = [(kind, truth) for kind, truths in groups.items() for truth in truths]
    kinds = {short: kind for kind, short in amber_questions.TYPES.items()}
    return {
        str(n): Question(f"{n // 2}.jpg", "", truth, kinds[kind]) for n, (kind, truth) in enumerate(pairs)
    }


def test_the_f1_of_existence_starts_ten_times_as_high():
    half = list(enumerate(["No", "Yes"] * 500))
    found = {
        kind: score(half, asked(**{kind: ["no"] * 1000})).official()[kind]["F1"]
        for kind in ("existence", "state")
    }
    assert found == {"existence": 66.6, "state": 66.7}, "1 / 1.501 and 1 / 1.5001"


def test_the_three_counters_of_attributes_bring_three_starts():
    found = score([(0, "No")], asked(state=["no"])).official()
    assert found["state"]["accuracy"] == 99.9, "1 / 1.001"
    assert found["attribute"]["accuracy"] == 99.7, "1 / 1.003"


def test_all_is_there_only_if_every_dimension_is():
    assert score([(0, "No")], asked(relation=["no"])).dimensions() == ["relation"]
    whole = asked(existence=["no"], number=["no"], relation=["no"])
    found = score(enumerate(["No"] * 3), whole)
    assert found.dimensions() == ["all", "existence", "attribute", "number", "relation"]
    assert list(found.official()) == found.dimensions()


MIXED = asked(existence=["no", "no"], action=["yes", "no"], relation=["yes", "no"])
SAID = list(enumerate(["No", "no", "Yes", "No.", "No", "No"]))


def test_figures_are_unrounded_and_resampled_by_image():
    figures = score(SAID, MIXED).figures()
    values = {name: figure.value for name, figure in figures.items()}
    # right: 0, 2, 5 of 6; said No: 0, 4, 5, of which 0 and 5 rightly; 4 right answers are no
    assert values["accuracy"] == pytest.approx(100 / 2)
    assert values["precision"] == pytest.approx(100 * 2 / 3)
    assert values["recall"] == pytest.approx(100 * 2 / 4)
    assert values["F1"] == pytest.approx(100 * 4 / 7)
    assert values["no"] == pytest.approx(100 * 3 / 6)
    assert values["unparsed"] == pytest.approx(100 * 2 / 6)
    assert values["accuracy_existence"] == 50
    assert values["recall_action"] == 0
    assert {len(figure.numerator) for figure in figures.values()} == {3}, "one entry an image, asked or not"
    assert figures["accuracy_relation"].denominator.tolist() == [0, 0, 2]
    assert figures["accuracy"].outcomes.tolist() == [True, False, True, False, False, True], "one an answer"
    assert figures["accuracy_relation"].outcomes.tolist() == [False, True]


def test_an_order_of_images_can_be_asked_for():
    turned = score(SAID, MIXED).figures(["2.jpg", "9.jpg", "1.jpg", "0.jpg"])
    assert turned["accuracy_relation"].denominator.tolist() == [2, 0, 0, 0]
    with pytest.raises(ValueError, match=r"2 are not in it, first \['0.jpg', '2.jpg'\]"):
        score(SAID, MIXED).figures(["1.jpg"])


def test_the_lenient_parser_is_an_option_and_what_it_cannot_read_is_counted_too():
    strict, lenient = score(SAID, MIXED), score(SAID, MIXED, parser="lenient")
    assert of(strict.counts(), "all", ("unparsed", "right")) == (2, 3)
    assert of(lenient.counts(), "all", ("unparsed", "right")) == (0, 5)
    mute = score([(0, "Maybe")], asked(relation=["no"]), parser="lenient")
    assert of(mute.counts(), "relation", COUNTS) == (1, 0, 1, 0, 0, 1)


@pytest.mark.parametrize(
    ("answers", "questions", "options", "message"),
    [
        ([], {}, {}, "at least one question"),
        (SAID, MIXED, {"parser": "strict"}, "unknown parser 'strict'.*lenient, official"),
        ([(0, "No"), *SAID], MIXED, {}, r"1 duplicate ids, the first of them \['0'\]"),
        ([(7, "No"), *SAID], MIXED, {}, r"1 unknown ids, the first of them \['7'\]"),
        ([], MIXED, {}, r"6 ids without an answer, the first of them \['0', '1', '2', '3', '4'\]"),
        ([(0, "No")], asked(relation=["maybe"]), {}, r"1 ids have others, first \['0'\]"),
        ([(0, "No")], {"0": Question("a", "", "no", "odour")}, {}, r"unknown types \['odour'\]"),
    ],
)
def test_what_cannot_be_scored_is_refused(answers, questions, options, message):
    with pytest.raises(ValueError, match=message):
        score(answers, questions, **options)


def test_the_amber_score_of_published_figures():
    assert amber_score(chair=7.8, f1=74.7) == 83.45
    assert amber_score(chair=0, f1=100) == 100


def test_the_real_folder_is_read(files):
    assert (len(files.items), len(files.questions), len(files.vocabulary)) == (1004, 14216, 418)
    assert files.prompts["1"] == ("AMBER_1.jpg", "Describe this image.")
    assert files.questions["1005"] == Question(
        "AMBER_1.jpg", "Is the sky sunny in this image?", "yes", "discriminative-attribute-state"
    )
    assert files.items["1"].hallu == ("cloud", "sun", "bird", "dog", "flower")
    assert files.associations["road"] == ("path", "street", "ground")
    assert len(files.safe_words) == 9
    assert "individual" in files.safe_words


def test_the_counters_are_numbers_and_never_code(data, tmp_path):
    assert amber_files.counters(data / "amber" / "metrics.txt")["chair_num"] == 0.001
    (tmp_path / "metrics.txt").write_text("a_score=0\nchair_num=__import__('os').getpid()\n")
    with pytest.raises(UsageError, match=r"metrics.txt: 1 lines that are not name=number.*getpid"):
        amber_files.counters(tmp_path / "metrics.txt")


@pytest.fixture
def folder(tmp_path):
    """A data folder with one image, one question of each kind, and no more."""
    kinds = list(amber_questions.TYPES)
    entries = [{"id": 1, "type": "generative", "truth": ["sky"], "hallu": ["cloud"]}]
    entries += [{"id": n, "type": kind, "truth": "no"} for n, kind in enumerate(kinds, 2)]
    (tmp_path / "annotations.json").write_text(json.dumps(entries))
    (tmp_path / "relation.json").write_text('{"sky": [], "cloud": ["sky"]}')
    (tmp_path / "safe_words.txt").write_text("light\n\nsign")
    (tmp_path / "metrics.txt").write_text("chair_num=0.001\nchair_score=0\n")
    (tmp_path / "query").mkdir()
    parts = [[1], [3, 4, 5], [2], [6, 7]]
    for name, ids in zip(amber_files.QUERIES, parts, strict=True):
        queries = [{"id": n, "image": "AMBER_1.jpg", "query": "Is there?"} for n in ids]
        (tmp_path / name).write_text(json.dumps(queries))
    return tmp_path


def test_a_small_folder_is_read(folder):
    files = amber_files.read(folder)
    assert list(files.questions) == ["2", "3", "4", "5", "6", "7"]
    assert files.safe_words == ("light", "sign")
    assert [path.name for path in files.paths[:4]] == [
        "annotations.json",
        "relation.json",
        "safe_words.txt",
        "query_generative.json",
    ]


def test_files_that_stand_elsewhere_can_be_named(folder):
    (folder / "relation.json").rename(folder / "table.json")
    (folder / "safe.txt").write_text("lamp")
    files = amber_files.read(folder / "annotations.json", folder / "table.json", folder / "safe.txt")
    assert (files.safe_words, files.associations["cloud"]) == (("lamp",), ("sky",))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("annotations.json", '"id": 3', '"id": 4', "1 entries whose id is not their place.*4 at 3"),
        (
            "annotations.json",
            '"truth": "no"',
            '"truth": "No"',
            "6 truths that are neither yes nor no.*2: 'No'",
        ),
        ("annotations.json", '"relation"', '"odour"', "1 unknown types.*'odour'"),
        ("annotations.json", '["sky"]', '"sky"', "1 ids whose truth or hallu is not a list of words.*1"),
        ("annotations.json", '["sky"]', '["yeti"]', "1 words without an entry in relation.json.*yeti"),
        ("annotations.json", "[{", "{", "no valid JSON"),
        ("relation.json", '["sky"]', '"sky"', "1 words whose associations are no list of words.*cloud"),
        ("relation.json", '{"sky": [], "cloud": ["sky"]}', "[]", "expected an object of word"),
        ("metrics.txt", "0.001", "1", "1 counters that do not start at the published value.*chair_num"),
        (amber_files.QUERIES[0], '"id": 1', '"id": 99', "1 ids that annotations.json does not have.*99"),
        (amber_files.QUERIES[1], '"id": 3', '"id": 4', "1 duplicate ids.*4"),
        (amber_files.QUERIES[2], '"image"', '"picture"', "1 ids without an image and a query.*2"),
        (amber_files.QUERIES[3], '[{"id": 6', '[{}, {"id": 6', "1 ids that annotations.json.*None"),
        (amber_files.QUERIES[3], "[", '"', "no valid JSON"),
    ],
)
def test_a_broken_folder_is_refused_with_the_file_and_what_is_wrong(folder, file, old, new, message):
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UsageError, match=message) as error:
        amber_files.read(folder)
    assert str(error.value).startswith(str(path))


def test_missing_files_and_queries_are_named(folder):
    (folder / amber_files.QUERIES[3]).write_text("[]")
    with pytest.raises(UsageError, match="2 annotated ids without a query, the first of them 6, 7"):
        amber_files.read(folder)
    (folder / "relation.json").unlink()
    with pytest.raises(UsageError, match=r"relation.json: No such file.*junyangwang0410/AMBER"):
        amber_files.read(folder)
