"""``python -m benchmarks.evidence.training NUMBER``: one more training of both models, and its answers.

Trains from seed NUMBER (one to two hours on two cores), answers with every method, and keeps the answers in
the repository, where ``make evidence`` scores them again. The weights stay under runs/. The same command goes
on with a run that was stopped.
"""

import argparse

from benchmarks.evidence import commands
from benchmarks.evidence.answers import Training, keep
from benchmarks.evidence.verdicts import diagnosed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("number", type=int, help="1 or more; 0 is the training that ships")
    parser.add_argument("--processes", type=int, default=2, help="that answer side by side")
    options = parser.parse_args()
    if options.number < 1:
        parser.error(f"number {options.number}: 0 is the training that ships, others are numbered from 1 on")
    training = Training(options.number, commands.trained(options.number, options.processes))
    diagnosed(training)
    print(keep(training))


if __name__ == "__main__":
    main()
