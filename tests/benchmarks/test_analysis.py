"""The paper's figures of a shipped miniature: files, numbers, what is marked, what is refused."""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.lines import Line2D
from omegaconf import OmegaConf
from PIL import Image
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from benchmarks.analysis import __main__ as analysis
from benchmarks.analysis import answer, texts
from benchmarks.analysis.drawn import in_style
from benchmarks.analysis.figures import FIGURES, draw
from benchmarks.analysis.kept import Kept, load
from benchmarks.analysis.subject import Subject, _vocabulary
from benchmarks.mistakes import CONF
from benchmarks.tasks.placed import placed
from mutation_decode import Trace, plot

ROOT = Path(__file__).parents[2]
MODEL = "miniature-late-prior"
SHIPPED = ROOT / "benchmarks" / "miniature" / "models" / MODEL


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """All figures of one miniature, in one call."""
    folder = tmp_path_factory.mktemp("analysis") / "figures"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        words = ["analysis", "n=12", "batch_size=12", "max_new_tokens=28", f"folder={folder}"]
        patch.setattr(sys, "argv", words)
        analysis.main()
    return folder


@pytest.fixture(scope="module")
def kept(made: Path) -> Kept:
    return load(made / MODEL / "traces")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(lines: list[dict[str, str]], prefix: str) -> np.ndarray:
    """The columns of that prefix; NaN where a cell is empty."""
    return np.array([[float(v or "nan") for k, v in line.items() if k.startswith(prefix)] for line in lines])


def marked(kept: Kept) -> list[int]:
    return [at for at, kind in enumerate(kept.about["marks"]["greedy"]) if kind == "hallucinated"]


def test_each_figure_has_pictures_numbers_and_a_caption(made: Path, kept: Kept) -> None:
    captions = (made / "captions.md").read_text("utf-8").splitlines()
    lines = [line for line in captions if line.startswith("- ")]
    assert len(lines) == len(FIGURES) == 7
    for line, (name, (where, _)) in zip(lines, FIGURES.items(), strict=True):
        assert line.startswith(f"- `{MODEL}/{name}.png` ({where} of the paper): ")
        assert MODEL in line.split(": ", 1)[1]
        with Image.open(made / MODEL / f"{name}.png") as picture:
            assert picture.width <= 7.2 * 200
        assert (made / MODEL / f"{name}.svg").read_text("utf-8").rstrip().endswith("</svg>")
        assert len(rows(made / MODEL / f"{name}.csv")) > 0
    assert f"{kept.about['of']}, cut off at 28 tokens; hallucinated words have a star" in lines[0]
    assert set(kept.traces) == {
        *("greedy", "skip1", "skip2", "skip3", "question", "with-image", "without-image")
    }


def test_the_help_names_every_figure_and_its_number() -> None:
    text = OmegaConf.load(CONF / "analysis.yaml").hydra.help.template
    assert re.findall(r"^  (\S+) +((?:fig|sec)\. \d)", text, re.MULTILINE) == [
        (name, where) for name, (where, _) in FIGURES.items()
    ]


def test_the_numbers_are_those_of_the_traces(made: Path, kept: Kept) -> None:
    greedy, folder = kept.traces["greedy"], made / MODEL
    assert greedy.prob is not None
    lines = rows(folder / "probabilities.csv")
    np.testing.assert_allclose(table(lines, "readout_"), greedy.prob[0], rtol=1e-8)
    assert "".join(line["text"] for line in lines) == "".join(greedy.texts[0])
    assert [line["kind"] == "hallucinated" for line in lines].index(True) == marked(kept)[0]
    by = {}
    for line in rows(folder / "js.csv"):
        by.setdefault(line["variant"], []).append(line)
    np.testing.assert_allclose(table(by["js, nats"], "block_"), greedy.js[0], rtol=1e-8)
    released = table(by["released"], "block_")
    np.testing.assert_allclose(released, kept.released, rtol=1e-8, atol=1e-30)
    scaled = table(by["released, scaled"], "block_")
    np.testing.assert_allclose(scaled, released / released.max(axis=0), rtol=1e-6, atol=1e-30)
    head = LlavaForConditionalGeneration.from_pretrained(SHIPPED, dtype=torch.float32).lm_head
    with torch.no_grad():
        log_p = head(greedy.states[0]).log_softmax(dim=-1)[:, :-1]  # the last one alone is normed
    one, next_ = log_p[:, :-1], log_p[:, 1:]
    middle = (one.exp() + next_.exp()) / 2
    theirs = sum(F.kl_div(log, middle, reduction="none").mean(dim=-1) for log in (one, next_)) / 2
    np.testing.assert_allclose(released[:, :-1], theirs, rtol=1e-3, atol=1e-7)
    mean = table(rows(folder / "no-image.csv"), "without it")[:, 0]
    alone = kept.traces["without-image"]
    np.testing.assert_allclose(mean, alone.js[alone.generated].double().mean(dim=0), rtol=1e-6)
    images = rows(folder / "questions.csv")
    assert len(images) == 12 * 13
    assert {line["answer"] for line in images} <= {"yes", "no"}
    assert len(rows(folder / "states.csv")) == greedy.tokens.shape[1] * 13


