"""The page of an answer: as text, and in a headless Chromium that opens it from the disk."""

import json
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from families import Family
from PIL import Image

from mutation_decode import Contrast, MutationLogitsProcessor, Record, Skip, Trace

pytest.importorskip("bokeh", reason="the page needs bokeh")

from mutation_decode import page
from mutation_decode.page.differing import differing

UNTOUCHED = Contrast(alpha=0.0, layer=0, always=True)
ODD = "<b onclick=\"x('y')\">&amp;</script><script>alert(1)</script>"


class Words:
    """A tokenizer of words, one of which is all that a page must not read as HTML."""

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return " ".join(ODD if each % 7 == 0 else f"w{each}" for each in ids)


def traced(family: Family, strategy: Any, detector: Any, record: Any = None) -> Trace:
    """Ten real tokens of the first prompt."""
    record = Record(top=5) if record is None else record
    with MutationLogitsProcessor(family.model, strategy, detector=detector, trace=record) as processor:
        family.generate(0, logits_processor=[processor])
        assert processor.trace is not None
        return processor.trace.named(Words())


@pytest.fixture(scope="module")
def real(one: Family) -> Mapping[str, Trace]:
    """Three answers to one prompt of a random model: as it is, contrasted, and with blocks left out."""
    answers = {"greedy": traced(one, UNTOUCHED, None)}
    for name, strategy in (("contrast", Contrast(alpha=1.5, beta=0.02)), ("skip", Skip())):
        answers[name] = traced(one, strategy, one.detector)
    assert answers["contrast"].fired.any()
    assert answers["skip"].skipped.any()
    return answers


def made_up(tokens: int, *, texts: tuple[str, ...] = (), depth: int = 32, top: int = 5) -> Trace:
    """An answer of any length, of numbers that a large model could have given; or these texts."""
    random = torch.Generator().manual_seed(tokens)
    ids = torch.randint(0, 3000, (1, tokens), generator=random)
    if texts:
        ids = torch.arange(tokens)[None]
    probs = torch.rand(1, tokens, depth + 1, top, generator=random).softmax(-1).sort(-1, True).values
    likeliest = torch.randint(0, 3000, (1, tokens, depth + 1, top), generator=random)
    likeliest[..., 1] = ids[..., None]
    mutated = torch.zeros(1, tokens, depth, dtype=torch.bool)
    mutated[:, ::5, depth - 4] = True
    names = {i: texts[i] if i < len(texts) else f" {i:x}" for i in range(3000)}
    return Trace(
        tokens=ids,
        generated=torch.ones(1, tokens, dtype=torch.bool),
        js=0.69 * torch.rand(1, tokens, depth, generator=random) ** 8,
        critical=torch.full((1, tokens), 18),
        pre_mutation=torch.where(mutated.any(-1), depth - 4, depth),
        mutated=mutated,
        skipped=torch.zeros_like(mutated),
        fired=mutated.any(-1),
        acted=mutated.any(-1),
        watched=(18, depth - 1),
        prob=probs[..., 1].clone(),
        top_ids=likeliest,
        top_probs=probs,
        after_ids=likeliest[:, :, -1].clone(),
        after_probs=probs[:, :, -1].clone(),
        texts=(tuple(names[i] for i in ids[0].tolist()),),
        names=names,
    )


def written(folder: Path, answers: Mapping[str, Trace], **options: Any) -> Path:
    path = folder / "page.html"
    page.write(path, answers, **{"prompt": "What is there?", **options})
    return path


