"""Calibration of the shipped miniatures: where each one's prior enters, and what helps there."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.miniature import world
from benchmarks.miniature.train import MODELS
from mutation_decode import Calibration, Example, calibrate

SCENES = 60


def calibrated(name: str) -> Calibration:
    """From 60 validation scenes and the first two proposals of each kind."""
    folder = MODELS / name
    return calibrate(
        AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval(),
        AutoProcessor.from_pretrained(folder),
        [Example(scene.image(), scene.objects) for scene in world.scenes("validation", SCENES, seed=1)],
        prompt=world.CAPTION_PROMPT,
        objects=world.NOUNS,
        max_new_tokens=64,
        batch_size=SCENES,
        budget=2,
    )


@pytest.mark.parametrize(
    ("name", "verdict"), [("miniature-late-prior", "late"), ("miniature-natural", "early")]
)
def test_the_verdict_and_the_gain(name: str, verdict: str, tmp_path) -> None:
    found = calibrated(name)
    assert found.verdict == verdict
    assert set(found.remedies) == {"contrast", "skip"}
    for kind, at in found.report["chosen"].items():
        trial = found.report["trials"][kind][at]
        assert trial["differences"]["CHAIR_i"][2] < 0, "the interval of the difference is below 0"
        assert trial["figures"]["CHAIR_i"][0] < 0.75 * found.report["greedy"]["CHAIR_i"][0]
        assert trial["figures"]["fired"][0] < 20
        assert trial["differences"]["recall"][1] > 0
    signs = found.report["auroc"]
    if verdict == "late":
        assert signs["risk"][1] > 0.9 > signs["late js"][1]
        assert found.detector is not None
        assert found.detector.critical == 9  # the first of the planted blocks
        assert found.detector.include_last
    else:
        assert signs["late js"][2] < 0.5 < signs["early lead"][1]
        assert found.settings("contrast")["strategy"].alpha < 0
    assert Calibration.load(saved_at(found, tmp_path)).settings() == found.settings()


def saved_at(found: Calibration, folder):
    """Where it was written to."""
    found.save(folder / "calibration.json")
    return folder / "calibration.json"
