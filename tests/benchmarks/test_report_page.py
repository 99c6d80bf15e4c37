"""report.html of real runs, read as a browser would: figures of scores.json, words that the score counts."""

import json
import re
import sys
from html.parser import HTMLParser

import pytest
from layouts import benchmarks_data, coco_names, coco_objects

from benchmarks import __main__ as entry
from benchmarks.miniature import world
from benchmarks.report_page.traces import safe
from benchmarks.tasks import chair
from benchmarks.tasks.miniature import Scenes
from mutation_decode import Trace

VOID = {"meta", "img", "br", "link", "input", "hr"}
WORST = 3


class Node:
    def __init__(self, tag, attributes, parent):
        self.tag, self.parent, self.parts = tag, parent, []
        self.attributes = {name: value or "" for name, value in attributes}

    def __getitem__(self, name):
        return self.attributes.get(name, "")

    def find(self, tag, **wanted):
        """Elements below this one; ``kind`` is one of their classes."""
        for part in self.parts:
            if isinstance(part, Node):
                classes = part["class"].split()
                if part.tag == tag and all(
                    value in classes if name == "kind" else part[name] == value
                    for name, value in wanted.items()
                ):
                    yield part
                yield from part.find(tag, **wanted)

    @property
    def text(self):
        return "".join(part.text if isinstance(part, Node) else part for part in self.parts)

    @property
    def words(self):
        return " ".join(self.text.split())


class Page(HTMLParser):
    """A page whose every element is closed where it must be."""

    def __init__(self, path):
        super().__init__()
        self.root = self.at = Node("", [], None)
        self.feed(path.read_text("utf-8"))
        self.close()
        assert self.at is self.root, f"<{self.at.tag}> is left open"

    def handle_starttag(self, tag, attributes):
        node = Node(tag, attributes, self.at)
        self.at.parts.append(node)
        if tag not in VOID:
            self.at = node

    def handle_endtag(self, tag):
        assert self.at.tag == tag, f"</{tag}> closes <{self.at.tag}>"
        self.at = self.at.parent

    def handle_data(self, data):
        self.at.parts.append(data)