def test_an_invented_word_is_shown_against_one_that_led_before(made: Path, kept: Kept) -> None:
    lines = rows(made / MODEL / "words.csv")
    assert [line["role"] for line in lines] == ["said", "rival"] * (len(lines) // 2)
    assert [int(line["token"]) for line in lines[::2]] == marked(kept)[:4]
    objects, greedy = kept.about["objects"], kept.traces["greedy"]
    for said, rival in zip(lines[::2], lines[1::2], strict=True):
        assert said["text"].strip() not in objects
        assert said["kind"] == "hallucinated"
        assert (rival["kind"] == "correct") == (rival["text"].strip() in objects)
        expected = plot.probability_of(greedy, int(said["token"]), int(rival["id"]))
        np.testing.assert_allclose(table([rival], "readout_")[0], expected, rtol=1e-8)


def test_methods_stand_side_by_side_with_their_invented_words_marked(made: Path, kept: Kept) -> None:
    with in_style():
        figure = texts.texts(kept).pages[0]
    shown = [text.get_text() for text in figure.texts]
    assert [name for name in shown if name in kept.traces] == ["greedy", "skip1", "skip2", "skip3"]
    lines = rows(made / MODEL / "texts.csv")
    count = sum(line["kind"] == "hallucinated" for line in lines)
    underlines = [line for line in figure.findobj(Line2D) if line in figure.artists or line in figure.lines]
    assert len(underlines) == count + 1, "and the one of the legend"
    bold = [text for text in figure.texts if text.get_fontweight() == "bold"]
    assert len(bold) == count + 4 + 1
    for name in kept.about["methods"]:
        trace = kept.traces[name]
        mine = [line for line in lines if line["method"] == name]
        assert f"acted at {int(trace.acted.sum())} of {len(mine)} tokens" in shown
        assert "".join(line["text"] for line in mine) == "".join(trace.texts[0])
    inside(figure)


def inside(figure) -> None:
    """No text runs out of the picture."""
    figure.canvas.draw()
    for text in figure.texts:
        box = text.get_window_extent().transformed(figure.transFigure.inverted())
        assert 0 <= box.x0 <= box.x1 <= 1, text
        assert 0 <= box.y0 <= box.y1 <= 1, text


def test_another_process_draws_the_same_from_the_traces(made: Path, tmp_path: Path) -> None:
    figures = ["words", "js", "texts"]
    shutil.copytree(made / MODEL / "traces", tmp_path / "saved" / "elsewhere" / "traces")
    words = [f"traces={tmp_path / 'saved'}", f"figure=[{','.join(figures)}]", f"folder={tmp_path / 'again'}"]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.analysis", *words], cwd=ROOT, check=True, capture_output=True
    )
    again = tmp_path / "again" / "elsewhere"
    assert sorted(path.name for path in again.iterdir()) == sorted(
        f"{name}.{form}" for name in figures for form in ("csv", "png", "svg")
    )
    for path in again.iterdir():
        assert path.read_bytes() == (made / MODEL / path.name).read_bytes(), path.name


def long(kept: Kept, tokens: int, text: str) -> Kept:
    """The greedy answer gone over again until it has so many tokens, each with that text."""
    greedy = kept.traces["greedy"]
    at = torch.arange(tokens) % greedy.tokens.shape[1]
    tensors = {name: value[:, at] for name, value in greedy.tensors().items()}
    trace = replace(greedy, texts=((text,) * tokens,), **tensors)
    about = {**kept.about, "marks": {"greedy": ["correct"] * tokens}, "words": [], "methods": []}
    released = None if kept.released is None else kept.released[at]
    return Kept(about, {"greedy": trace}, released)


