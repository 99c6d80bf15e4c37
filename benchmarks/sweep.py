"""A sweep ends with one table, one picture, and the truth about its jobs, whatever launcher ran them.

Hydra tells its callbacks when a sweep begins and ends, and when a job of it does, wherever that is: ours goes
to the job's process, knows the sweep's folder, and leaves a note in its ``jobs/``. A job's error is noted and
not thrown, or the launcher would give up the other jobs. Under torchrun it is thrown and ends the sweep: the
other processes would wait for this one.
"""

import hashlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmarks.usage import UsageError

LONGEST = 200
"""Bytes of a run's folder name; file systems take 255."""

STARTED: ContextVar["Sweep | None"] = ContextVar("STARTED", default=None)
"""The sweep that this process has begun and not ended."""


class Sweep(Callback):
    """See the module. ``folder`` is the sweep's own, and None outside of a sweep."""

    folder: Path | None = None

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        launcher = config.hydra.runtime.choices.get("launcher")
        if launcher is not None and "RANK" not in os.environ:
            end(f"launcher={launcher} is for the jobs of a sweep, of which there may be one: add -m", 2)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.launcher._target_.endswith("SlurmLauncher") and shutil.which("sbatch") is None:
            end(
                "launcher=slurm needs Slurm's sbatch, which is not on this machine; "
                "here launcher=slurm-local or launcher=joblib will do",
                2,
            )
        self.folder = Path(config.hydra.sweep.dir).absolute()
        if (self.folder / "versions.json").exists():
            end(
                f"{self.folder} holds a run, and a sweep needs a folder of its own; choose another folder=", 2
            )
        if not others_tell():
            for note in self.notes():
                note.unlink()
        STARTED.set(self)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            self.note(config, code=None, error="has not ended")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        if job_return.status != JobStatus.FAILED:
            self.note(config, code=0, error=None)
            return
        error = job_return._return_value  # the property would raise it
        code, line = told(error)
        if code == 1 and not isinstance(error, CalledProcessError):
            traceback.print_exception(error)
        print(f"error: job {config.hydra.job.num}: {line}", file=sys.stderr, flush=True)
        if "RANK" in os.environ:
            sys.exit(code)
        self.note(config, code=code, error=line)
        job_return.status, job_return.return_value = JobStatus.COMPLETED, code

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        STARTED.set(None)
        if others_tell():
            return
        try:
            self.collect()
        except Exception:  # Hydra would make a warning of it
            traceback.print_exc()
            sys.exit(1)
        self.tell_failures()

    def note(self, config: DictConfig, *, code: int | None, error: str | None) -> None:
        """What is known of a job, in one move. ``code`` is its exit code, None until it has ended."""
        if self.folder is None or others_tell():
            return
        told = {
            "overrides": list(config.hydra.overrides.task),
            "folder": config.hydra.runtime.output_dir,
            "code": code,
            "error": error,
        }
        path = self.folder / "jobs" / f"{config.hydra.job.num}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)

    def notes(self) -> list[Path]:
        """The notes of all jobs, in their order."""
        assert self.folder is not None
        found = (path for path in (self.folder / "jobs").glob("*.json") if path.stem.isdigit())
        return sorted(found, key=lambda path: int(path.stem))

    def jobs(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text(encoding="utf-8")) for path in self.notes()]

    def collect(self) -> None:
        """Gathers what has finished into the sweep's folder, and prints it, if anything has."""
        from benchmarks.collect import collect, found  # not for --help

        assert self.folder is not None
        folders = [self.folder, *(Path(job["folder"]) for job in self.jobs())]
        if any(found(folder) for folder in folders):
            print("\n" + collect([folder for folder in folders if folder.exists()], self.folder))

    def tell_failures(self) -> None:
        """Ends with the exit code of the first job that failed, naming all that did."""
        jobs = self.jobs()
        codes = [1 if job["code"] is None else job["code"] for job in jobs]
        if any(codes):
            code = next(code for code in codes if code)
            end(f"{failures(jobs)}; the same command with folder={self.folder} goes on", code)


def others_tell() -> bool:
    """Whether this is one of several processes, and not the first one, which tells and writes for all."""
    return os.environ.get("RANK", "0") != "0"


def failures(jobs: Sequence[Mapping[str, Any]]) -> str:
    """``2 of 6 jobs failed: alpha=1: no such folder; alpha=2: has not ended``, jobs of one error together."""
    shared = set.intersection(*(set(job["overrides"]) for job in jobs))
    errors: dict[str, list[str]] = {}
    for job in jobs:
        if job["code"] != 0:
            own = [word for word in job["overrides"] if word not in shared]
            errors.setdefault(job["error"], []).append(" ".join(own) or "the only one")
    count = sum(map(len, errors.values()))
    told = "; ".join(f"{', '.join(names)}: {error}" for error, names in errors.items())
    return f"{count} of {len(jobs)} jobs failed: {told}" if told else f"none of {len(jobs)} jobs failed"


def told(error: Exception) -> tuple[int, str]:
    """A job's exit code, and what to say of its error in one line; 1 is a bug's."""
    if isinstance(error, UsageError | OmegaConfBaseException):
        return 2, " ".join(str(error).split())
    if isinstance(error, CalledProcessError):
        return error.returncode, f"its processes ended with code {error.returncode}"
    return 1, " ".join(f"{type(error).__name__}: {error}".split())


def end(message: str, code: int) -> None:
    """One line on stderr, and out: Hydra makes warnings of exceptions here, but lets SystemExit through."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


@contextmanager
def collected() -> Iterator[None]:
    """Inside: a sweep that its launcher gives up (a worker was killed) is collected as far as it came."""
    try:
        yield
    except (Exception, SystemExit) as error:
        sweep = STARTED.get()
        STARTED.set(None)
        if sweep is None or others_tell() or not sweep.jobs():
            raise
        sweep.collect()
        if type(error).__module__.partition(".")[0] in ("submitit", "joblib", "ray"):
            print(f"error: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
            end(
                f"the launcher gave up; of those begun {failures(sweep.jobs())}; jobs that are queued or "
                f"running end by themselves, and python -m benchmarks.collect {sweep.folder} gathers them "
                f"then; the same command with folder={sweep.folder} goes on",
                1,
            )
        raise


def short(name: str) -> str:
    """The name of a run's folder: Hydra's, or where that is no file name, its beginning and a checksum."""
    if name and "/" not in name and len(name.encode()) <= LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    kept = name.replace("/", "_").encode()[: LONGEST - len(digest) - 1].decode(errors="ignore")
    return f"{kept}~{digest}" if name else "run"


OmegaConf.register_new_resolver(
    "short", short, replace=True
)  # here, as jobs elsewhere import this module alone