def ask(*words):
    """``python -m benchmarks WORDS`` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["benchmarks", *map(str, words)])
        entry.main()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A shipped miniature on four scenes of each task; skip1 is what harms, too."""
    folder = tmp_path_factory.mktemp("run")
    tasks = ("miniature-chair", "miniature-amber", "miniature-yesno")
    ask(
        "model=[miniature-late-prior]", "method=[greedy,skip3]", f"task=[{','.join(tasks)}]",
        *(f"task.{task}.n=4" for task in tasks), f"folder={folder}", "generation.batch_size=24",
        "bootstrap.resamples=50", "pictures.captions=2", f"pictures.worst={WORST}",
        "tune=true", "tuning.task.n=4", "+method.skip3.tune={detector:{threshold:[0.0,0.3]}}",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def page(run):
    return Page(run / "report.html").root


def predictions(folder, task, method="greedy", model="miniature-late-prior"):
    path = folder / "predictions" / model / method / f"{task}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_figures_are_those_of_scores_json(run, page):
    cells = {}
    for table in page.find("table", kind="figures"):
        (head,), (body,) = table.find("thead"), table.find("tbody")
        methods = [cell.words for cell in head.find("th")]
        for line in body.find("tr"):
            (name,) = line.find("th")
            for method, cell in zip(methods, line.find("td"), strict=True):
                cells[table["data-task"], method, name.words] = cell
    rows = json.loads((run / "scores.json").read_text())["rows"]
    figures = {(row["task"], row["method"], name): f for row in rows for name, f in row["figures"].items()}
    assert cells.keys() == figures.keys()
    seen = set()
    for place, figure in figures.items():
        cell, digits = cells[place], 2 if place[2] in ("length", "objects") else 1
        (value,) = cell.find("span", kind="value")
        assert value.words == ("undefined" if figure["value"] is None else f"{figure['value']:.{digits}f}")
        if figure["value"] is None:
            continue
        assert [each.words for each in cell.find("span", kind="interval")] == bounds(figure, f".{digits}f")
        difference = figure["difference"]
        told = [each.words for each in cell.find("span", kind="difference")]
        if set(difference.values()) == {0} or difference["value"] is None:
            assert told == []
            continue
        apart, ends = [f"{difference['value']:+.{digits}f}"], bounds(difference, f"+.{digits}f")
        assert told[0].startswith(" ".join([*apart, *ends]))
        apart = bool(ends) and (difference["low"] > 0 or difference["high"] < 0)
        assert ("*" in told[0]) == apart
        if apart:
            less = place[2] in ("CHAIR", "CHAIR_s", "CHAIR_i", "Hal", "Cog", "truncated", "unparsed")
            known = less or place[2].partition("_")[0] in ("recall", "Cover", "accuracy", "precision", "F1")
            word = ("better" if (difference["value"] < 0) == less else "worse") if known else "differs"
            assert told[0].endswith(f"* {word}")
            seen.add(word)
    assert {"worse", "differs"} <= seen, "skip3 harms, so the page has something to mark"


def bounds(interval, style):
    low, high = interval["low"], interval["high"]
    return [] if low is None else [f"[{low:{style}}, {high:{style}}]"]


def test_the_worst_captions_are_there_with_the_words_that_the_score_counts(run, page):
    truth = {key: scene.objects for key, scene in Scenes(split="shifted", n=4, seed=10).scenes().items()}
    said = {
        method: {line["image_id"]: line["caption"] for line in predictions(run, "miniature-chair", method)}
        for method in ("greedy", "skip3")
    }
    counted = {
        method: chair.score({key: world.mentions(text) for key, text in texts.items()}, truth).captions
        for method, texts in said.items()
    }
    greedy = counted["greedy"]
    invented = {key: len(caption.hallucinated) for key, caption in greedy.items() if caption.hallucinated}
    worst = sorted(invented, key=lambda key: (-invented[key], key))
    articles = list(page.find("article"))
    assert [article["data-key"] for article in articles] == worst[:WORST]
    assert worst, "there is a caption to show"
    for article in articles:
        key = article["data-key"]
        assert f"In the image: {', '.join(sorted(truth[key]))}." in article.words
        (image,) = article.find("img")
        assert image["src"].startswith("data:image/png;base64,")
        for method in said:
            (line,) = article.find("tr", **{"data-method": method})
            (text,) = line.find("td", kind="text")
            assert text.text.strip() == said[method][key]
            wrong = [span.text for span in text.find("span", kind="hallucinated")]
            assert wrong == list(counted[method][key].hallucinated)
            right = [span.text for span in text.find("span", kind="there")]
            assert right == [word for word in counted[method][key].mentions if word in truth[key]]
            (number,) = line.find("td", kind="number")
            assert number.text == str(len(wrong))


def test_every_link_leads_to_a_file_beside_the_page_and_traces_hold_the_answers(run, page):
    ids = {node["id"] for tag in ("section", "article") for node in page.find(tag)}
    inside, files = set(), set()
    for link in page.find("a"):
        (inside if link["href"].startswith("#") else files).add(link["href"])
    assert {name.removeprefix("#") for name in inside} <= ids
    shown = [article["data-key"] for article in page.find("article")]
    stems = {f"traces/miniature-late-prior/{key}" for key in shown}
    assert files == {f"{stem}{end}" for stem in stems for end in (".safetensors", ".html")}
    library = "traces/miniature-late-prior/bokeh.js"  # of the pages
    assert files | {library} == {path.relative_to(run).as_posix() for path in (run / "traces").rglob("*.*")}
    texts = {line["image_id"]: line["caption"] for line in predictions(run, "miniature-chair")}
    for key in shown:
        trace = Trace.load(run / "traces" / "miniature-late-prior" / f"{key}.safetensors")
        assert "".join(trace.texts[0]).strip() == texts[key]
        assert trace.top_ids.shape[-1] == 5
    assert "differs from the one beside" not in page.words


def test_nothing_is_fetched_and_nothing_runs(page):
    loading = ("script", "link", "iframe", "object", "embed", "video", "audio", "source", "form")
    assert not [tag for tag in loading if list(page.find(tag))]
    images = list(page.find("img"))
    assert images
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in images)
    (style,) = page.find("style")
    assert "@import" not in style.text
    assert "url(" not in style.text
    (policy,) = page.find("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")


