"""Many runs in one table: what stands side by side, what is kept apart and said, and the picture."""

import io
import json
import re
import statistics
import subprocess
import sys

import pandas
import pytest
from conftest import ROOT
from matplotlib.figure import Figure
from PIL import Image

from benchmarks import frontier
from benchmarks.collect import collect, run
from benchmarks.usage import UsageError

CODE = {"the code": "a" * 64, "torch": "2.13.0", "transformers": "5.23.0"}
TASK = {"_target_": "t.Captions", "images": "/data/one", "list": None, "n": 500, "seed": 0, "after": 0}
TASK |= {"parser": "lenient", "max_new_tokens": 64}
MODEL = {"_target_": "m.Checkpoint", "dtype": "auto", "attention": None, "template": None, "processor": None}
GENERATION = {"batch_size": 8, "seed": 0, "max_new_tokens": 64, "unfinished": "keep"}


def row(
    method="contrast", *, chair_i=10.0, recall=80.0, n=500, model="m", task="t", difference=None, **knobs
):
    """A row as scores.json has it; ``stands_for`` and ``generation`` replace parts of what it says."""
    replaced, generation = knobs.pop("stands_for", {}), knobs.pop("generation", {})
    figures = {
        name: {"value": value, "low": value - 1, "high": value + 1, "difference": difference}
        for name, value in (("CHAIR_i", chair_i), ("recall", recall))
    }
    told = {
        "path": "org/m",
        "weights": "sha256:" + "1" * 64,
        "dtype": "float16",
        "data": "sha256:" + "2" * 64,
        "images": "sha256:" + "3" * 64,
        "pixels": "sha256:" + "4" * 64,
        "model": MODEL,
        "prompt": "USER: describe this image. ASSISTANT:",
        "task": TASK,
        "decoding": {"method": {"tune": {"alpha": [1]}, **knobs}, "generation": {**GENERATION, **generation}},
        "code": CODE,
    }
    names = {"model": model, "method": method, "task": task, "n": n}
    return {**names, "figures": figures, "mcnemar": {}, "stands_for": {**told, **replaced}}


@pytest.fixture
def runs(tmp_path):
    """Writes run folders; returns where."""

    def write(**folders):
        for name, rows in folders.items():
            folder = tmp_path / "runs" / name
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text("bootstrap: {level: 0.95}\n")
            (folder / "versions.json").write_text("{}")
            if rows is not None:
                (folder / "scores.json").write_text(json.dumps({"rows": rows}))
        return tmp_path / "runs"

    return write


def lines(text):
    """The first cells of a table's lines."""
    return re.findall(r"^\| (\S.*?) +\|", text, re.MULTILINE)


