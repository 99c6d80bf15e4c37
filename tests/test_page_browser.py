"""The page of an answer in a headless Chromium that opens it from the disk."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from families import Family
from page_traces import ODD, made_up, real_answers, traced, written
from PIL import Image

from mutation_decode import Contrast, Trace

pytest.importorskip("bokeh", reason="the page needs bokeh")

from mutation_decode import page


@pytest.fixture(scope="module")
def real(one: Family) -> Mapping[str, Trace]:
    return real_answers(one)


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
