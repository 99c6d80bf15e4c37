"""The page of an answer, as text: what it says without a script, and what it refuses."""

import random
import re
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from families import Family
from page_traces import ODD, made_up, real_answers, written
from PIL import Image

from mutation_decode import Trace

pytest.importorskip("bokeh", reason="the page needs bokeh")

from mutation_decode import page
from mutation_decode.page.differing import differing


@pytest.fixture(scope="module")
def real(one: Family) -> Mapping[str, Trace]:
    return real_answers(one)


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
