"""The page, from real runs of a few scenes: every figure on it is what the comparison and the pools say."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from PIL import Image

from benchmarks.evidence import curriculum, document, page, verdicts, words
from benchmarks.evidence.answers import DIAGNOSIS, KEPT, Training, keep, unpack, unpacked
from benchmarks.evidence.page import AIM, CONTROL, LATE
from benchmarks.evidence.trainings import pooled
from benchmarks.evidence.versus import OURS, OUTSIDE, PEERS, compared, drawn_again, validated
from benchmarks.statistics import Interval

NAMES = [name for names in (PEERS | OUTSIDE).values() for name in names]
TINY = ["tuning.task.n=6", "tuning.task.max_new_tokens=16", "task.miniature-chair.max_new_tokens=16",
        "bootstrap.resamples=50", "generation.batch_size=8", "pictures.worst=0"]  # fmt: skip
SHORT = ["task.miniature-chair.n=2", "tuning.task.max_new_tokens=10"]
ONE = {
    "dola-low": "plausibility:[0.1],norm:[false]",
    "dola-high": "plausibility:[0.1],norm:[false]",
    "deco": "alpha:[0.6],top_p:[0.9],last:[0.875]",
    "sled": "rate:[2.0],first:[0],norm:[false]",
    "vcd": "alpha:[1.0],beta:[0.1],noise_step:[500]",
    "icd": "alpha:[1.0],beta:[0.1]",
    "m3id": "decay:[0.02],confident:[0.3],beta:[0.0]",
    "pai": "gamma:[1.1],beta:[0.1]",
    "confident": "window:[0.3125],shift:[0,-1]",
    "calrd": "strength:[1.0],onset:[null],norm:[true]",
}
DETECTORS = {
    "threshold": "alpha:[1.0],detector:{threshold:[0.05]}",
    "window": "alpha:[1.0],detector:{critical:[0.5],include_last:[true]}",
    "paper": "alpha:[1.0]",
    "divergence": "alpha:[1.0],detector:{divergence:[kl]}",
    "norm": "alpha:[1.0],norm:[false]",
    "gate": "alpha:[1.0],gate:{max_prob:[null],changed:[true]}",
    "direction": "alpha:[1.0],gate:{toward:[text]}",
    "part": "alpha:[1.0],gate:{part:[objects]}",
    "jsd": "alpha:[1.0],gate:{above:[0.02]}",
    "released": "alpha:[1.0],gate:{above:[0.02]}",
}


def harness(*given):
    done = subprocess.run([sys.executable, "-m", "benchmarks", *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What `make evidence` runs, with few methods, settings and scenes, and none of the test's."""
    runs = tmp_path_factory.mktemp("evidence")
    methods = ["greedy", *NAMES, page.CEILING, *OURS]
    harness(
        "experiment=evidence", f"folder={runs / 'training-0'}", f"method=[{','.join(methods)}]", *TINY,
        "task.miniature-chair.n=8", "task.miniature-chair.split=validation", "task.miniature-chair.seed=2",
        "tuning.budget=2", *(f"method.{name}.tune={{{lists}}}" for name, lists in ONE.items()),
    )  # fmt: skip
    harness(
        "experiment=alpha-layer", f"folder={runs / 'alpha-layer'}", *TINY, *SHORT,
        "method.alpha-layer.tune={alpha:[-1.0,1.0],layer:[1,9]}",
    )  # fmt: skip
    harness(
        "experiment=detectors", f"folder={runs / 'detectors'}", *TINY, *SHORT,
        *(f"method.{name}.tune={{{lists}}}" for name, lists in DETECTORS.items()),
    )  # fmt: skip
    return runs


@pytest.fixture(scope="module")
def trainings(runs):
    """The run, and the same answers once more as those that are kept of another training."""
    first = Training(0, runs / "training-0")
    verdicts.diagnosed(first)
    keep(replace(first, number=1), runs / "kept")
    return [first, unpacked(1, runs / "unpacked", runs / "kept")]


@pytest.fixture(scope="module")
def told(runs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "RUNS", runs)
        words.main()
        before = (runs / "words.json").stat().st_mtime_ns
        words.main()
        assert (runs / "words.json").stat().st_mtime_ns == before, "what is there is not made again"
        return words.read()


@pytest.fixture(scope="module")
def written(runs, trainings, told, tmp_path_factory):
    docs = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "RUNS", runs)
        patch.setattr(words, "RUNS", runs)
        patch.setattr(document, "DOCS", docs)
        return document.write(trainings)


def rows(text, heading, *, after=""):
    """The cells of the table whose first header row begins with ``heading``."""
    lines = text[text.index(after) :].splitlines()
    start = next(k for k, line in enumerate(lines) if re.match(rf"\| {re.escape(heading)} *\|", line))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_the_page_shows_every_part_and_its_pictures_are_there(written):
    text = written.read_text("utf-8")
    assert page.PROTOCOL.read_text("utf-8").strip() in text
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert len(pictures) == len(set(pictures)) == 6
    for picture in pictures:
        with Image.open(written.parent / picture) as image:
            assert min(image.size) > 400
    assert {path.name for path in (written.parent / "evidence").iterdir()} == {
        picture.split("/")[1] for picture in pictures
    }
    assert "nan" not in text
    assert not [line for line in text.splitlines() if line.rstrip() != line]