def test_runs_that_differ_in_decoding_alone_are_one_table_with_greedy_once(runs):
    text = collect(
        [
            runs(
                **{
                    f"r{i}": [row("greedy", chair_i=20.0), row(chair_i=20.0 - i, alpha=alpha, beta=0.1)]
                    for i, alpha in enumerate([2.0, 10.0, 0.5])
                }
            )
        ]
    )
    assert text.count("\n## ") == 1
    assert lines(text) == [
        *("greedy", "contrast (alpha=0.5)", "contrast (alpha=2.0)", "contrast (alpha=10.0)"),
    ]
    assert "org/m, sha256:111111111111, float16" in text
    assert "'USER: describe this image. ASSISTANT:'" in text
    assert "parser=lenient" in text
    assert "Not comparable" not in text
    assert "different code" not in text


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"stands_for": {"prompt": "Say it."}},
            "prompt: 'USER: describe this image. ASSISTANT:' there, 'Say it.'",
        ),
        ({"stands_for": {"data": "sha256:" + "9" * 64}}, "data: sha256:222222222222 there, sha256:9999"),
        ({"n": 499}, "number of images: 500 there, 499 here"),
        ({"stands_for": {"weights": "sha256:" + "9" * 64}}, "weights: sha256:111111111111 there"),
        ({"stands_for": {"dtype": "bfloat16"}}, "dtype: float16 there, bfloat16 here"),
        (
            {"stands_for": {"task": {**TASK, "parser": "official"}}},
            "task.parser: lenient there, official here",
        ),
        ({"stands_for": {"images": "sha256:" + "9" * 64}}, "images: sha256:333333333333 there, sha256:9999"),
        ({"stands_for": {"pixels": "sha256:" + "9" * 64}}, "pixels: sha256:444444444444 there, sha256:9999"),
        (
            {"stands_for": {"model": {**MODEL, "attention": "eager"}}},
            "model.attention: None there, eager here.",
        ),
        (
            {"stands_for": {"model": {**MODEL, "processor": {"do_resize": False}}}},
            "model.processor: None there, absent here; model.processor.do_resize: absent there, False here.",
        ),
        (
            {"stands_for": {"data": "sha256:" + "9" * 64, "task": {**TASK, "seed": 1}}},
            "data: sha256:222222222222 there, sha256:999999999999 here; task.seed: 0 there, 1 here.",
        ),
        ({"generation": {"max_new_tokens": 512}}, "max_new_tokens: 64 there, 512 here"),
        ({"generation": {"unfinished": "drop"}}, "unfinished: keep there, drop here"),
    ],
)
def test_what_is_not_comparable_is_another_table_and_said(runs, changed, told):
    text = collect([runs(a=[row(alpha=1.0)], b=[row(alpha=2.0, **changed)])])
    assert text.count("\n## ") == 2
    assert f"Not comparable with table 1: {told}" in text


def test_tables_of_other_models_or_tasks_need_no_such_sentence(runs):
    weights = {"weights": "sha256:" + "9" * 64}
    text = collect([runs(a=[row()], b=[row(model="other", stands_for=weights)])])
    assert text.count("\n## ") == 2
    assert "Not comparable" not in text


def test_of_several_earlier_tables_the_nearest_is_named(runs):
    far = {"prompt": "Say.", "dtype": "float32"}
    rows = [row(), row(stands_for=far), row(stands_for={**far, "dtype": "bfloat16"})]
    assert "Not comparable with table 2: dtype: float32 there, bfloat16 here." in collect([runs(a=rows)])


def test_the_same_data_and_weights_elsewhere_are_comparable(runs):
    moved = {"task": {**TASK, "images": "elsewhere", "prompts": "/mine"}, "path": "/models/m"}
    here = {"task": {**TASK, "prompts": "/yours"}}
    rows = [row(alpha=1.0, stands_for=here)], [row(alpha=2.0, tune={"alpha": [2]}, stands_for=moved)]
    text = collect([runs(a=rows[0], b=rows[1])])
    assert text.count("\n## ") == 1
    assert lines(text) == ["contrast (alpha=1.0)", "contrast (alpha=2.0)"]
    assert "org/m, /models/m, sha256:1" in text


def test_the_same_images_chosen_another_way_are_comparable(runs):
    listed = {"task": {**TASK, "list": "lists/chair.txt", "n": None, "seed": 3}}
    text = collect([runs(a=[row(alpha=1.0)], b=[row(alpha=2.0, stands_for=listed)])])
    assert lines(text) == ["contrast (alpha=1.0)", "contrast (alpha=2.0)"]
    assert "Not comparable" not in text
    assert "n=500" not in text, "of one of them alone"
    assert "- task: parser=lenient, max_new_tokens=64\n" in text


def test_other_settings_of_a_model_are_no_other_seed(runs):
    other = {"model": {**MODEL, "processor": {"do_resize": False}}}
    text = collect(
        [runs(a=[row(chair_i=10.0)], b=[row(chair_i=12.0, generation={"seed": 1}, stands_for=other)])]
    )
    assert text.count("\n## ") == 2
    assert "seeds" not in text
    assert "float16, processor.do_resize=False\n" in text


def test_runs_that_did_not_note_a_model_s_settings_are_read(runs):
    older = [row(alpha=alpha) for alpha in (1.0, 2.0)]
    for each in older:
        del each["stands_for"]["model"], each["stands_for"]["pixels"]
    text = collect([runs(a=older[:1], b=older[1:], c=[row(alpha=3.0)])])
    assert text.count("\n## ") == 2
    assert "pixels: absent there, sha256:444444444444 here" in text
    assert lines(text) == ["contrast (alpha=1.0)", "contrast (alpha=2.0)", "contrast"]