def test_what_was_run_chosen_and_tried_is_told(run, page):
    versions = json.loads((run / "versions.json").read_text())
    told = page.words
    for text in (versions["commit"], versions["model"]["miniature-late-prior"], versions["code"]["the code"]):
        assert text in told
    assert "user : <image> describe this image . assistant :" in told
    (command,) = page.find("pre")
    assert command.words.startswith("python -m benchmarks 'model=[miniature-late-prior]' 'method=[greedy,")
    assert "folder=" not in command.text
    tuning = json.loads((run / "tuning.json").read_text())["models"]
    choice = tuning["miniature-late-prior"]["methods"]["skip3"]
    assert choice["note"] in told
    lines = {line.words.partition(" ")[0]: line for line in page.find("tr")}
    for trial in choice["trials"]:
        line = lines[f"detector.threshold={trial['knobs']['detector']['threshold']}"]
        assert [cell.words for cell in line.find("td", kind="number")] == [
            f"{value:.2f}" if value is not None else "undefined" for value in trial["figures"].values()
        ]
    headings = [node.words for node in page.find("h2")]
    assert "Hallucination against recall" in headings
    assert "What the layers do" in headings
    assert "None: every item has an answer under every method." in told
    (costs,) = page.find("section", id="costs")
    assert len(list(costs.find("tr"))) == 1 + 2 * 3


def test_wrong_answers_are_listed_with_the_right_ones(run, page):
    (section,) = page.find("section", id="questions")
    wrong = json.loads((run / "scores.json").read_text())["rows"]
    (accuracy,) = (
        row["figures"]["accuracy"]["value"]
        for row in wrong
        if (row["task"], row["method"]) == ("miniature-yesno", "greedy")
    )
    assert accuracy == 100, "else the sentence is another"
    assert "All 24 answers of greedy are right." in section.words


NASTY = '<img src=x onerror=alert(1)> a dog & a "hot dog" </td></tr><script>x</script> at a dining table'
OBJECTS = ("dog", "hot dog", "dining table")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return benchmarks_data(tmp_path_factory.mktemp("data"), n=4)


@pytest.fixture
def again(checkpoint, data, tmp_path):
    """Runs tasks on a random model, puts other answers in place of its own, and goes on in that folder."""

    def call(answers, *words, between=lambda: None):
        folder = tmp_path / "run"
        given = [
            f"model.miniature-late-prior.path={checkpoint}", "method=[greedy]", f"task=[{','.join(answers)}]",
            *(f"task.{task}.max_new_tokens=3" for task in answers), f"data={data}", f"folder={folder}",
            "bootstrap.resamples=20", "pictures.captions=0", *words,
        ]  # fmt: skip
        ask(*given)
        for task, (name, of) in answers.items():
            told = [json.dumps({**line, name: of(line)}) + "\n" for line in predictions(folder, task)]
            path = folder / "predictions" / "miniature-late-prior" / "greedy" / f"{task}.jsonl"
            path.write_text("".join(told), "utf-8")
        between()
        ask(*given)
        return folder, Page(folder / "report.html").root

    return call


def test_html_in_answers_is_text_and_an_image_that_is_none_is_told(again, data):
    names = coco_names(4)
    counts = {name: sum(o not in coco_objects(at) for o in OBJECTS) for at, name in enumerate(names)}
    worst = sorted(names, key=lambda name: (-counts[name], name))[:2]
    photo = data / "coco" / "val2014" / worst[1]
    whole = photo.read_bytes()
    try:
        folder, page = again(
            {"chair": ("caption", lambda _: NASTY)},
            *("task.chair.n=4", "pictures.worst=2"),
            between=lambda: photo.write_bytes(b"x" * len(whole)),
        )
    finally:
        photo.write_bytes(whole)
    assert not list(page.find("script"))
    first, second = page.find("article")
    assert [first["data-key"], second["data-key"]] == worst
    for article in (first, second):
        (text,) = article.find("span", kind="as-written")
        assert text.text == NASTY
        marked = {span.text: span["class"] for span in text.find("span")}
        there = coco_objects(names.index(article["data-key"]))
        assert marked == {name: "there" if name in there else "hallucinated" for name in OBJECTS}
    assert "The image cannot be read: UnidentifiedImageError" in second.words
    assert not list(second.find("img")) + list(second.find("a"))
    assert f"{worst[1]}: no trace, UnidentifiedImageError" in page.words
    assert len(list(first.find("img"))) == 1
    assert [link["href"] for link in first.find("a")] == [
        f"traces/miniature-late-prior/{worst[0]}{end}" for end in (".html", ".safetensors")
    ]
    assert (folder / "traces" / "miniature-late-prior" / f"{worst[0]}.html").is_file()
    assert "The traced answer differs from the one beside" in first.words, "it is the model's own"


