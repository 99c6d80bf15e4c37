"""``python -m benchmarks.evidence``, which is ``make evidence``: runs everything, writes docs/evidence.md.

The shipped training answers here; of the others the answers are kept in the repository and scored again.
Every step goes on where it was stopped.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.evidence import commands, document, verdicts, words
from benchmarks.evidence.answers import DIAGNOSIS, FILES, Training, kept, unpacked
from benchmarks.evidence.commands import RUNS
from benchmarks.usage import UsageError

ABLATIONS = ("alpha-layer", "detectors")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="that answer side by side")
    parser.add_argument("--page-only", action="store_true", help="write the page from what is there")
    parser.add_argument("--overwrite", action="store_true", help="replace runs of other code or settings")
    options = parser.parse_args()
    try:
        trainings = [
            Training(0, RUNS / "training-0"),
            *(unpacked(number, RUNS / "kept") for number in kept()),
        ]
        if options.page_only:
            _refuse_without(trainings[0])
        else:
            _run(trainings[0], options.processes, ["overwrite=true"] if options.overwrite else [])
        print(f"written: {document.write(trainings)} and the pictures beside it")
    except UsageError as error:
        parser.exit(2, f"error: {error}\n")


def _refuse_without(first: Training) -> None:
    """Raises: UsageError where a step of `make evidence` has left nothing to write the page from."""
    made = [*(first.path / name for name in (*FILES, DIAGNOSIS)), RUNS / "words.json"]
    made += [RUNS / name / "tuning.json" for name in ABLATIONS]
    if missing := [path for path in made if not path.exists()]:
        raise UsageError(f"{missing[0]} is not there; `make evidence` makes what the page needs")


def _run(first: Training, processes: int, given: Sequence[str]) -> None:
    try:
        commands.answers(first.number, processes, given)
        for name in ABLATIONS:
            commands.ablation(name, processes, given)
    except SystemExit as end:
        if end.code == 2:  # a mistake, and not a run that was stopped
            print("overwrite=true is `make evidence ARGS=--overwrite` here", file=sys.stderr)
        raise
    verdicts.diagnosed(first)
    words.main()


if __name__ == "__main__":
    main()