def test_seeds_become_mean_and_sd(runs):
    values = [10.0, 12.5, 12.5]
    differences = [{"value": value - 20, "low": -12, "high": -6} for value in values]
    rows = {
        f"r{seed}": [
            row("greedy", chair_i=20.0, generation={"seed": seed}),
            row(chair_i=value, difference=difference, generation={"seed": seed}),
        ]
        for seed, (value, difference) in enumerate(zip(values, differences, strict=True))
    }
    text = collect([runs(**rows)])
    assert lines(text) == ["greedy", "contrast (mean and sd of 3 seeds)"]
    mean, sd = statistics.mean(values), statistics.stdev(values)
    assert f"{mean:.1f} ± {sd:.1f}  {mean - 20:+.1f} ± {sd:.1f}" in text
    assert "20.0 [19.0, 21.0]" in text, "greedy does not depend on the seed"


def test_other_code_is_side_by_side_with_a_note_and_no_seed(runs):
    newer = {"code": {**CODE, "torch": "2.14.0"}}
    text = collect(
        [runs(a=[row(chair_i=10.0)], b=[row(chair_i=11.0, generation={"seed": 1}, stands_for=newer)])]
    )
    assert re.search(r"different code \(torch: 2\.13\.0 in \S+/a; 2\.14\.0 in \S+/b\)", text)
    assert "seeds" not in text
    assert [re.sub(r"\(.*/", "(", line) for line in lines(text)] == ["contrast (a)", "contrast (b)"]


def test_one_decoding_with_two_results_is_two_lines_that_name_their_runs(runs):
    text = collect([runs(a=[row(chair_i=10.0)], b=[row(chair_i=11.0)])])
    assert [re.sub(r"\(.*/", "(", line) for line in lines(text)] == ["contrast (a)", "contrast (b)"]


def test_what_is_left_out_is_named(runs):
    old = {key: value for key, value in row().items() if key != "stands_for"}
    folder = runs(whole=[row()], begun=None, older=[old, old], damaged=[])
    (folder / "damaged" / "scores.json").write_text('{"rows": [')
    (folder / "notes").mkdir()
    (folder / "notes" / "config.yaml").write_text("not a run")
    (runs(torn=[row()]) / "torn" / "config.yaml").write_text("bootstrap: {level: 0.95\n  seed")
    (runs(empty=[row()]) / "empty" / "config.yaml").write_text("")
    text = collect([folder, folder / "whole"])
    assert text.startswith("# 1 rows of 1 runs"), "a folder that is given twice is read once"
    assert f"{folder}/torn/config.yaml cannot be read (ParserError: while parsing" in text
    assert f"{folder}/empty/config.yaml cannot be read (AttributeError" in text
    assert f"{folder}/begun is unfinished and not in the tables." in text
    assert f"{folder}/older is of an older version, which did not note what its 2 rows stand for" in text
    assert f"{folder}/damaged/scores.json cannot be read (JSONDecodeError" in text
    assert "notes" not in text


def test_intervals_of_other_levels_are_told(runs):
    folder = runs(a=[row(alpha=1.0)], b=[row(alpha=2.0)])
    (folder / "b" / "config.yaml").write_text("bootstrap: {level: 0.9}\n")
    assert f"0.95 in {folder}/a; 0.9 in {folder}/b." in collect([folder])