def test_the_aims_are_the_figures_of_each_training(written, trainings):
    found = rows(written.read_text("utf-8"), "model", after="## What was aimed at")
    named = {LATE: (*OURS, page.CEILING), CONTROL: OURS}
    expected = [(model, name, t) for model in named for name in named[model] for t in trainings]
    assert [row[:3] for row in found] == [[m, name, str(t.number)] for m, name, t in expected]
    for row, (model, name, training) in zip(found, expected, strict=True):
        own, plain = (training.figures(model, each) for each in (name, "greedy"))
        values, gaps = pooled([own], [plain])
        bounds, _ = pooled([plain])
        assert row[3] == page.span(gaps["CHAIR_i"], signed=True)
        assert row[4] == f"{100 * gaps['CHAIR_i'].value / bounds['CHAIR_i'].value:+.0f} %"
        assert row[5] == page.span(gaps["recall"], signed=True)
        assert row[7] == f"{values['fired'].value:.1f} %"
        if name == page.CEILING:
            assert row[8:] == ["ceiling", "ceiling"]
        elif not training.tuning[model]["methods"][name]["knobs"]:
            assert row[8:] == [page.NOTHING, page.NOTHING]
            assert gaps["CHAIR_i"].value == 0


def test_the_peers_table_is_the_comparison(written, trainings):
    text = written.read_text("utf-8")
    comparisons = compared(trainings, (LATE, CONTROL))
    assert len(comparisons) == 2 * len(PEERS)
    found = rows(text, "model", after="## Against the peers")
    for row, each in zip(found, comparisons, strict=True):
        assert row[:2] == [each.model, each.peer + (f" ({each.theirs[0]})" if each.peer == "DoLa" else "")]
        assert row[2] == f"{each.published} of 2"
        assert row[3] in OURS
        gaps = pooled(
            [t.figures(each.model, row[3]) for t in trainings],
            [t.figures(each.model, each.theirs[0]) for t in trainings],
        )[1]
        assert row[4] == page.span(gaps["CHAIR_i"], signed=True)
        alone = [
            pooled([t.figures(each.model, row[3])], [t.figures(each.model, each.theirs[0])])[1]["CHAIR_i"]
            for t in trainings
        ]
        assert row[5] == " / ".join(f"{gap.value:+.1f}" for gap in alone)
        assert row[6] == page.span(gaps["recall"], signed=True)
        assert row[7:] == [f"{each.holm:.2g}", f"**{each.verdict}**"]
    counts = [
        f"{sum(r[0] == LATE and r[8] == f'**{v}**' for r in found)} {v}" for v in ("win", "tie", "loss")
    ]
    assert f"{LATE}: {', '.join(counts)}; {CONTROL}: " in text


def test_a_peer_outside_of_the_protocol_is_compared_alike(written, trainings):
    found = rows(written.read_text("utf-8"), "model", after="### Outside the fixed comparison")
    for row, model in zip(found, (LATE, CONTROL), strict=True):
        own, other = ([t.figures(model, name) for t in trainings] for name in (row[2], "icd"))
        assert row[:2] == [model, "ICD"]
        assert row[3] == page.span(pooled(own, other)[1]["CHAIR_i"], signed=True)


def test_a_close_call_is_drawn_again(trainings):
    told = compared(trainings, (LATE,))[0]
    assert drawn_again(trainings, told, 10_000) == pytest.approx(told.holm)
    near, far = (replace(told, holm=holm, p=holm) for holm in (0.043, 0.2))
    text = page.close_calls(trainings, [near, far])
    assert text.count("\n- ") == 1
    assert f"{told.peer} on {LATE}, a {near.verdict}: p 0.043 from the 10,000 exchanges" in text
    assert page.close_calls(trainings, [far]) == "None is near the level."


def test_verdicts_with_labels_and_without(written, trainings):
    text = written.read_text("utf-8")
    found = rows(text, "model", after="## What calibration and diagnosis say")
    agree = 0
    for row, (model, training) in zip(
        found, [(m, t) for m in (LATE, CONTROL) for t in trainings], strict=True
    ):
        labelled = json.loads((training.path / "calibration" / f"{model}.json").read_text("utf-8"))
        plain = json.loads((training.path / DIAGNOSIS).read_text("utf-8"))["models"][model]
        assert row[:3] == [model, str(training.number), labelled["verdict"]]
        assert row[3] == page.known(labelled["auroc"]["risk"][0])
        assert row[7] == plain["verdict"]
        assert plain["answers"] == 6
        agree += row[2] == row[7]
    assert f"The two agree on {agree} of 4 models." in text


