import builtins
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.tasks import amber, amber_files, amber_nouns
from benchmarks.usage import UsageError

ROOT = Path(__file__).parents[2]
VOCABULARY = (
    "dog",
    "can",
    "child",
    "vase",
    "man",
    "e-book",
    "glass",
    "people",
    "person",
    "sunglasses",
    "sea",
)


def test_the_table_finds_singulars_and_plurals_and_says_that_it_is_approximate():
    finder = amber_nouns.finder("table", VOCABULARY)
    assert "approximate" in finder.label
    text = (
        "Dog, dogs' children can see an e-book; two glasses, men and people with sunglasses. A man's vases."
    )
    assert finder.find(text) == ["dog", "child", "e-book", "glass", "people", "man"]


def test_official_nouns_are_case_sensitive_tagged_and_lemmatised(data, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [os.fspath(data / "nltk_data")])
    finder = amber_nouns.finder("nltk", VOCABULARY)
    assert finder.label == "nltk"
    text = "The dogs can watch two men. A hot dog and vases stand on the table."
    assert finder.find(text) == ["dog", "men", "dog", "vas", "table"], "men and vas are WordNet's"


def test_wordnet_makes_the_same_of_every_form_in_the_table(data, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [os.fspath(data / "nltk_data")])
    lemma = nltk.stem.WordNetLemmatizer().lemmatize
    vocabulary = amber_files.read(data / "amber").vocabulary
    forms = {form for word in vocabulary for form in (word, amber_nouns.plural(word))}
    known = {form for form in forms if nltk.corpus.wordnet.synsets(form, "n")}
    counted = {form for form in known if lemma(form) in vocabulary}
    assert len(vocabulary & known) == 395
    assert known - counted == amber_nouns.LOST
    find = amber_nouns.finder("table", vocabulary).find
    assert {form: find(form) for form in counted - amber_nouns.NOT_NOUNS} == {
        form: [lemma(form)] for form in counted - amber_nouns.NOT_NOUNS
    }


def test_the_table_differs_from_the_official_nouns_by_a_sixtieth(data, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [os.fspath(data / "nltk_data")])
    files = amber_files.read(data / "amber")
    responses = json.loads((data / "amber" / "llava15_responses_166.json").read_text())
    official, table = (
        Counter(
            (line["id"], noun)
            for line in responses
            for noun in finder.find(line["response"])
            if noun in files.vocabulary
        )
        for finder in (amber_nouns.finder(choice, files.vocabulary) for choice in ("nltk", "table"))
    )
    assert (official.total(), table.total()) == (1260, 1281)
    assert ((table - official).total(), (official - table).total()) == (21, 0)


def test_no_nltk_data_is_touched_before_the_choice_and_the_choice_names_the_command(tmp_path):
    code = (
        "import sys\n"
        "from benchmarks.tasks import amber, amber_files, amber_nouns, amber_questions, pope_questions\n"
        "assert not {'nltk', 'spacy'} & set(sys.modules)\n"
        "import nltk; nltk.data.path[:] = []\n"
        "from benchmarks.usage import UsageError\n"
        "try: amber_nouns.finder('nltk', ())\n"
        "except UsageError as error: print(error)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"HOME": os.fspath(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert "python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng wordnet" in found.stdout


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    forbid(monkeypatch, "nltk")
    with pytest.raises(UsageError, match=r"the nouns nltk need nltk.*pip install nltk"):
        amber_nouns.finder("nltk", VOCABULARY)


def forbid(monkeypatch, module):
    """As if it were not installed."""
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)


def test_unknown_choices_are_answered_with_what_there_is():
    with pytest.raises(UsageError, match="unknown nouns 'nltx': did you mean 'nltk'"):
        amber_nouns.finder("nltx", VOCABULARY)
    with pytest.raises(UsageError, match=r"unknown similarity 'glove'.*exact, spacy, table"):
        amber_nouns.similarity("glove", VOCABULARY)
    with pytest.raises(UsageError, match="needs the path of its JSON file"):
        amber_nouns.similarity("table", VOCABULARY)


def test_exact_is_amber_s_own():
    assert amber_nouns.similarity("exact", VOCABULARY) is amber.exact


@pytest.mark.parametrize(
    "content", ['{"man": ["person", "people"]}', '[["person", "man"], ["man", "people"]]']
)
def test_a_table_of_similar_words_holds_both_ways(tmp_path, content):
    (tmp_path / "similar.json").write_text(content)
    similar = amber_nouns.similarity("table", VOCABULARY, tmp_path / "similar.json")
    assert similar("man", "person")
    assert similar("person", "man")
    assert similar("dog", "dog")
    assert not similar("person", "people")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"man": "person"}', "expected {"),
        ('["sea"]', "expected {"),
        ('[["man", "person", "dog"]]', "expected {"),
        ("3", "expected {"),
        ("[", "no valid JSON"),
        ('{"man": ["yeti", "dog"]}', r"1 words outside the vocabulary, the first of them \['yeti'\]"),
    ],
)
def test_a_wrong_table_is_refused_with_its_name(tmp_path, content, message):
    (tmp_path / "similar.json").write_text(content)
    with pytest.raises(UsageError, match=rf"similar\.json: .*{message}"):
        amber_nouns.similarity("table", VOCABULARY, tmp_path / "similar.json")


def pipeline(**changes):
    """What vectors() asks of a spaCy pipeline; words resemble each other by their first letter."""
    held = {"lang": "en", "name": "core_web_lg", "rows": 342918, "width": 300, **changes}

    class Nlp:
        meta = {  # noqa: RUF012
            "lang": held["lang"],
            "name": held["name"],
            "vectors": {"width": held["width"], "vectors": held["rows"], "keys": 684830},
        }

        def __call__(self, text):
            return SimpleNamespace(
                text=text, similarity=lambda other: 0.81 if text[0] == other.text[0] else 0.8
            )

    return Nlp()


def test_spacy_s_similarity_must_exceed_the_threshold():
    similar = amber_nouns.vectors(pipeline())
    assert similar("people", "person")
    assert not similar("people", "man"), "0.8 itself is not enough"


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"name": "core_web_md", "rows": 20000}, "got en_core_web_md of 20000 rows"),
        ({"lang": "de", "name": "core_news_lg"}, "got de_core_news_lg"),
        ({"rows": 20000}, "got en_core_web_lg of 20000 rows"),
        ({"width": 96}, "width 96"),
    ],
)
def test_other_vectors_than_the_official_ones_are_refused(changes, got):
    with pytest.raises(UsageError, match=rf"{got}.*python -m spacy download en_core_web_lg"):
        amber_nouns.vectors(pipeline(**changes))


def test_without_spacy_the_choice_names_the_command(monkeypatch):
    forbid(monkeypatch, "spacy")
    with pytest.raises(UsageError, match=r"No module named 'spacy'.*spacy download en_core_web_lg"):
        amber_nouns.similarity("spacy", VOCABULARY)


def test_without_its_vectors_spacy_s_own_word_is_passed_on(monkeypatch):
    def load(name):
        raise OSError(f"[E050] Can't find model {name!r}.")

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    with pytest.raises(UsageError, match=r"E050.*spacy download en_core_web_lg"):
        amber_nouns.similarity("spacy", VOCABULARY)
