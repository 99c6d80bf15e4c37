"""The commands that the evidence is made by, each of which goes on where it was stopped."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

RUNS = Path("runs/evidence")


def answers(number: int, processes: int, given: Sequence[str] = ()) -> None:
    """All methods on one training of both models."""
    _python("benchmarks", "experiment=evidence", *given, folder(number), f"processes={processes}")


def ablation(name: str, processes: int, given: Sequence[str] = ()) -> None:
    """One of the ablations on validation scenes, named as its YAML in conf/experiment."""
    _python("benchmarks", f"experiment={name}", *given, f"folder={RUNS / name}", f"processes={processes}")


def trained(number: int, processes: int) -> Path:
    """Trains both models from another seed, and answers with them. Returns: the run folder."""
    _python("benchmarks.miniature.train", "--seed", str(number))
    models = ("miniature-late-prior", "miniature-natural")
    answers(number, processes, [f"model.{name}.path=runs/miniature/{number}/{name}" for name in models])
    return RUNS / f"training-{number}"


def curriculum(seed: int, processes: int) -> Path:
    """Trains the model in which no prior is planted, and answers with it. Returns: the run folder."""
    _python("benchmarks.miniature.curriculum", "--work", "runs/curriculum", "--seed", str(seed))
    _python("benchmarks", "experiment=curriculum", f"processes={processes}")
    return RUNS / "curriculum"


def folder(number: int) -> str:
    return f"folder={RUNS / f'training-{number}'}"


def _python(module: str, *words: str) -> None:
    """One thread a process: on two cores as fast as more, and the same figures everywhere."""
    done = subprocess.run([sys.executable, "-m", module, *words], env={"OMP_NUM_THREADS": "1", **os.environ})
    if done.returncode:
        sys.exit(done.returncode)
