"""``python -m benchmarks.evidence``, which is ``make evidence``: runs everything, writes docs/evidence.md.

The shipped training answers here; of the others the answers are kept in the repository and scored again.
Every step goes on where it was stopped.
"""

import argparse

from benchmarks.evidence import commands, document, words
from benchmarks.evidence.answers import Training, kept, unpacked
from benchmarks.evidence.commands import RUNS
from benchmarks.usage import UsageError


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="that answer side by side")
    parser.add_argument("--page-only", action="store_true", help="write the page from what is there")
    options = parser.parse_args()
    try:
        _made(page_only=options.page_only, processes=options.processes)
    except UsageError as error:
        parser.exit(2, f"error: {error}\n")


def _made(*, page_only: bool, processes: int) -> None:
    if not page_only:
        commands.answers(0, processes)
        for name in ("alpha-layer", "detectors"):
            commands.ablation(name, processes)
        words.main()
    trainings = [
        Training(0, RUNS / "training-0"),
        *(unpacked(number, RUNS / "kept") for number in kept()),
    ]
    print(f"written: {document.write(trainings)} and the pictures beside it")


if __name__ == "__main__":
    main()