def test_rows_as_csv_say_what_they_stand_for(runs, tmp_path):
    difference = {"value": -1.0, "low": -2.0, "high": 0.5}
    folder = runs(**{"alpha=1,b": [row("greedy", chair_i=20.0), row(alpha=1.0, difference=difference)]})
    collect([folder], tmp_path / "out")
    table = pandas.read_csv(io.StringIO((tmp_path / "out" / "rows.csv").read_text()))
    assert len(table) == 4
    one = table[(table.method == "contrast") & (table.figure == "CHAIR_i")].iloc[0]
    assert (one.value, one.low, one.high) == (10.0, 9.0, 11.0)
    assert (one.difference_value, one.difference_low, one.difference_high) == (-1.0, -2.0, 0.5)
    assert one.weights == "sha256:" + "1" * 64
    assert json.loads(one.decoding)["method"]["alpha"] == 1.0
    assert one.folder.endswith("alpha=1,b")
    assert table[table.method == "greedy"].difference_value.isna().all()


def test_the_frontier_is_what_nothing_is_better_than():
    points = [(80.0, 10.0), (85.0, 10.0), (70.0, 5.0), (60.0, 6.0), (90.0, 30.0), (90.0, 30.0)]
    assert frontier.best(points) == [(70.0, 5.0), (85.0, 10.0), (90.0, 30.0)]


def test_the_picture_has_a_panel_for_each_table_that_has_both_figures(runs, tmp_path):
    other = {"prompt": "Describe."}
    rows = [row("greedy"), *(row(chair_i=10 - a, alpha=a) for a in range(12)), row(stands_for=other)]
    text = collect([runs(a=rows)], tmp_path)
    assert text.endswith(f"In {tmp_path}: table.md, rows.csv, frontier.png")
    with Image.open(tmp_path / "frontier.png") as two:
        shape = two.size
    collect([tmp_path / "runs"], tmp_path, figure="recall", against="CHAIR_i")
    with Image.open(tmp_path / "frontier.png") as again:
        assert again.size == shape
    rows[-1]["figures"].pop("recall")
    (tmp_path / "runs" / "a" / "scores.json").write_text(json.dumps({"rows": rows}))
    collect([tmp_path / "runs"], tmp_path)
    with Image.open(tmp_path / "frontier.png") as one:
        assert one.size[0] == shape[0] // 2
    text = collect([tmp_path / "runs"], tmp_path, figure="Hal")
    assert "No picture: no table has both Hal and recall." in text
    assert not (tmp_path / "frontier.png").exists()


def test_no_panel_of_the_picture_is_empty(runs, tmp_path, monkeypatch):
    pictures = []

    class Kept(Figure):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            pictures.append(self)

    monkeypatch.setattr(frontier, "Figure", Kept)
    rows = [row("greedy", stands_for={"prompt": f"Describe {number}."}) for number in range(4)]
    collect([runs(a=rows)], tmp_path)
    (picture,) = pictures
    assert len(picture.axes) == 6
    assert [axes.axison for axes in picture.axes] == [True] * 4 + [False] * 2


def test_undefined_figures_are_said(runs, tmp_path):
    undefined = row("greedy")
    undefined["figures"]["CHAIR_i"].update(value=None, low=None, high=None)
    assert "undefined" in collect([runs(a=[undefined, row()])], tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no folder given"),
        (["runs/nowhere"], "no folder runs/nowhere"),
        (["{}/begun"], "no finished run in .*/begun: .* scores.json; .*/begun is unfinished"),
        (["{}", "outptu=x"], "unknown key outptu: did you mean 'output'"),
        (["{}", "output={}/whole"], "output=.*/whole is a run folder"),
    ],
)
def test_mistakes(runs, words, message):
    folder = runs(whole=[row()], begun=None)
    with pytest.raises(UsageError, match=message):
        run([word.format(folder) for word in words])


def test_folders_of_a_sweep_have_signs_in_their_names(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs(**{"method.contrast.alpha=1.0": [row(alpha=1.0)]}))
    run(["method.contrast.alpha=1.0", "figure=recall", "against=CHAIR_i"])
    assert "# 1 rows of 1 runs" in capsys.readouterr().out


def test_a_reader_that_stops_reading_is_no_error(runs):
    folder = runs(a=[row(method, alpha=alpha) for method in ("greedy", "contrast") for alpha in range(3000)])
    command = f"{sys.executable} -m benchmarks.collect {folder} | head -1; echo code ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert ended.stderr == ""
    assert ended.stdout == "# 6000 rows of 1 runs\ncode 0\n"