class Parsed(HTMLParser):
    """What a reader finds in a page: the answers token by token, tables, every address that is named."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tokens: dict[str, str] = {}
        self.classes: dict[str, set[str]] = {}
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.scripts = 0
        self._open: str | None = None
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        self.scripts += tag == "script"
        if tag == "span" and re.fullmatch(r"w\d+-\d+", told.get("id") or ""):
            self._open = str(told["id"])
            self.tokens[self._open] = ""
            self.classes[self._open] = set((told.get("class") or "").split())
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = None if tag == "span" else self._open
        self._cell = False if tag in ("td", "th") else self._cell

    def handle_data(self, data: str) -> None:
        if self._open:
            self.tokens[self._open] += data
        if self._cell:
            self.rows[-1][-1] += data


# The page as text.


def test_the_page_says_what_the_trace_says_without_a_script(
    real: Mapping[str, Trace], tmp_path: Path
) -> None:
    parsed = Parsed(written(tmp_path, real).read_text("utf-8"))
    lines = [row for row in parsed.rows if row and row[0].isdigit()]
    assert len(lines) == 30
    for row, (answer, token) in zip(lines, ((a, t) for a in real.values() for t in range(10)), strict=True):
        assert answer.texts is not None
        assert row[1] == answer.texts[0][token].strip()
        assert row[2] == f"{float(answer.risk[0, token]):.2f}"
        assert (row[5] == "fired") == bool(answer.fired[0, token])
        assert row[9] == ", ".join(map(str, answer.mutated[0, token].nonzero().flatten().tolist()))
        assert row[10] == ", ".join(map(str, answer.skipped[0, token].nonzero().flatten().tolist()))
        assert row[11] == f"{float(answer.prob[0, token, -1]):.4f}"  # type: ignore[index]
    for number, answer in enumerate(real.values()):
        risks = answer.risk[0].tolist()
        levels = [sum(risk >= edge for edge in page.RISKS) for risk in risks]
        assert [f"r{level}" in parsed.classes[f"w{number}-{t}"] for t, level in enumerate(levels)] == [
            True
        ] * 10
        assert len(set(levels)) > 1


def test_nothing_is_loaded_and_nothing_is_read_as_html(real: Mapping[str, Trace], tmp_path: Path) -> None:
    plain = Parsed(written(tmp_path, {"a": made_up(3)}).read_text("utf-8"))
    text = written(tmp_path, {ODD: real["greedy"]}, prompt=ODD, title=ODD).read_text("utf-8")
    parsed = Parsed(text)
    assert ODD in "".join(parsed.tokens.values())
    assert ODD in parsed.rows[1:][0][1] + "".join(row[1] for row in parsed.rows)
    assert parsed.scripts == plain.scripts
    assert [each for each in parsed.addresses if not each.startswith("data:")] == []
    assert "onclick=\"x('y')\"" not in text
    assert "default-src 'none'" in text


def test_the_text_of_an_answer_is_as_it_was(tmp_path: Path) -> None:
    pieces = (" A", " caf", "é", "\n", "\n\n-", " 🐈", "", " ", "‏שלום", " end. ", "</s>")
    path = written(tmp_path, {"a": made_up(len(pieces), texts=pieces)})
    shown = re.search(r'<p class="answer"[^>]*>(.*?)</p>', path.read_text("utf-8"), re.DOTALL)
    assert shown is not None
    read = Parsed(f"<table><tr><td>{shown.group(1)}</td></tr></table>")
    assert read.rows == [["".join(pieces)]]
    assert list(read.tokens.values()) == ["A", "caf", "é", "", "-", "🐈", "", "", "‏שלום", "end.", "</s>"]


def test_words_that_differ_and_words_that_are_marked(tmp_path: Path) -> None:
    one = made_up(6, texts=(" a", " red", " ch", "air", " stands", "."))
    two = made_up(7, texts=(" a", " red", " ch", "est", " of", " wood", "."))
    text = written(tmp_path, {"one": one, "two": two}, marked={"two": [[2, 3]]}, marks="not there").read_text(
        "utf-8"
    )
    boxed = [
        re.findall(r'id="w(\d-\d)"', run)
        for run in re.findall(r'<span class="unlike">(.*?</span>)</span>', text)
    ]
    assert boxed == [["0-2", "0-3", "0-4"], ["1-2", "1-3", "1-4", "1-5"]]
    marked = [name for name, kinds in Parsed(text).classes.items() if "marked" in kinds]
    assert marked == ["w1-2", "w1-3"]
    assert "not there" in text


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([["a b", " c"]], [[False, False]]),
        ([["a", " b"], ["a", " b"]], [[False, False], [False, False]]),
        ([["a", " b", "\n"], ["a", " c"], ["x", " b"]], [[True, True, False], [False, True], [True, False]]),
        ([["a"], []], [[True], []]),
        ([["ca", "t", "", "!"], ["cat", "?"]], [[False, False, False, True], [False, True]]),
        ([["猫が", "いる"], ["犬が", "いる"]], [[True, False], [True, False]]),
    ],
)
def test_differences_are_words_not_tokens(answers: list[list[str]], expected: list[list[bool]]) -> None:
    assert differing(answers) == expected


def test_words_that_are_frequent_are_compared_too() -> None:
    words = [f"w{number} " for number in random.Random(0).choices(range(40), k=1000)]
    other = [*words[:500], "new ", *words[500:700], "changed ", *words[701:]]
    assert [sum(each) for each in differing([words, other])] == [1, 2]


def test_images_of_every_kind_are_shown(tmp_path: Path) -> None:
    large = Image.effect_noise((1600, 400), 60)
    for image in (
        Image.new("RGBA", (20, 10), (255, 0, 0, 128)),
        Image.new("P", (20, 10)),
        Image.new("I;16", (20, 10), 40000),
        Image.new("CMYK", (20, 10)),
        large,
    ):
        before = image.copy()
        path = written(tmp_path, {"a": made_up(2)}, image=image)
        uri = next(
            each for each in Parsed(path.read_text("utf-8")).addresses if each.startswith("data:image")
        )
        assert uri.startswith("data:image/jpeg" if image is large else "data:image/png")
        assert image == before  # it is the caller's
    assert large.size == (1600, 400)


def test_what_is_no_answer_is_refused_and_leaves_the_old_page(tmp_path: Path) -> None:
    trace = made_up(3)
    path = written(tmp_path, {"a": trace})
    before = path.read_bytes()
    double = {name: torch.cat([value, value]) for name, value in trace.tensors().items()}
    rows = Trace(**double, texts=None, names=None)
    with pytest.raises(ValueError, match="expected one answer or more, as name -> trace, got none"):
        written(tmp_path, {})
    with pytest.raises(
        ValueError, match=r"answer 'b': expected a trace of one row, got 2 rows; take one with row"
    ):
        written(tmp_path, {"b": rows})
    with pytest.raises(
        ValueError, match=r"answer 'b': expected a trace with texts; make it with named\(tokenizer"
    ):
        written(tmp_path, {"b": rows.row(0)})
    with pytest.raises(ValueError, match="answer 'a': marked tokens are 0 to 2, got 3"):
        written(tmp_path, {"a": trace}, marked={"a": [[2, 3]]})
    with pytest.raises(UnicodeEncodeError):  # half of a sign, when all but the writing is done
        written(tmp_path, {"a": trace}, prompt="\ud83d")
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


def test_without_bokeh_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mutation_decode.page.charts", raising=False)
    monkeypatch.setitem(sys.modules, "bokeh.embed", None)
    with pytest.raises(ImportError, match=r"the page needs bokeh; pip install 'mutation-decode\[inspect\]'"):
        written(tmp_path, {"a": made_up(2)})


# The page in a browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by playwright; where CI or NEEDS_BROWSER is set, its absence is an error."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    missing = [] if found else ["a Chromium (chromium, chromium-browser, google-chrome) on the path"]
    missing += [] if find_spec("playwright") else ["playwright"]
    if missing:
        needed = os.environ.get("CI") or os.environ.get("NEEDS_BROWSER")
        (pytest.fail if needed else pytest.skip)(f"pages are tested with {' and '.join(missing)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


ROWS = "[...document.querySelectorAll('#levels tr')].map(row => [...row.cells].map(cell => cell.textContent))"
Opened = Callable[..., Any]


@pytest.fixture
def opened(browser: Any) -> Iterator[Opened]:
    """Opens a page from the disk; in the end no page has complained or asked for anything outside."""
    contexts, told, asked, pages = [], [], [], set()

    def open_(path: Path, *beside: Path, **options: Any) -> Any:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(60_000)
        tab.on(
            "console",
            lambda message: told.append(message.text) if message.type in ("error", "warning") else None,
        )
        tab.on("pageerror", lambda error: told.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        pages.update(each.as_uri() for each in (path, *beside))
        tab.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            tab.wait_for_selector("html[data-ready]")
        return tab

    yield open_
    for context in contexts:
        context.close()
    assert told == []
    assert {url for url in asked if not url.startswith("data:")} == pages


def panel(tab: Any) -> dict[str, str]:
    """What the panel says: name -> value."""
    names, values = tab.locator("#looking-facts dt"), tab.locator("#looking-facts dd")
    told = dict(zip(names.all_inner_texts(), values.all_inner_texts(), strict=True))
    return {"word": tab.inner_text("#looking-word"), "token": tab.inner_text("#looking-token"), **told}


def waits_for(tab: Any, answer: str, token: int) -> dict[str, str]:
    tab.wait_for_selector(f'#looking-at[data-answer="{answer}"][data-token="{token}"]')
    return panel(tab)


def percent(value: float) -> str:
    return "<0.1" if 0 < value < 0.0005 else f"{100 * value:.1f}"


def test_hovering_shows_the_numbers_of_the_trace(
    real: Mapping[str, Trace], tmp_path: Path, opened: Opened
) -> None:
    tab = opened(written(tmp_path, real, image=Image.new("RGB", (40, 30), "green")))
    assert tab.evaluate("document.querySelector('img').naturalWidth") == 40
    for number, (name, trace) in enumerate(real.items()):
        assert trace.prob is not None
        assert trace.top_ids is not None
        assert trace.top_probs is not None
        for token in (0, 4, 9):
            tab.hover(f"#w{number}-{token}")
            told = waits_for(tab, name, token)
            assert told["token"] == f"{name}, token {token}, id {int(trace.tokens[0, token])}"
            assert told["Risk"].startswith(f"{float(trace.risk[0, token]):.2f}: ")
            mutated = trace.mutated[0, token].nonzero().flatten().tolist()
            fired = bool(trace.fired[0, token])
            assert told["Detector"] == (
                f"fired: {'block' if len(mutated) == 1 else 'blocks'} {', '.join(map(str, mutated))} mutated"
                if fired
                else "did not fire"
            )
            rows = tab.evaluate(ROWS)
            assert len(rows) == 1 + 1 + trace.depth + 1
            for readout, row in zip(range(trace.depth, -1, -1), rows[2:], strict=True):
                assert int(re.findall(r"^\d+", row[0])[0]) == readout
                assert row[1].strip() == (f"{float(trace.js[0, token, readout - 1]):.3f}" if readout else "")
                assert row[2] == percent(float(trace.prob[0, token, readout]))
                best = float(trace.top_probs[0, token, readout, 0])
                assert row[3].endswith(f" {percent(best)}")
                assert row[3].startswith(str(trace.names[int(trace.top_ids[0, token, readout, 0])]))  # type: ignore[index]
            drawn = "name => Bokeh.documents.map(d => d.get_model_by_name(name)).find(Boolean).data.v"
            assert tab.evaluate(f"({drawn})('js-bars')") == pytest.approx(trace.js[0, token].tolist())
            assert tab.evaluate(f"({drawn})('prob-word')") == pytest.approx(trace.prob[0, token].tolist())


def test_pages_of_one_folder_may_share_their_script(tmp_path: Path, opened: Opened) -> None:
    library = tmp_path / "bokeh.js"
    page.write_library(library)
    path = written(tmp_path, {"greedy": made_up(9)}, library=library.name)
    tab = opened(path, library)
    tab.hover("#w0-3")
    waits_for(tab, "greedy", 3)
    assert path.stat().st_size < 400_000
    assert "from anywhere but the folder that it is in" in tab.inner_text("footer")


def test_a_click_pins_and_escape_lets_go(real: Mapping[str, Trace], tmp_path: Path, opened: Opened) -> None:
    tab = opened(written(tmp_path, real))
    tab.click("#w0-3")
    tab.hover("#w0-6")
    tab.wait_for_timeout(200)
    assert waits_for(tab, "greedy", 3)
    assert tab.get_attribute("#w0-3", "aria-selected") == "true"
    tab.keyboard.press("Escape")
    assert tab.get_attribute("#w0-3", "aria-selected") == "false"
    tab.hover("#w1-2")
    waits_for(tab, "contrast", 2)
    tab.click("#w1-2")
    tab.click("#w2-5")
    waits_for(tab, "skip", 5)
    assert tab.locator('[aria-selected="true"]').evaluate_all("all => all.map(one => one.id)") == ["w2-5"]
    tab.click("#looking-free")
    assert tab.locator('[aria-selected="true"]').count() == 0


def test_every_word_is_reached_by_keyboard(real: Mapping[str, Trace], tmp_path: Path, opened: Opened) -> None:
    tab = opened(written(tmp_path, real))
    focused = "document.activeElement.id"
    tab.keyboard.press("Tab")
    assert tab.evaluate(focused) == "w0-0"
    for token in range(1, 10):
        tab.keyboard.press("ArrowRight")
        assert tab.evaluate(focused) == f"w0-{token}"
    waits_for(tab, "greedy", 9)
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate(focused) == "w0-9"
    tab.keyboard.press("Home")
    tab.keyboard.press("ArrowDown")
    below = int(tab.evaluate(focused).removeprefix("w0-"))
    top = "id => document.getElementById(id).getBoundingClientRect().top"
    assert tab.evaluate(top, f"w0-{below}") > tab.evaluate(top, "w0-0") + 10
    tab.keyboard.press("ArrowUp")
    assert tab.evaluate(focused) == "w0-0"
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    tab.keyboard.press("End")
    tab.wait_for_timeout(200)
    waits_for(tab, "greedy", 1)
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("Escape")
    tab.keyboard.press("ArrowLeft")
    waits_for(tab, "greedy", 8)
    tab.keyboard.press("Space")
    assert tab.get_attribute("#w0-8", "aria-selected") == "true"
    stops = []
    while not stops or stops[-1] != "BODY":  # past the last one
        tab.keyboard.press("Tab")
        stops.append(tab.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert stops[:2] == ["w1-0", "w2-0"]
    assert stops[2:] == ["INPUT", "looking-free", "DIV", *["SUMMARY"] * 3, "BODY"]


def test_words_say_to_a_screen_reader_what_they_are(
    real: Mapping[str, Trace], tmp_path: Path, opened: Opened
) -> None:
    tab = opened(written(tmp_path, real, marked={"contrast": [[1]]}))
    tree = tab.locator("#answer-1").aria_snapshot()
    assert tree.startswith('- listbox "Answer contrast, word by word"')
    risk = float(real["contrast"].risk[0, 1])
    assert re.search(rf'option "w\d+, risk {risk:.2f}(, differs)?, marked"', tree)
    tab.click("#w1-1")
    tab.wait_for_function("document.getElementById('told').textContent")
    assert re.fullmatch(r"w\d+: Risk .*, Detector .*, Strategy .*", tab.text_content("#told"))


def test_a_cell_of_the_map_selects_its_word(tmp_path: Path, opened: Opened) -> None:
    trace = made_up(300)
    tab = opened(written(tmp_path, {"long": trace}))
    place = """([t, block]) => {
        const views = Object.values(Bokeh.index).flatMap(each => each.roots ?? [each]);
        const view = views.find(each => each.model.name === "map");
        const box = view.canvas.events_el.getBoundingClientRect();
        return [box.x + view.frame.x_scale.compute(t + .5), box.y + view.frame.y_scale.compute(block)];
    }"""
    tab.locator("#map").scroll_into_view_if_needed()
    part = tab.inner_text("#map-part").split()
    assert part[3:] == ["of", "300", "tokens"]
    cells = "name => Bokeh.documents.map(d => d.get_model_by_name(name)).find(Boolean).data"
    drawn = tab.evaluate(f"({cells})('map-cells')")
    start, stop = int(part[0]), int(part[2]) + 1
    assert drawn["v"] == pytest.approx(trace.js[0, start:stop].flatten().tolist())
    x, y = tab.evaluate(place, [7, 20])
    tab.mouse.move(x, y)
    tab.wait_for_function("document.getElementById('map-cell').textContent")
    assert tab.inner_text("#map-cell").endswith(f"block 20: {float(trace.js[0, start + 7, 20]):.3f} nats")
    tab.mouse.click(x, y)
    tab.wait_for_selector(f'#w0-{start + 7}[aria-selected="true"]')
    waits_for(tab, "long", start + 7)
    tab.keyboard.press("Escape")
    tab.click("#map-back" if start else "#map-on")
    shown = int(tab.inner_text("#map-part").split()[0])
    assert abs(shown - start) == stop - start
    tab.locator("#map").scroll_into_view_if_needed()
    tab.mouse.click(*tab.evaluate(place, [2, 3]))
    waits_for(tab, "long", shown + 2)


def test_a_page_of_300_tokens_is_small_and_opens(tmp_path: Path, opened: Opened) -> None:
    path = written(tmp_path, {"greedy": made_up(300), "contrast": made_up(299)})
    assert path.stat().st_size < 3_000_000
    tab = opened(path)
    tab.hover("#w1-298")
    waits_for(tab, "contrast", 298)


def test_4000_tokens_stay_usable(tmp_path: Path, opened: Opened) -> None:
    tab = opened(written(tmp_path, {"long": made_up(4000)}))
    tab.focus("#w0-0")
    tab.keyboard.press("End")
    waits_for(tab, "long", 3999)
    assert tab.inner_text("#map-part").endswith("to 3999 of 4000 tokens")
    assert tab.locator("#w0-3999").is_visible()
    drawn = tab.evaluate(
        "Bokeh.documents.map(d => d.get_model_by_name('map-cells')).find(Boolean).data.v.length"
    )
    assert drawn < 100 * 32


def test_an_answer_without_tokens_says_so(tmp_path: Path, opened: Opened) -> None:
    tab = opened(written(tmp_path, {"nothing": made_up(0), "some": made_up(3)}))
    assert "has no tokens" in tab.inner_text("section[aria-labelledby=name-0]")
    tab.hover("#w1-1")
    waits_for(tab, "some", 1)
    alone = opened(written(tmp_path, {"nothing": made_up(0)}))
    assert "has no tokens" in alone.inner_text("main")
    assert alone.locator("#map").count() == 0


def test_a_trace_without_a_record_is_shown_without_probabilities(
    one: Family, tmp_path: Path, opened: Opened
) -> None:
    trace = traced(one, Contrast(alpha=1.5), one.detector, record=True)
    tab = opened(written(tmp_path, {"bare": trace}))
    tab.hover("#w0-2")
    told = waits_for(tab, "bare", 2)
    assert "Probability" not in told
    assert tab.is_visible("#looking-bare")
    assert not tab.is_visible("#prob")
    assert not tab.is_visible("text=Probability by readout")


def test_text_of_every_kind_stays_text_in_the_panel(
    real: Mapping[str, Trace], tmp_path: Path, opened: Opened
) -> None:
    token = next(t for t, each in enumerate(real["greedy"].tokens[0].tolist()) if each % 7 == 0)
    tab = opened(
        written(tmp_path, {ODD: real["greedy"], "שלום": made_up(4, texts=("שלום", " עולם", " 🐈", "\n"))})
    )
    tab.hover(f"#w0-{token}")
    tab.wait_for_selector(f'#looking-at[data-token="{token}"]')
    assert tab.inner_text("#looking-word") == ODD
    assert tab.locator("#looking script, #looking b").count() == 0
    tab.focus("#w1-0")
    tab.keyboard.press("ArrowLeft")  # onwards, where one reads from right to left
    assert waits_for(tab, "שלום", 1)["word"] == "עולם"


def test_without_scripts_there_is_text_and_a_table(
    real: Mapping[str, Trace], tmp_path: Path, opened: Opened
) -> None:
    tab = opened(written(tmp_path, real), java_script_enabled=False)
    assert not tab.is_visible("#looking")
    assert not tab.is_visible(".map")
    assert tab.is_visible("#w0-0")
    tab.click("details >> nth=0 >> summary")
    assert tab.locator("details >> nth=0").locator("tbody tr").count() == 10
    assert tab.is_visible("details >> nth=0 >> tbody tr >> nth=9")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_are_readable_on_every_tint(tmp_path: Path, opened: Opened, scheme: str) -> None:
    """A contrast of 4.5, as WCAG 2 AA asks of text."""
    tab = opened(written(tmp_path, {"a": made_up(2)}), color_scheme=scheme)
    colours = tab.evaluate(
        """() => [0, 1, 2, 3, 4, 5].map(level => {
            const word = document.querySelector("#w0-0");
            word.className = `w r${level}`;
            const {color, backgroundColor} = getComputedStyle(word);
            return [color, level ? backgroundColor : getComputedStyle(document.body).backgroundColor];
        })"""
    )
    contrasts = [contrast(*(rgb(each) for each in pair)) for pair in colours]
    assert min(contrasts) > 4.5
    assert contrasts == sorted(contrasts, reverse=True)


def rgb(text: str) -> list[float]:
    return [int(part) / 255 for part in json.loads(f"[{text[4:-1]}]")]


def contrast(one: list[float], other: list[float]) -> float:
    """As in WCAG 2."""
    light = [
        sum(
            w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
            for w, c in zip((0.2126, 0.7152, 0.0722), colour, strict=True)
        )
        for colour in (one, other)
    ]
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_on_a_phone_the_panel_comes_when_a_word_is_touched(
    real: Mapping[str, Trace], tmp_path: Path, opened: Opened
) -> None:
    tab = opened(written(tmp_path, real), viewport={"width": 390, "height": 800}, has_touch=True)
    assert not tab.is_visible("#looking")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.tap("#w0-4")
    waits_for(tab, "greedy", 4)
    word, sheet = tab.locator("#w0-4").bounding_box(), tab.locator("#looking").bounding_box()
    assert 0 < word["y"] < word["y"] + word["height"] < sheet["y"] < 800
    tab.tap("#looking-free")
    assert not tab.is_visible("#looking")