def test_the_curriculum_is_told_from_its_kept_answers(written, tmp_path):
    text = written.read_text("utf-8")
    unpack(KEPT / "curriculum.tar.xz", tmp_path)
    run = Training(curriculum.SEED, tmp_path)
    told = {row[0]: row[1:] for row in rows(text, "calibration")}
    for place, model in enumerate(curriculum.MODELS):
        found = json.loads((tmp_path / "calibration" / f"{model}.json").read_text("utf-8"))
        assert told["verdict"][place] == found["verdict"]
        assert told["AUROC of late js"][place].startswith(f"{found['auroc']['late js'][0]:.3f}")
        methods = rows(text, "", after=f"### {model}\n")
        for row in methods:
            values, _ = pooled([run.figures(model, row[0])])
            assert row[1] == f"{values['CHAIR_i'].value:.1f}"
        assert [row[0] for row in methods] == [*run.config["method"]]


def test_every_method_has_its_line_for_each_model(written, trainings):
    text = written.read_text("utf-8")
    for model in (LATE, CONTROL):
        found = rows(text, "", after=f"### {model}\n")
        assert [row[0] for row in found] == ["greedy", *NAMES, page.CEILING, *OURS]
        for row in found:
            own = [training.figures(model, row[0]) for training in trainings]
            values, gaps = pooled(own, [training.figures(model, "greedy") for training in trainings])
            assert row[1:3] == [f"{values['CHAIR_i'].value:.1f}", page.span(gaps["CHAIR_i"], signed=True)]
            assert row[3] == " / ".join(f"{each['CHAIR_i'].value:.1f}" for each in own)
            assert row[4] == f"{values['recall'].value:.1f}"
            assert all(float(share) > 0 for share in row[-1].split(" / "))
        assert found[0][-1] == "1.00 / 1.00"


def test_the_risk_is_that_of_words(written, told):
    found = {row[0]: row[1:] for row in rows(written.read_text("utf-8"), "sign")}
    for sign, cells in found.items():
        for cell, model in zip(cells, (LATE, CONTROL), strict=True):
            figures = Interval(**told[model]["auroc"][sign])
            assert cell == page.span(figures, digits=3)


def test_ablations_show_every_setting_tried(written, runs):
    text = written.read_text("utf-8")
    tuning = json.loads((runs / "detectors" / "tuning.json").read_text("utf-8"))["models"]
    for name in document.ABLATIONS:
        found = rows(text, name)
        trials = [tuning[model]["methods"][name]["trials"] for model in (LATE, CONTROL)]
        assert len(found) == 1 + len(trials[0])
        for row, pair in zip(found[1:], zip(*trials, strict=True), strict=True):
            for cell, trial in zip(row[1:], pair, strict=True):
                chair = trial["figures"]["CHAIR_i"]
                told = "-" if chair is None else f"{chair:.1f}"
                assert cell.startswith(f"{told} ({trial['figures']['recall']:.0f},")


def test_a_setting_under_which_no_object_is_named_is_shown_without_a_figure():
    assert page._cell({"CHAIR_i": None, "recall": 0.0, "fired": 100.0}) == "- (0, 100 %)"


def aims_of(training, gap, *, knobs=True, recall=0.0):
    """The row of contrast when its CHAIR_i is greedy's less a share ``gap`` of it in every image."""

    class Made(Training):
        def figures(self, model, method):
            found = dict(Training.figures(self, model, "greedy"))
            if method != "greedy":
                chair = found["CHAIR_i"]
                found["CHAIR_i"] = replace(chair, numerator=chair.numerator * (1 + gap))
                shown = found["recall"]
                found["recall"] = replace(shown, numerator=shown.numerator * (1 + recall))
            return found

        @property
        def tuning(self):
            return {CONTROL: {"methods": {name: {"knobs": {"alpha": 1} if knobs else {}} for name in OURS}}}

    return next(page._aims([Made(training.number, training.path)], CONTROL))[-2:]


def test_the_aim_is_a_quarter_less_with_recall_no_lower(trainings):
    assert AIM == -0.25
    assert aims_of(trainings[0], -0.30) == ("yes", "yes")
    assert aims_of(trainings[0], -0.20) == ("yes", "no")
    assert aims_of(trainings[0], 0.10) == ("no", "no")
    assert aims_of(trainings[0], -0.30, recall=-0.01) == ("no", "no")
    assert aims_of(trainings[0], 0.0, knobs=False) == (page.NOTHING, page.NOTHING)


def test_a_peer_that_nothing_helped_is_judged_by_its_published_setting(trainings):
    """Of the two DoLas without a setting that qualifies it is the one that is better as published."""
    trial = trainings[0].tuning[CONTROL]["methods"]["dola-low"]["trials"][0]

    def made(trials, knobs):
        training = Training(0, trainings[0].path)
        training.__dict__["tuning"] = {CONTROL: {"methods": {"dola-low": {"knobs": knobs, "trials": trials}}}}
        return validated(training, CONTROL, "dola-low")

    other = {**trial, "knobs": {"plausibility": 0.5}, "figures": {**trial["figures"], "CHAIR_i": 1.0}}
    own = {**trial, "knobs": {"plausibility": 0.1}, "figures": {**trial["figures"], "CHAIR_i": 2.0}}
    assert made([other, own], {}) == (True, 2.0)
    assert made([other], {}) == (True, float("inf"))
    assert made([own, other], {"plausibility": 0.5}) == (False, 1.0)
