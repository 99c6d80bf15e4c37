"""``python -m benchmarks.compare A.jsonl B.jsonl task=chair ground_truth=FILE``: do two files differ?

Every figure of A and of B, the difference A - B with its paired interval by image, and McNemar's exact test
where a figure holds of each caption or answer or does not.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.score import command, from_words, result, with_intervals, write
from benchmarks.scorers import Scored
from benchmarks.significance import mcnemar
from benchmarks.usage import UsageError


def compare(task: str, files: tuple[Path, Path], scored: tuple[Scored, Scored]) -> dict[str, Any]:
    """Both results, the differences and the tests. Raises: UsageError when they answer different things."""
    one, other = scored
    lone = sorted(set(one.keys) ^ set(other.keys))
    if lone:
        raise UsageError(
            f"{files[0]} and {files[1]} do not answer the same: {len(lone)} ids are in one of them only, the "
            f"first of them {', '.join(lone[:5])}"
        )
    shared = [name for name in one.figures if name in other.figures]
    one, other = (
        replace(each, figures={name: each.figures[name] for name in shared}) for each in (one, other)
    )
    differences = with_intervals(one.figures, other.figures)
    tests = mcnemar({"this": one.figures}, other.figures)["this"]
    return {
        "task": task,
        "results": [result(task, path, each) for path, each in zip(files, scored, strict=True)],
        "differences": {name: asdict(interval) for name, interval in differences.items()},
        "mcnemar": {name: asdict(test) for name, test in tests.items()},
    }


def shown(compared: dict[str, Any]) -> str:
    """The comparison for a terminal."""
    one, other = (each["figures"] for each in compared["results"])
    lines = []
    for name, difference in compared["differences"].items():
        test = compared["mcnemar"].get(name)
        told = f"{test['only_this']}:{test['only_reference']}, p {test['p']:.2g}" if test else ""
        ends = "{value:+.2f} [{low:+.2f}, {high:+.2f}]".format(**difference)
        lines.append([name, f"{one[name]:.2f}", f"{other[name]:.2f}", ends, told])
    return tabulate(lines, ["", "A", "B", "A - B, 95 % interval", "only A : only B"], disable_numparse=True)


def run(words: list[str]) -> None:
    """Two files and ``key=value`` words; ``output=FILE`` writes the comparison as JSON."""
    files = [Path(word) for word in words if "=" not in word]
    if len(files) != 2:
        raise UsageError(f"expected two files of answers, got {len(files)}: A.jsonl B.jsonl task=...")
    task, settings, score = from_words([word for word in words if "=" in word], {"output": None})
    compared = compare(task, (files[0], files[1]), (score(files[0]), score(files[1])))
    if settings["output"] is not None:
        write(Path(settings["output"]), compared)
    print(shown(compared))


def main() -> None:
    """See `run`."""
    command(run)


if __name__ == "__main__":
    main()