def test_a_long_answer_has_several_pages(kept: Kept, tmp_path: Path) -> None:
    many = long(kept, 130, " word\n")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "probabilities-6.png").touch()
    (tmp_path / "one" / "probabilities.png").touch()
    lines = draw(many, ["probabilities"], tmp_path / "one")
    pages = sorted(path.name for path in (tmp_path / "one").glob("*.png"))
    assert pages == [f"probabilities-{number}.png" for number in range(1, 4)], "and none of an older answer"
    assert all(f"`one/{page}`" in lines[0] for page in pages)
    assert len(rows(tmp_path / "one" / "probabilities.csv")) == 130
    with in_style():
        drawn = answer.js(many)
        text = texts.texts(many)
    assert len(drawn.pages) == 3
    scales = {image.get_clim() for page in drawn.pages for axes in page.axes[:1] for image in axes.images}
    assert len(scales) == 1, "one scale on all pages"
    assert all(page.get_size_inches()[1] <= 10.5 for page in [*drawn.pages, *text.pages])
    assert "only 60 lines of each, the rest is in the CSV" in text.caption
    inside(text.pages[0])


@pytest.mark.parametrize(
    "text", ["\u732b\u304c\u5c45\u308b", "x" * 40, "<b>$a_$&\n", "\x00\u202e \u05d0", ""]
)
def test_any_text_is_drawn_within_its_column(kept: Kept, text: str) -> None:
    odd = long(kept, 12, text)
    with in_style():
        figure = texts.texts(odd).pages[0]
        inside(figure)
        answer.probabilities(odd).pages[0].canvas.draw()
    assert text or "(empty)" in [shown.get_text() for shown in figure.texts]


def test_an_answer_that_ends_at_once_has_all_figures(kept: Kept, tmp_path: Path) -> None:
    names = ["probabilities", "words", "js", "texts", "states"]
    lines = draw(long(kept, 1, ""), names, tmp_path / "short")
    assert len(lines) == 5
    assert "nothing, as the answer has no word" in lines[1]
    assert len(rows(tmp_path / "short" / "states.csv")) == 13
    assert rows(tmp_path / "short" / "words.csv") == []


def test_where_nothing_is_invented_or_known_the_caption_says_so(kept: Kept) -> None:
    calm = long(kept, 20, " a")
    calm.about["max_new_tokens"] = 20
    with in_style():
        assert "no word is hallucinated, nor in 63 other scenes" in answer.probabilities(calm).caption
        unknown = Kept({**calm.about, "objects": None}, calm.traces, calm.released)
        assert "which words are hallucinated is not known" in answer.js(unknown).caption
        assert "no word is hallucinated" in texts.texts(calm).caption
        assert "cut off at 20 tokens" in texts.texts(calm).caption
        ended = replace(calm.traces["greedy"], texts=((" a",) * 19 + ("",),))
        assert "cut off" not in texts.texts(Kept(calm.about, {"greedy": ended})).caption
        shown = texts.texts(unknown).pages[0]
        assert "hallucinated" not in [text.get_text() for text in shown.texts], (
            "no legend of what is not shown"
        )


def test_words_of_several_tokens_are_marked_whole() -> None:
    objects = frozenset({"dog", "dining table"})
    named = lambda text: placed(_vocabulary(), text)  # noqa: E731
    subject = Subject("x.jpg", "?", Image.new("RGB", (8, 8)), objects, named, 8)
    pieces = [
        "Two",
        " d",
        "og",
        "s",
        " and",
        " a",
        " din",
        "ing",
        " table",
        " beside",
        " a ",
        "ca",
        "t",
        "",
        ".",
    ]
    kinds = subject.kinds(pieces)
    of = {
        kind: [piece for piece, each in zip(pieces, kinds, strict=True) if each == kind]
        for kind in set(kinds)
    }
    assert of["correct"] == [" d", "og", "s", " din", "ing", " table"]
    assert of["hallucinated"] == ["ca", "t"]
    assert replace(subject, objects=None).kinds(pieces) == [""] * len(pieces)


