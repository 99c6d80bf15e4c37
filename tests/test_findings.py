"""What watched answers come to: words, AUROCs, verdicts and proposals, on answers made by hand."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled import tokenizer, word
from scipy.stats import bootstrap, mannwhitneyu

from mutation_decode import Contrast, Findings, Skip
from mutation_decode.findings import _verdict, find
from mutation_decode.observe import Observation
from mutation_decode.propose import propose
from mutation_decode.resampling import Interval, auroc, draws, interval, ratio
from mutation_decode.words import Vocabulary, read

DEPTH, IMAGES = 12, 40
CORRECT, INVENTED, FILLER = 50, 60, 70
TOKENIZER = tokenizer()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A dog, two Cats and a DINING  table.", ["dog", "cat", "dining table"]),
        ("dogs buses box boxes; hotdog doggy dog's", ["dog", "bus", "box", "box", "dog"]),
        ("a hot dog on a table near the dining tables", ["hot dog", "table", "dining table"]),
        ("glass", ["glass"]),
        ("\u0130 a CAT, d\u0131ning table, box, cat\u017f", ["cat", "table", "box"]),
        ("", []),
    ],
)
def test_object_words_are_whole_words_and_the_longest_wins(text: str, named: list[str]) -> None:
    names = ["Dog", "cat", "dining table", "table", "hot dog", "bus", "box", "glass", "glas"]
    found = Vocabulary.of(names)(text)
    assert [name for name, _ in found] == named
    for name, start in found:
        assert text[start:].lower().startswith(name[:3])


@pytest.mark.parametrize("names", [[], ["dog", " "]])
def test_a_vocabulary_without_words_is_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="there is none, or an empty one"):
        Vocabulary.of(names)


def test_the_first_token_of_a_word_decides_for_it() -> None:
    class Pieces:
        """Joins pieces as byte-level tokenizers do: a blank belongs to the word that follows."""

        pieces = ("A", " di", "ning", " table", " and", " cat", "s", "</s>")

        def decode(self, ids: list[int], skip_special_tokens: bool, **_: Any) -> str:
            assert skip_special_tokens
            return "".join(self.pieces[i] for i in ids if i != 7)

    answer = read(range(8), {"Cat"}, Pieces(), Vocabulary.of(["dining table", "cat"]))
    assert answer.text == "A dining table and cats"
    assert (answer.named, answer.right, answer.deciding) == (("dining table", "cat"), (False, True), (1, 5))
    kinds = ["other", "hallucinated", *["other"] * 3, "correct", "other", "other"]
    assert answer.kinds() == kinds


def test_bytes_that_come_to_be_one_letter_decide_for_no_word_after_it() -> None:
    class Bytes:
        """Every byte of an unfinished letter stands for itself, as where sentencepiece falls back to them."""

        pieces = (*(bytes([byte]) for byte in "\N{DOG FACE}".encode()), b"dog", b"s")

        def decode(self, ids: list[int], **_: Any) -> str:
            joined = b"".join(self.pieces[i] for i in ids)
            try:
                return joined.decode()
            except UnicodeDecodeError:
                return "\N{REPLACEMENT CHARACTER}" * len(joined)

    answer = read(range(6), {"dog"}, Bytes(), Vocabulary.of(["dog"]))
    assert (answer.text, answer.named, answer.deciding) == ("\N{DOG FACE}dogs", ("dog",), (4,))


def test_names_are_several() -> None:
    with pytest.raises(ValueError, match=r"several names of objects, got the text 'dog'; write \['dog'\]"):
        read([FILLER], "dog", TOKENIZER, Vocabulary.of(["dog"]))
    with pytest.raises(ValueError, match="got the text 'dog'"):
        Vocabulary.of("dog")


words = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30)


@given(words)
def test_auroc_is_the_statistic_of_mann_and_whitney(drawn: list[tuple[int, bool, int]]) -> None:
    scores, positive, image = (np.array(column) for column in zip(*drawn, strict=True))
    found = auroc(scores.astype(float), positive, image, draws(4, resamples=3))
    if positive.all() or not positive.any():
        assert np.isnan(found).all()
        return
    good, bad = scores[positive], scores[~positive]
    assert found[0] == pytest.approx(mannwhitneyu(good, bad).statistic / len(good) / len(bad))
    # A draw with repetition is the same as writing the images down as often as they were drawn.
    weights = draws(4, resamples=3)[1].astype(int)
    again = np.repeat(np.arange(len(scores)), weights[image])
    good, bad = scores[again][positive[again]], scores[again][~positive[again]]
    if len(good) and len(bad):
        assert found[1] == pytest.approx(mannwhitneyu(good, bad).statistic / len(good) / len(bad))


def test_auroc_by_hand() -> None:
    image, one = np.zeros(4, int), np.ones((1, 1))
    bad = np.array([True, True, False, False])
    for scores, wanted in (
        ([3, 4, 1, 2], 1.0),
        ([1, 2, 3, 4], 0.0),
        ([1, 1, 1, 1], 0.5),
        ([2, 4, 1, 3], 0.75),
    ):
        assert auroc(np.array(scores, float), bad, image, one)[0] == wanted


def test_intervals_are_those_of_scipys_bootstrap() -> None:
    rng = np.random.default_rng(5)
    above, below = rng.integers(0, 3, 60), rng.integers(3, 6, 60)
    told = interval(ratio(above, below, draws(60, resamples=5000, seed=1)))
    end = bootstrap(
        (above, below),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=5000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert told.value == above.sum() / below.sum()
    assert (told.low, told.high) == pytest.approx((end.low, end.high), abs=0.01)
    nothing = interval(np.array([math.nan, 1.0]))
    assert math.isnan(nothing.value)
    assert nothing.plain() == [None, None, None]


def made(style: str, images: int = IMAGES) -> Findings:
    """Answers of a filler, a correct and an invented word, and a filler again, of models of twelve blocks."""
    rng = np.random.default_rng(0)
    observed, answers = [], []
    before = {FILLER: CORRECT, CORRECT: FILLER, INVENTED: CORRECT}  # what leads until they do
    for _ in range(images):
        tokens = np.array([FILLER, CORRECT, INVENTED, FILLER])
        js = rng.uniform(0, 0.02, (4, DEPTH))
        js[1:3, 6] += 0.3  # both are settled in block 6
        first = {FILLER: 1, CORRECT: 7, INVENTED: 7}
        if style == "late":
            js[2, 9:11] += rng.uniform(0.1, 0.3, 2)
            first[INVENTED] = 11
        if style == "early":
            js[1, 9:] += rng.uniform(0.1, 0.3, 3)
            js[2, 3] += 0.2
            first[CORRECT], first[INVENTED] = 11, 5
        leaders = np.array([np.where(np.arange(DEPTH + 1) < first[t], before[t], t) for t in tokens])
        observed.append(
            Observation(
                tokens=tokens,
                js=js,
                leaders=leaders,
                log_probs=np.zeros((4, DEPTH + 1)),
                entropy=rng.uniform(0, 0.1, 4) + 0.3 * (tokens == INVENTED),
                max_prob=1 - rng.uniform(0, 0.01, 4) - 0.3 * (tokens == INVENTED),
            )
        )
        vocabulary = Vocabulary.of([word(CORRECT), word(INVENTED)])
        answers.append(read(tokens.tolist(), {word(CORRECT)}, TOKENIZER, vocabulary))
    return find(observed, answers, TOKENIZER, resamples=200)


@pytest.mark.parametrize("style", ["late", "early", "none"])
def test_the_verdict_is_what_was_built_in(style: str) -> None:
    found = made(style)
    assert found.verdict == style
    assert found.counts == {"hallucinated": IMAGES, "correct": IMAGES, "other": 2 * IMAGES}
    assert found.signs["entropy"].value == found.signs["1 - p"].value == 1.0
    if style == "late":
        assert found.signs["risk"].low > 0.95
        assert found.window == (7, 12)  # after the block that both are settled in; the widest of equals
        assert [b.value > 0.9 for b in found.blocks] == [9 <= i <= 10 for i in range(DEPTH)]
        assert found.signs["early lead"].value == 0.0
    if style == "early":
        assert found.signs["early lead"].value == 1.0
        assert found.signs["late js"].value == 0.0
    if style == "none":
        assert found.signs["early lead"].value == 0.5


def test_late_blocks_that_work_for_correct_words_are_an_early_prior_too() -> None:
    near, half = Interval(0.2, 0.1, 0.3), Interval(0.5, 0.4, 0.6)
    assert _verdict({"risk": half, "late js": near, "early lead": half}) == "early"
    both = {"risk": Interval(0.7, 0.65, 0.8), "late js": half, "early lead": Interval(0.9, 0.8, 1.0)}
    assert _verdict(both) == "early"  # the surer sign of two


@pytest.mark.parametrize("style", ["late", "early"])
def test_few_words_conclude_nothing(style: str) -> None:
    assert made(style, 19).verdict == "none"
    assert made(style, 20).verdict == style


def test_no_block_takes_the_lead_that_the_embeddings_have() -> None:
    found = made("early")
    leads = {**found.leads, "hallucinated": np.array([0.9, *[0.2] * DEPTH]), "correct": np.full(13, 0.1)}
    sets = {each.strategy.layers for each in propose(replace(found, leads=leads), "skip")}
    assert sets == {None}
    assert propose(replace(found, leads=leads), "contrast")[0].strategy.layer == 0


def test_curves_and_risk() -> None:
    found = made("late")
    assert found.leads["hallucinated"].tolist() == [0.0] * 11 + [1.0] * 2
    assert found.leads["correct"].tolist() == found.shown_leads["correct"].tolist() == [0.0] * 7 + [1.0] * 6
    assert found.shown_leads["hallucinated"].tolist() == [1.0] * 11 + [0.0] * 2
    assert found.js["correct"][6] > 0.3
    bad = found.tokens.kind == "hallucinated"
    risk = found.risk()
    assert 0 <= risk.min() <= risk.max() <= 1
    assert risk[bad] == pytest.approx(found.tokens.js[bad, 9:].max(axis=1) / math.log(2))
    assert found.tells(risk) == found.signs["risk"]
    with pytest.raises(ValueError, match=r"expected scores \(160,\), got \(3,\)"):
        found.tells(np.zeros(3))


def test_late_proposals_look_where_the_blocks_tell() -> None:
    found = made("late")
    for each in propose(found, "contrast"):
        assert isinstance(each.strategy, Contrast)
        assert each.strategy.alpha in {1.0, 1.5}
        assert each.strategy.layer is None
        assert each.gate is None
        assert abs(each.detector.critical - found.window[0]) <= 1
    first = propose(found, "skip")[0]
    assert isinstance(first.strategy, Skip)
    assert first.strategy.layers == tuple(range(*found.window))
    js = found.tokens.js[:, slice(*found.window)].max(axis=1)
    assert (js[found.tokens.kind == "hallucinated"] > first.detector.threshold).all()
    assert (js[found.tokens.kind == "correct"] > first.detector.threshold).mean() <= 0.12


def test_early_proposals_push_away_from_where_invented_words_lead_or_leave_out_how_they_come_to() -> None:
    found = made("early")
    for each in propose(found, "contrast"):
        assert isinstance(each.strategy, Contrast)
        assert each.strategy.alpha < 0
        assert 5 <= each.strategy.layer <= 10
        assert each.gate is not None
        assert each.gate.max_prob < 0.99
    sets = {each.strategy.layers for each in propose(found, "skip")}
    assert (4,) in sets  # readout 5 is the first at which they lead
    assert None in sets  # the paper's skip.1


@pytest.mark.parametrize("style", ["late", "early", "none"])
@pytest.mark.parametrize("remedy", ["contrast", "skip"])
def test_proposals_are_few_alike_each_time_and_fire_on_fewer_than_half_of_the_tokens(
    style: str, remedy: str
) -> None:
    found = made(style)
    all_of_them = propose(found, remedy)
    assert 3 < len(all_of_them) <= 12
    assert len(set(all_of_them)) == len(all_of_them)
    assert all_of_them == made(style).propose(remedy)
    assert propose(found, remedy, 2) == all_of_them[:2]
    for each in all_of_them:
        assert each.strategy.readouts(DEPTH) is not None
        blocks = each.detector.blocks(DEPTH)
        fires = (found.tokens.js[:, blocks.start : blocks.stop] > each.detector.threshold).any(axis=1)
        if each.gate is not None:
            fires &= found.tokens.max_prob < each.gate.max_prob
        assert fires.mean() < 0.5
    if style == "none" and remedy == "contrast":
        assert {each.strategy.alpha > 0 for each in all_of_them} == {True, False}


def test_without_words_of_one_kind_there_is_no_verdict() -> None:
    one = Observation(**empty())
    answer = read([FILLER], {word(CORRECT)}, TOKENIZER, Vocabulary.of([word(CORRECT)]))
    nothing = find([one], [answer], TOKENIZER, resamples=10)
    assert nothing.verdict == "none"
    assert nothing.to_json()["auroc"]["risk"] == [None, None, None]
    assert propose(nothing, "contrast")
    assert propose(nothing, "skip")


def empty() -> dict[str, np.ndarray]:
    """One filler."""
    return {
        "tokens": np.array([FILLER]),
        "js": np.full((1, DEPTH), 0.1),
        "leaders": np.full((1, DEPTH + 1), FILLER),
        "log_probs": np.zeros((1, DEPTH + 1)),
        "entropy": np.array([0.1]),
        "max_prob": np.array([0.9]),
    }


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="expected answers, watched and read, got 0 and 0"):
        find([], [], TOKENIZER)
    with pytest.raises(ValueError, match=r"expected contrast or skip and at least one .* 'dola' and 12"):
        propose(made("late"), "dola")
    with pytest.raises(ValueError, match="'skip' and 0"):
        propose(made("late"), "skip", 0)
