"""Several processes of this machine, by torchrun, and what they end with.

A mistake that only they find, such as weights that cannot be read, is one line and exit code 2 as in a single
process: the one that finds it leaves the line in a file, and torchrun's own report of the end is kept back.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.core.hydra_config import HydraConfig

from benchmarks.usage import UsageError

MISTAKE = "MUTATION_DECODE_MISTAKE"
"""Environment variable: the file that the line goes to, set for the processes started here alone."""


def start_processes(count: int, words: Sequence[str], folder: Path) -> int:
    """Runs the same job in several processes of this machine; returns their exit code.

    Raises: UsageError on a mistake that they find.
    """
    with TemporaryDirectory() as place:
        line = Path(place, "mistake")
        command = [sys.executable, "-m", "benchmarks.launch", "--standalone", "--nproc_per_node", str(count)]
        command += ["-m", "benchmarks", *flags(), *words, f"folder={quoted(folder)}"]
        code = subprocess.run(command, env={**os.environ, MISTAKE: str(line)}, check=False).returncode
        if line.exists():
            raise UsageError(line.read_text(encoding="utf-8"))
    return code


def flags() -> list[str]:
    """What else Hydra was told on the command line: where its YAMLs are, and which is the first of them."""
    known = HydraConfig.get()
    found = ["--config-name", str(known.job.config_name)]
    for source in known.runtime.config_sources:
        if source.provider in ("main", "command-line"):
            found += ["--config-path" if source.provider == "main" else "--config-dir", source.path]
    return [*found, *(word for word in known.overrides.hydra if word.startswith("hydra.searchpath="))]


def quoted(folder: Path) -> str:
    """As a value for Hydra, to which the = and , in the name of a sweep's run would mean something."""
    return "'" + str(folder).replace("'", "\\'") + "'"


def leave(line: str) -> bool:
    """In a process that was started here: leaves the line for the one that started it. True if it was so."""
    if MISTAKE not in os.environ:
        return False
    path = Path(os.environ[MISTAKE])
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(line, encoding="utf-8")
    partial.replace(path)
    return True


def main() -> None:
    """torchrun, silent about the end of processes that left a line."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    def reported(*_: Any) -> bool:
        return not Path(os.environ[MISTAKE]).exists()

    for handler in logging.getLogger("torch.distributed").handlers:
        handler.addFilter(reported)
    try:
        torchrun(sys.argv[1:])
    except ChildFailedError:
        if reported():
            raise
        sys.exit(2)


if __name__ == "__main__":
    main()