def test_files_of_ones_own(command, checkpoint: Path, tmp_path: Path) -> None:
    """A checkpoint, an image, a folder; where no word names an object, the largest changes are shown."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(13):
        Image.new("RGB", (40, 30), (20 * number, 0, 0)).save(folder / f"{number:02}.png")
    model = f"model.{MODEL}.path={checkpoint}"
    own = [model, f"image={folder / '00.png'}", "prompt=describe this image .", "max_new_tokens=6"]
    out = tmp_path / "out"
    asked = ["objects=[dog]", f"images={folder}", "question=is there a dog ?", f"folder={out}"]
    code, printed, error = command(analysis, *own, *asked, "figure=[words,questions,no-image]")
    assert (code, error) == (0, ""), error
    assert "3 figures" in printed
    kept = load(out / MODEL / "traces")
    assert kept.about["images"] == [f"{number:02}.png" for number in range(13)]
    assert kept.about["of"] == "00.png"
    assert kept.about["described"] == 13
    captions = (out / "captions.md").read_text("utf-8")
    if "hallucinated" not in kept.about["marks"]["greedy"]:
        assert "the words at which late blocks change most" in captions
    assert "about 13 images" in captions
    code, _, error = command(analysis, *own, "figure=[questions]", f"folder={out}")
    assert code == 2
    assert "is about many images, and image= is one; give images=FOLDER" in error


REFUSED = {
    "figure=[jss]": "unknown figure 'jss': did you mean 'js'",
    "figure=js": "figure=js; expected a list such as",
    "figure=[]": "figure=[]; expected a list such as",
    "n=3": "n=3; expected a whole number, at least 12",
    "scene=-1": "scene=-1; expected a whole number, at least 0",
    "scenes=2": "unknown key scenes: did you mean 'scene'",
    "+odd=1": "unknown key odd",
    "image=README.md": "README.md: no image that can be read; expected the file of an image",
    "image=none.jpg": "none.jpg: No such file or directory",
    "image=IMAGE": "knows the drawn world only, and image= is a file of your own; name a checkpoint",
    "image=IMAGE scene=2": "give one of them",
    "image=IMAGE objects=[dgo]": "objects: unknown object 'dgo': did you mean 'dog'",
    "image=IMAGE images=tests": "tests has 0 images; expected at least 12",
    "objects=[dog]": "give image=FILE too",
    "model=[]": "model=[] leaves nothing to run",
    "method=[vcd]": "method vcd runs the model a second time",
    "method=[skip1] method.skip1.detector.critical=40": "method skip1: ",
    "traces=tests": "traces=tests: no traces there; expected the folder= of an earlier call",
}


@pytest.mark.parametrize("words", REFUSED)
def test_mistakes_end_with_one_line(command, tmp_path: Path, monkeypatch, words: str) -> None:
    monkeypatch.chdir(ROOT)
    Image.new("RGB", (8, 8)).save(tmp_path / "some.png")
    given = words.replace("IMAGE", str(tmp_path / "some.png")).split(" ")
    code, _, error = command(analysis, *given, f"folder={tmp_path / 'run'}")
    assert code == 2
    assert len(error.splitlines()) == 1
    assert REFUSED[words] in error
    assert not (tmp_path / "run").exists()


def test_traces_that_are_not_whole_are_refused(command, made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "m" / "traces"
    shutil.copytree(made / MODEL / "traces", copy)
    about = json.loads((copy / "about.json").read_text("utf-8"))
    (copy / "about.json").write_text(json.dumps({**about, "figures": ["js"]}), "utf-8")
    call = (f"traces={tmp_path / 'copy'}", f"folder={tmp_path / 'run'}")
    code, _, error = command(analysis, *call, "figure=[states]")
    assert (code, "has no traces for the figure states, only for js" in error) == (2, True), error
    (copy / "skip2.safetensors").write_bytes(b"no trace")
    code, _, error = command(analysis, *call)
    assert (code, "skip2.safetensors" in error, "no whole folder of traces" in error) == (2, True, True), (
        error
    )
    assert len(error.splitlines()) == 1


def test_a_trace_of_the_figures_can_be_read_by_itself(made: Path) -> None:
    trace = Trace.load(made / MODEL / "traces" / "greedy.safetensors")
    assert trace.states is not None
    assert trace.states.shape == (1, trace.tokens.shape[1], 13, 128)
    assert plot.labels(trace)[:2] == ["there", "is"]
