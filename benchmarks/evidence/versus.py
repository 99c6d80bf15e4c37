"""Ours against the peers, by the rules of protocol.md: win, tie or loss, model by model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

    ``published``: how many of the trainings the peer stands in with its published settings, as none helped
    on validation. ``holm`` is p corrected over all comparisons of the evidence.
    """

    model: str
    peer: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    published: int
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
            published = sum(
                not training.tuning[model]["methods"][name]["knobs"]
                for training, name in zip(trainings, theirs, strict=True)
            )
            found.append((model, peer, ours, theirs, published, gaps["CHAIR_i"], gaps["recall"], p))
    corrected = holm([each[-1] for each in found])
    return [Comparison(*each, adjusted) for each, adjusted in zip(found, corrected, strict=True)]


def chosen(training: Training, model: str, names: Sequence[str]) -> str:
    """Of several methods the one of the lowest CHAIR_i on validation, first those that qualified."""
    return min(names, key=lambda name: validated(training, model, name))


def validated(training: Training, model: str, method: str) -> tuple[bool, float]:
    """Whether nothing qualified, and CHAIR_i on validation of the setting that is scored; inf if unknown.

    Where nothing qualified that is the method's own setting, if it was among those tried.
    """
    choice = training.tuning[model]["methods"].get(method, {"knobs": {}, "trials": []})
    node = training.config["method"].get(method, {})
    figures = [
        trial["figures"]
        for trial in choice["trials"]
        if (trial["knobs"] == choice["knobs"] if choice["knobs"] else _own(node, trial["knobs"]))
    ]
    found = figures[0]["CHAIR_i"] if figures else None
    return not choice["knobs"], math.inf if found is None else float(found)


def _own(node: Mapping[str, Any], knobs: Mapping[str, Any]) -> bool:
    """Whether the knobs are those of the method's YAML."""
    return all(
        _own(node.get(key) or {}, value) if isinstance(value, Mapping) else node.get(key) == value
        for key, value in knobs.items()
    )
