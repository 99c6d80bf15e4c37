"""``tune: calibrated``: candidates that are read off the model, tried and judged like any other's."""

import json
import subprocess
import sys

import pytest

from benchmarks.methods import build, with_knobs, without_given
from benchmarks.run import PLAIN
from benchmarks.tuning import choose

LATE = "miniature-late-prior"
WORDS = [
    *("method=[greedy,contrast]", "task=[miniature-chair]", "task.miniature-chair.n=6", "tune=true"),
    *("tuning.task.n=40", "tuning.budget=3", "bootstrap.resamples=50"),
    *("pictures.captions=0", "pictures.worst=0"),
]


def harness(*words):
    return subprocess.run([sys.executable, "-m", "benchmarks", *words], capture_output=True, text=True)


def test_candidates_are_read_off_the_model_tried_and_one_is_chosen(tmp_path):
    folder = tmp_path / "run"
    done = harness(*WORDS, f"folder={folder}")
    assert done.returncode == 0, done.stderr
    told = json.loads((folder / "calibration" / f"{LATE}.json").read_text())
    assert told["verdict"] == "late"
    choice = json.loads((folder / "tuning.json").read_text())["models"][LATE]["methods"]["contrast"]
    assert [trial["knobs"] for trial in choice["trials"]] == told["candidates"]["contrast"]
    assert len(choice["trials"]) == 3
    assert choice["knobs"] in told["candidates"]["contrast"]
    (row,) = [
        r for r in json.loads((folder / "scores.json").read_text())["rows"] if r["method"] == "contrast"
    ]
    node = row["stands_for"]["decoding"]["method"]
    assert node["detector"]["critical"] == choice["knobs"]["detector"]["critical"]
    assert "tune" not in node
    before = (folder / "scores.json").read_bytes()
    (folder / "tuning" / LATE / "contrast" / "1.jsonl").unlink()  # as if it had been stopped here
    assert harness(*WORDS, f"folder={folder}").returncode == 0
    assert (folder / "scores.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=[greedy,dola]", "method.dola.tune=calibrated"], "tune=calibrated is for Contrast and Skip"),
        (
            ["tuning.task._target_=benchmarks.tasks.miniature.Typical"],
            "needs a tuning.task that knows the objects of its images, and Typical does not",
        ),
    ],
)
def test_what_calibration_cannot_do_with_is_refused_in_one_line(tmp_path, words, message):
    done = harness(*WORDS, *words, f"folder={tmp_path / 'run'}")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_knob_that_is_given_leaves_the_others_as_they_are():
    config = {"method": {"contrast": {"alpha": 3, "tune": "calibrated"}, "skip": {"tune": "calibrated"}}}
    kept = without_given(config, {"method.contrast.alpha", "task"})["method"]
    assert kept == {"contrast": {"alpha": 3, "tune": {}}, "skip": {"tune": "calibrated"}}
    assert without_given(config, {"method.contrast.tune"}) == config


def test_where_nothing_qualifies_it_is_plain_decoding():
    assert choose([], PLAIN).note.endswith("nothing is recommended, which is plain decoding")


def test_proposals_become_knobs_of_the_yaml_and_methods_again():
    from benchmarks.calibration import _knobs
    from mutation_decode import Contrast, Detector, Gate, Proposal

    node = {"_target_": "mutation_decode.Contrast", "alpha": 1.0, "beta": 0.1, "layer": None,
            "detector": {"_target_": "mutation_decode.Detector", "threshold": 0.05},
            "gate": {"_target_": "mutation_decode.Gate", "max_prob": None}}  # fmt: skip
    proposal = Proposal(
        Contrast(alpha=-2.0, layer=4), Detector(threshold=0.0, critical=11), Gate(max_prob=0.5)
    )
    knobs = _knobs(proposal, node)
    assert knobs == {
        "alpha": -2.0,
        "layer": 4,
        "detector": {"threshold": 0.0, "critical": 11},
        "gate": {"max_prob": 0.5},
    }
    method = build("contrast", with_knobs(node, knobs))
    assert (method.strategy, method.detector, method.gate) == (
        proposal.strategy,
        proposal.detector,
        proposal.gate,
    )
