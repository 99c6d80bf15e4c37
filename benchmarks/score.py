"""``python -m benchmarks.score task=chair predictions=FILE ground_truth=FILE``: answers made anywhere.

No model is loaded. Every result says by which variant, from which files (md5) and of how many answers its
figures are; ``figures`` are unrounded percents, ``official`` is what the official script prints.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.__main__ import stop
from benchmarks.folder import defined
from benchmarks.mistakes import unreadable
from benchmarks.predictions import checksum, failed, predictions
from benchmarks.scorers import REQUIRED, SCORERS, Scored, Settings, prepare
from benchmarks.significance import over_seeds
from benchmarks.statistics import Interval, Ratio, intervals
from benchmarks.usage import UsageError

Score = Callable[[Path], Scored]
COMMON: Mapping[str, Any] = {"predictions": REQUIRED, "output": None, "details": None}
"""Keys of every task."""


def from_words(words: Sequence[str], common: Settings = COMMON) -> tuple[str, dict[str, Any], Score]:
    """Reads ``key=value`` words: the task, all settings, what scores a file by them. Raises: UsageError."""
    given: dict[str, Any] = {key: None if value == "null" else value for key, value in once(words).items()}
    task = given.pop("task", "")
    score = prepare(task, given, common)

    def of(path: Path) -> Scored:
        found = predictions(path, ids=SCORERS[task].ids, answers=SCORERS[task].answers)
        try:
            scored, errors = score(found), failed(path)
            return replace(scored, counts={**scored.counts, "errors": errors}) if errors else scored
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error

    return task, {**common, **given}, of


def once(words: Sequence[str]) -> dict[str, str]:
    """Key -> value of ``key=value`` words. Raises: UsageError on a key that is given twice."""
    found: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key in found:
            raise UsageError(f"{key} is given twice: {key}={found[key]} and {word}")
        found[key] = value
    return found


def result(task: str, path: Path, scored: Scored) -> dict[str, Any]:
    """What is written: see the module."""
    ends = with_intervals(scored.figures)
    return {
        "task": task,
        "n": scored.n,
        "settings": dict(scored.settings),
        "figures": scored.values(),
        "intervals": {name: [end.low, end.high] for name, end in ends.items()},
        "counts": dict(scored.counts),
        "official": dict(scored.official),
        "checksums": {file.name: checksum(file) for file in (path, *scored.files)},
    }


def with_intervals(
    figures: Mapping[str, Ratio], reference: Mapping[str, Ratio] | None = None
) -> dict[str, Interval]:
    """95 % bootstrap intervals by image, of the figures or of their differences to a reference.

    Figures of the same file may stand for different images (AMBER's two parts): each set is drawn by itself.
    """
    found: dict[str, Interval] = {}
    for length in dict.fromkeys(len(figure.numerator) for figure in figures.values()):
        drawn = {name: figure for name, figure in figures.items() if len(figure.numerator) == length}
        values, differences = intervals(drawn, reference and {name: reference[name] for name in drawn})
        found |= differences if reference else values
    return {name: found[name] for name in figures}


def write(path: Path, content: Any) -> None:
    """JSON into a file, in one move. Raises: UsageError when it cannot be written."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(defined(content), indent=1, ensure_ascii=False) + "\n", "utf-8")
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; choose another file") from error


def shown(results: Sequence[Mapping[str, Any]]) -> str:
    """The figures of a file, or of several that differ in their seed, for a terminal."""
    one = results[0]
    if len(results) == 1:
        lines = [
            [name, f"{value:.3f}", "[{:.1f}, {:.1f}]".format(*one["intervals"].get(name, [math.nan] * 2))]
            for name, value in one["figures"].items()
        ]
        table = tabulate(lines, ["", "figure", "95 % interval"], disable_numparse=True)
    else:
        spread = over_seeds([each["figures"] for each in results])
        lines = [[name, f"{mean:.3f}", f"{sd:.3f}"] for name, (mean, sd) in spread.items()]
        table = tabulate(lines, ["", f"mean of {len(results)} files", "sd"], disable_numparse=True)
    settings = ", ".join(f"{key} {value}" for key, value in one["settings"].items())
    head = f"{one['task']}, {one['n']} answers, {settings}"
    for name in ("errors", "not answered"):
        head += f", {one['counts'][name]} {name}" if one["counts"].get(name) else ""
    official = f"as the official script prints: {json.dumps(one['official'])}"
    return "\n\n".join([head, table, official])


def run(words: list[str]) -> None:
    """Scores ``predictions=FILE``, or ``predictions=[FILE,FILE]`` of several seeds, and prints.

    ``output=FILE`` writes the result as JSON (a list for several files); ``details=FILE`` what was found in
    each caption or response.
    """
    task, settings, score = from_words(words)
    paths = [Path(name) for name in settings["predictions"].strip("[]").split(",") if name]
    found = [(path, score(path)) for path in paths]
    results = [result(task, path, scored) for path, scored in found]
    if settings["output"] is not None:
        write(Path(settings["output"]), results[0] if len(results) == 1 else results)
    if settings["details"] is not None:
        write(Path(settings["details"]), [line for _, scored in found for line in scored.details])
    print(shown(results))


def command(run: Callable[[list[str]], None]) -> None:
    """Exit code 0, or 2 with one line on stderr."""
    try:
        run(sys.argv[1:])
    except UsageError as error:
        stop(str(error))
    except PermissionError as error:
        if (told := unreadable(error)) is None:
            raise
        stop(told)


def main() -> None:
    """See `run`."""
    command(run)


if __name__ == "__main__":
    main()
