"""``python -m benchmarks.evidence.curriculum``: does a prior move late where nobody planted it? One more try.

Trains `benchmarks.miniature.curriculum` (half an hour of a core), lets calibration look at what came out,
answers with the paper's sets and ours, and keeps the answers in the repository, from which ``make evidence``
writes its section. The same command goes on with a run that was stopped.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.evidence import commands, page, texts
from benchmarks.evidence.answers import KEPT, Training, pack, unpack

SEED = 1
NAME = "curriculum"
MODELS = ("aligned", "tuned")
"""Before and after decoder and projector were tuned together."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="that answer side by side")
    print(pack(commands.curriculum(SEED, parser.parse_args().processes), KEPT / f"{NAME}.tar.xz"))


def section(into: Path, kept: Path = KEPT) -> list[str]:
    """The parts of the page, from what was kept; it is unpacked under ``into``."""
    unpack(kept / f"{NAME}.tar.xz", into / NAME)
    run = Training(SEED, into / NAME)
    found = {
        model: json.loads((run.path / "calibration" / f"{model}.json").read_text("utf-8")) for model in MODELS
    }
    methods = [*run.config["method"]]
    return [
        texts.CURRICULUM,
        _signs(found),
        "Where the next word is an invented one: how often an object of the image leads at each readout "
        "(0 is what enters the first block).",
        _leads(found),
        *(part for model in MODELS for part in (f"### {model}", page.methods_table([run], model, methods))),
    ]


def _signs(found: dict[str, Any]) -> str:
    """What calibration says of each model, on validation scenes."""
    rows = [["verdict", *(each["verdict"] for each in found.values())]]
    rows += [
        [f"{kind} words", *(str(each["tokens"][kind]) for each in found.values())]
        for kind in ("hallucinated", "correct")
    ]
    rows += [
        [f"AUROC of {sign}", *(_interval(each["auroc"][sign]) for each in found.values())]
        for sign in next(iter(found.values()))["auroc"]
    ]
    return page.table(["calibration", *found], rows)


def _interval(told: list[float | None]) -> str:
    value, low, high = map(page.known, told)
    return f"{value} [{low}, {high}]"


def _leads(found: dict[str, Any]) -> str:
    depth = len(next(iter(found.values()))["shown_leads"]["hallucinated"])
    rows = [
        [model, *(f"{100 * share:.0f} %" for share in each["shown_leads"]["hallucinated"])]
        for model, each in found.items()
    ]
    return page.table(["readout", *(str(number) for number in range(depth))], rows)


if __name__ == "__main__":
    main()
