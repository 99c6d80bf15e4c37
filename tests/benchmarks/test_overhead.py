"""The overhead table at a size of seconds: what it holds, and what its command refuses."""

import json
import sys
import warnings
from pathlib import Path

import pytest

from benchmarks import overhead
from mutation_decode import Contrast

ROOT = Path(__file__).parents[2]
SMALL = ("hidden=32", "heads=4", "blocks=8", "vocabulary=100", "prompt=6", "new_tokens=4", "repeats=2")
NAMES = [
    "greedy",
    "hooks alone",
    "contrast, threshold ln 2: never",
    'contrast, threshold ln 2, trace="watched"',
    "contrast, threshold ln 2, trace=True",
    "contrast, threshold ln 2, trace=Record()",
    "contrast, threshold 0: always",
    "skip of block 6, threshold ln 2: never",
    "skip of block 6, threshold 0: always",
    "skip of block 6 at every token, known beforehand",
    "skip of the paper",
    "depth compression, blocks 4..5",
    "dola",
]


def bench_of(settings):
    """What `overhead.run` measures on."""
    return overhead.Bench(*overhead.load(settings), settings["new_tokens"])


@pytest.fixture
def command(monkeypatch, tmp_path):
    """``python -m benchmarks.overhead ARGUMENTS`` in this process, into tmp_path/run; its exit code."""
    monkeypatch.chdir(ROOT)

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["overhead", *SMALL, f"folder={tmp_path / 'run'}", *arguments])
        try:
            overhead.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


def test_a_row_for_every_method_and_batch(command, tmp_path, capsys):
    assert command("batch_sizes=[1,2]", "device=cpu") == 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["overhead.json", "overhead.md"]
    written = json.loads((tmp_path / "run" / "overhead.json").read_text())
    rows = written["rows"]
    assert [(row["batch_size"], row["method"]) for row in rows] == [
        (n, name) for n in (1, 2) for name in NAMES
    ]
    for row in rows:
        assert 0 < row["lowest"] <= row["time"] <= row["highest"]
        assert len(row["ratios"]) >= 2
        assert row["tokens_per_second"] > 0
        assert row["memory"] is None, "on the CPU nobody knows it"
    acted = {name: {row["percent_acted"] for row in rows if row["method"] == name} for name in NAMES}
    assert [acted[name] for name in NAMES] == [{None}] * 2 + [{0}] * 4 + [{100}, {0}] + [{100}] * 5
    told = (tmp_path / "run" / "overhead.md").read_text(), capsys.readouterr().out
    for text in told:
        assert "batch" in text
        assert all(text.count(name) >= 2 for name in NAMES)
        assert "hidden 32, vocabulary 100, float32" in text
        assert "8 blocks" in text
        assert "memory: left out" in text
    assert written["config"]["batch_sizes"] == [1, 2]


def test_a_checkpoint(command, checkpoint, tmp_path):
    assert command(f"checkpoint={checkpoint}", "batch_sizes=[2]", "repeats=1", "device=cpu") == 0
    written = json.loads((tmp_path / "run" / "overhead.json").read_text())
    assert written["about"]["model"].startswith(f"LlavaForConditionalGeneration, {checkpoint}, 4 blocks")
    acted = {row["method"]: row["percent_acted"] for row in written["rows"]}
    assert acted["skip of block 3, threshold 0: always"] == 100
    assert acted["contrast, threshold ln 2: never"] == 0


def test_greedy_stands_right_beside_every_method(monkeypatch):
    order = []

    def measure(_bench, method, _ids):
        order.append(method.name)
        return (1.0 if method is overhead.GREEDY else 2.0), (100 if method is overhead.GREEDY else 150)

    monkeypatch.setattr(overhead.Bench, "measure", measure)
    monkeypatch.setattr(overhead.Method, "percent_acted", lambda *_: None)
    bench = bench_of(config())
    rows = list(overhead.compare(bench, overhead.prompts(bench.model, 2, 6), 3, overhead.random.Random(0)))
    trios = [order[start : start + 3] for start in range(0, len(order), 3)]
    assert all(plain == "greedy" for _, plain, _ in trios)
    beside = [name for before, _, after in trios for name in (before, after)]
    assert sorted(beside) == sorted([*NAMES, "greedy"] * 3), "an odd one is paired with one more greedy"
    assert [(row["time"], row["memory"]) for row in rows] == [(1, 1)] + [(2, 1.5)] * 12
    assert rows[0]["tokens_per_second"] == 2 * 4 / 1.0
    assert "1.50" in overhead.document({}, rows, "simple")


def test_never_acting_is_silent_only_where_it_is_meant():
    bench = bench_of(config())
    ids = overhead.prompts(bench.model, 1, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert overhead.Method("meant", Contrast(), overhead.NEVER).percent_acted(bench, ids) == 0
    nearly = overhead.Method("not meant", Contrast(), overhead.Detector(threshold=0.69))
    with pytest.warns(UserWarning, match="never acted in this generate"):
        assert nearly.percent_acted(bench, ids) == 0


def test_no_row_ends_early_and_no_prompt_holds_an_image(checkpoint):
    bench = bench_of({**config(), "checkpoint": str(checkpoint)})
    ids = overhead.prompts(bench.model, 50, 20)
    assert not (ids == bench.model.config.image_token_id).any()
    made = []
    bench.model.register_forward_hook(lambda *_: made.append(1))
    bench.generate(ids, 7, None)
    assert len(made) == 7


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("blocks=3", "blocks=3; expected a whole number, at least 4"),
        ("repeats=0", "repeats=0; expected a whole number, at least 1"),
        ("vocabulary=many", "vocabulary=many; expected a whole number"),
        ("batch_sizes=[1,0]", "batch_sizes=[1, 0]; expected whole numbers, at least 1, such as [1,8]"),
        ("batch_sizes=[]", "batch_sizes=[]; expected whole numbers"),
        ("batch_sizes=[1.5]", "batch_sizes=[1.5]; expected whole numbers"),
        ("batch_sizes=2", "batch_sizes=2; expected whole numbers"),
        ("hidden=34", "hidden=34 is no multiple of twice heads=4"),
        ("dtype=float31", "dtype 'float31' is none; use float32"),
        ("device=cuda:7", "device 'cuda:7' is not there"),
        ("checkpoint=nowhere", "no folder nowhere; checkpoint=null takes random weights"),
        ("checkpoint=conf", "checkpoint conf: Unrecognized model"),
        ("batch_size=[1]", "unknown key batch_size: did you mean 'batch_sizes'? There are batch_sizes"),
        ("+batch_size=[1]", "unknown key batch_size: did you mean 'batch_sizes'? There are batch_sizes"),
        ("method=[greedy]", "unknown key method: There are batch_sizes, blocks"),
    ],
)  # fmt: skip
def test_one_line_and_exit_code_2(argument, message, command, tmp_path, capsys):
    assert command(argument) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("error: ")
    assert message in said[0]
    assert not (tmp_path / "run").exists()


def config():
    """The keys of conf/overhead.yaml, at the size of the tests."""
    written = overhead.OmegaConf.load(ROOT / "conf" / "overhead.yaml")
    small = overhead.OmegaConf.merge(written, overhead.OmegaConf.from_dotlist([*SMALL, "device=cpu"]))
    del small["hydra"]
    return overhead.OmegaConf.to_container(small)