def test_amber_and_pope_without_what_draws_the_pages_of_traces(again, data, monkeypatch):
    monkeypatch.delattr("mutation_decode.page", raising=False)
    monkeypatch.setitem(sys.modules, "mutation_decode.page", None)
    said = {
        "amber-generative": ("response", lambda _: "A dog and two dogs under clouds in a forest."),
        "pope-popular": ("answer", lambda line: "Yes" if "dog" in line["question"] else "Nope"),
        "amber-discriminative": ("response", lambda _: "No"),
    }
    words = ("amber-generative.nouns=table", "amber-discriminative.n=1", "pope-popular.parser=lenient")
    folder, page = again(said, *(f"task.{word}" for word in words), "pictures.worst=2")
    assert [article["data-key"] for article in page.find("article")] == ["1", "2"]
    for article in page.find("article"):
        marked = [(span.text, span["class"]) for span in article.find("span") if span["title"]]
        bad = [(word, "hallucinated") for word in ("dog", "dogs", "clouds")]
        assert marked == [*bad, ("forest", "there")]
        assert [link.words for link in article.find("a")] == ["trace"]
    assert re.search(r"no page to explore a trace, (ModuleNotFound|Import)Error: ", page.words)
    assert not list(folder.rglob("traces/*/*.html"))
    asked = [json.loads(line) for line in (data / "pope" / "coco_pope_popular.json").read_text().splitlines()]
    wrong = [q for q in asked if q["label"] == "no" or "dog" not in q["text"]]  # Nope is no answer
    wrong.sort(key=lambda q: str(q["question_id"]))
    (section,) = page.find("section", id="questions")
    assert f"{len(wrong)} of {len(asked)} answers of greedy are wrong; the first 2" in section.words
    assert "3 of 6 answers of greedy are wrong; the first 2" in section.words, "AMBER's, all answered No"
    told = {line["data-key"]: line for line in section.find("tr") if line["data-key"]}
    for question in wrong[:2]:
        line = told[str(question["question_id"])]
        answer = "Yes" if "dog" in question["text"] else "Nope"
        assert [cell.words for cell in line.find("th")] == [question["text"]]
        assert [cell.words for cell in line.find("td")] == [question["image"], question["label"], answer]
        assert len(list(line.find("span", kind="no"))) == 1


def test_without_single_answers_the_page_says_so_and_a_rerun_writes_the_same(harness, small, tmp_path):
    assert harness(*small, "method=[greedy]") == 0
    first = (tmp_path / "run" / "report.html").read_bytes()
    assert b"None are shown, as pictures.worst is 0." in first
    assert harness(*small, "method=[greedy]") == 0
    assert (tmp_path / "run" / "report.html").read_bytes() == first
    assert not (tmp_path / "run" / "traces").exists()


def test_names_of_files_are_safe_and_apart():
    assert safe("COCO_val2014_000000226988.jpg") == "COCO_val2014_000000226988.jpg"
    odd = [
        "../../etc/passwd",
        "a b.png",
        "a/b.png",
        "a\\b.png",
        "",
        ".",
        "..",
        ".hidden",
        "d\u00e9j\u00e0.jpg",
        "x" * 300,
        "x" * 301,
    ]
    names = [safe(name) for name in odd]
    assert len(set(names)) == len(odd)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._~-]{0,199}|~[0-9a-f]{12}", name) for name in names), (
        names
    )
