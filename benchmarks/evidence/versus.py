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
OUTSIDE = {"ICD": ("icd",)}
"""A peer that the protocol left out of the comparison."""
DRAWS = 10_000
LEVEL = 0.05
RECALL = 1.0
"""Points of recall that the one with the lower CHAIR_i may lose at most."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Our CHAIR_i and recall less the peer's, over all trainings; negative CHAIR_i is in our favour.

    ``published``: how many of the trainings the peer stands in with its published settings, as none helped
    on validation. ``each``: the difference of CHAIR_i in each training. ``holm`` is p corrected over all
    comparisons of the evidence.
    """

    model: str
    peer: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    published: int
    chair: Interval
    recall: Interval
    each: tuple[float, ...]
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


def compared(
    trainings: Sequence[Training],
    models: Sequence[str],
    peers: Mapping[str, Sequence[str]] = PEERS,
) -> list[Comparison]:
    """Every peer on every model."""
    found = []
    for model in models:
        ours = tuple(chosen(training, model, OURS) for training in trainings)
        own = [training.figures(model, name) for training, name in zip(trainings, ours, strict=True)]
        for peer, names in peers.items():
            theirs = tuple(chosen(training, model, names) for training in trainings)
            other = [training.figures(model, name) for training, name in zip(trainings, theirs, strict=True)]
            _, gaps = pooled(own, other)
            chairs = [[each["CHAIR_i"] for each in side] for side in (own, other)]
            p, alone = exchanged(*chairs, draws=DRAWS), zip(*chairs, strict=True)
            each = tuple(one.value - two.value for one, two in alone)
            published = sum(
                not training.tuning[model]["methods"][name]["knobs"]
                for training, name in zip(trainings, theirs, strict=True)
            )
            found.append((model, peer, ours, theirs, published, gaps["CHAIR_i"], gaps["recall"], each, p))
    corrected = holm([each[-1] for each in found])
    return [Comparison(*each, adjusted) for each, adjusted in zip(found, corrected, strict=True)]


def drawn_again(trainings: Sequence[Training], told: Comparison, draws: int) -> float:
    """The corrected p of a comparison from another number of exchanges, its rank among the others kept."""
    sides = [
        [
            training.figures(told.model, name)["CHAIR_i"]
            for training, name in zip(trainings, names, strict=True)
        ]
        for names in (told.ours, told.theirs)
    ]
    return min(1.0, exchanged(*sides, draws=draws) * told.holm / told.p)


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
