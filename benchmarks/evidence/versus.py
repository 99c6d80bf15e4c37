"""Ours against the peers, by the rules of protocol.md: win, tie or loss, model by model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.evidence.answers import Training
from benchmarks.evidence.trainings import exchanged, holm, pooled
from benchmarks.statistics import Interval

OURS = ("contrast", "skip")
PEERS = {
    "DoLa": ("dola-low", "dola-high"),
    "DeCo": ("deco",),
    "SLED": ("sled",),
    "VCD": ("vcd",),
    "M3ID": ("m3id",),
    "PAI": ("pai",),
    "Confident Decoding": ("confident",),
    "CALRD": ("calrd",),
}
LEVEL = 0.05
RECALL = 1.0
"""Points of recall that the one with the lower CHAIR_i may lose at most."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Our CHAIR_i and recall less the peer's, over all trainings; negative CHAIR_i is in our favour.

    ``holm`` is p corrected over all comparisons of the evidence.
    """

    model: str
    peer: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    chair: Interval
    recall: Interval
    p: float
    holm: float

    @property
    def verdict(self) -> str:
        """win, tie or loss."""
        if self.holm >= LEVEL:
            return "tie"
        if self.chair.value < 0:
            return "win" if self.recall.low >= -RECALL else "tie"
        return "loss" if -self.recall.high >= -RECALL else "tie"


def compared(trainings: Sequence[Training], models: Sequence[str]) -> list[Comparison]:
    """Every peer on every model."""
    found = []
    for model in models:
        ours = tuple(chosen(training, model, OURS) for training in trainings)
        own = [training.figures(model, name) for training, name in zip(trainings, ours, strict=True)]
        for peer, names in PEERS.items():
            theirs = tuple(chosen(training, model, names) for training in trainings)
            other = [training.figures(model, name) for training, name in zip(trainings, theirs, strict=True)]
            _, gaps = pooled(own, other)
            p = exchanged([each["CHAIR_i"] for each in own], [each["CHAIR_i"] for each in other])
            found.append((model, peer, ours, theirs, gaps["CHAIR_i"], gaps["recall"], p))
    corrected = holm([each[-1] for each in found])
    return [Comparison(*each, adjusted) for each, adjusted in zip(found, corrected, strict=True)]


def chosen(training: Training, model: str, names: Sequence[str]) -> str:
    """Of several methods the one whose chosen setting has the lowest CHAIR_i on validation."""
    return min(names, key=lambda name: validated(training, model, name))


def validated(training: Training, model: str, method: str) -> float:
    """CHAIR_i on validation of the chosen setting; inf where none qualified."""
    choice = training.tuning[model]["methods"].get(method, {"knobs": {}, "trials": []})
    figures = [trial["figures"] for trial in choice["trials"] if trial["knobs"] == choice["knobs"]]
    return float(figures[0]["CHAIR_i"]) if choice["knobs"] and figures else math.inf
