"""What a run has measured when all models have answered: of this everything that it writes is made."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks.pictures import Caption
from benchmarks.problems import Problems
from benchmarks.report_page.traces import Traces
from benchmarks.report_page.worst import Shown
from benchmarks.tuning import Tuned


@dataclass(slots=True)
class Measured:
    """The rows of scores.json, how each model was tuned, what went wrong, what pictures and report show."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    tuned: dict[str, Tuned] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)
    observed: dict[str, list[Caption]] = field(default_factory=dict)
    shown: dict[str, Shown] = field(default_factory=dict)
    traced: dict[str, Traces] = field(default_factory=dict)
