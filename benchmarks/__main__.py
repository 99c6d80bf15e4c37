"""``python -m benchmarks key=value ...``: Hydra composes conf/, mistakes end with exit code 2."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmarks.launch import leave, start_processes
from benchmarks.mistakes import CONF, explain, no_choice, refused
from benchmarks.sweep import collected
from benchmarks.usage import UsageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when nothing more can be written."""


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def job(config: DictConfig) -> None:
    """One run, or one run of a sweep; a mistake ends it here, before Hydra adds words of its own."""
    from benchmarks.methods import without_given
    from benchmarks.processes import agreed
    from benchmarks.run import run, taken  # torch, transformers: not for --help, nor a mistyped key

    made = Path(HydraConfig.get().runtime.output_dir)
    with mistakes_in(made):
        folder = agreed(made)  # the default's name is the time, and each process has its own
        if folder != made:
            leave_no_empty(made)
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise UsageError(f"{missing[0]} must be given: {missing[0]}=...")
        resolved = OmegaConf.to_container(config, resolve=True)
        assert isinstance(resolved, dict)
        words = list(HydraConfig.get().overrides.task)
        given = {word.lstrip("+~").split("=")[0] for word in words}
        settled = without_given({str(key): value for key, value in resolved.items()}, given)
        if settled["processes"] == 1 or "RANK" in os.environ:
            run(settled, folder)
        else:
            with taken(settled, folder):
                pass  # mistakes are told here, in one line, and not by every process
            sys.exit(start_processes(settled["processes"], words, folder))


def main() -> None:
    """Exit code 0, or 2 with one line on stderr; a bug keeps its traceback."""
    command(job, "config")


def command(job: Callable[[], Any], config: str) -> None:
    """A job of Hydra as a command: ``main``, for the job whose keys are those of ``conf/<config>.yaml``."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come out as they are, to be told below
    try:
        with collected():
            job()
    except UsageError as error:
        stop(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        stop(explain(error, config))
    except OSError as error:  # Hydra makes the folder before there is a job
        folder = next((word[7:] for word in reversed(sys.argv) if word.startswith("folder=")), "runs")
        told = refused(error, Path(folder))
        if told is None:
            raise
        stop(told)
    except ValueError as error:
        if not str(error).startswith("Config group override must be"):
            raise
        stop(no_choice(config))


@contextmanager
def mistakes_in(folder: Path) -> Iterator[None]:
    """Inside a job: a user's mistake ends it with its one line, and leaves no empty folder behind."""
    try:
        yield
    except (UsageError, OmegaConfBaseException, HydraException) as error:
        leave_no_empty(folder)  # Hydra made it before anything was checked
        stop(str(error))
    except OSError as error:
        told = refused(error, folder)
        if error.errno in FULL:
            told = f"{error.strerror}: make room, and give the same command with folder={folder} to go on"
        if told is None:
            raise
        leave_no_empty(folder)
        stop(told)
    except SystemExit as end:  # of the processes that it started
        if not in_sweep():
            raise
        if end.code:
            raise subprocess.CalledProcessError(int(end.code), "torch.distributed.run") from end


def in_sweep() -> bool:
    """Whether this is a job that must not take the other jobs of its sweep with it."""
    sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    return sweep and "RANK" not in os.environ


def leave_no_empty(folder: Path) -> None:
    """Removes a folder that nothing is in; another process may have done so."""
    with suppress(OSError):
        folder.rmdir()


def stop(message: str) -> NoReturn:
    """Ends with the one line and exit code 2; of several processes the first one says it for all.

    Raises: UsageError in a job of a sweep, which goes on with the others.
    """
    if in_sweep():
        raise UsageError(message)
    if os.environ.get("RANK", "0") != "0":
        time.sleep(20)  # the first one ends all others when it has told
    line = " ".join(message.split())
    if not leave(line):
        print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
