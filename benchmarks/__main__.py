"""``python -m benchmarks key=value ...``: Hydra composes conf/, mistakes end with exit code 2."""

import errno
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmarks.launch import leave, start_processes
from benchmarks.sweep import collected
from benchmarks.usage import UsageError, nearest

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when nothing more can be written."""

OPEN = ("generate", "processor", "quantization")
"""Nodes that take more keys than their YAML has."""

CONF = Path(__file__).parents[1] / "conf"

EXTRAS = {"joblib": "joblib", "submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray"}
"""Hydra's name of a launcher -> the extra that brings it."""


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


def refused(error: OSError, folder: Path) -> str | None:
    """What to say of a run folder that cannot be made, or of a user's file that may not be read."""
    if not isinstance(error.filename, str):
        return None
    path, folder = Path(error.filename).absolute(), folder.absolute()
    inside = isinstance(error, PermissionError | FileExistsError | NotADirectoryError)
    if folder.is_relative_to(path) or (inside and path.is_relative_to(folder)):
        return f"{error.filename}: {error.strerror}; choose another folder="
    return unreadable(error)


def unreadable(error: OSError) -> str | None:
    """What to say of a file that may not be read; None if it is no user's."""
    if not isinstance(error, PermissionError) or not isinstance(error.filename, str):
        return None
    ours = (Path(__file__).parent, sys.prefix)
    if any(Path(error.filename).absolute().is_relative_to(place) for place in ours):
        return None
    return f"{error.filename}: {error.strerror}; whoever runs this must be allowed to read it"


def explain(error: Exception, config: str) -> str:
    """What a mistake that Hydra found means here, with the nearest names."""
    text = str(error)
    if isinstance(error, MissingConfigException):
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        if group == "hydra/launcher" and name in EXTRAS:
            extra = EXTRAS[name]
            return (
                f"this launcher needs the extra {extra!r}, not installed: pip install --editable '.[{extra}]'"
            )
        found = re.search(r"'(\w+)/([^'/]+)'", text)
        if found:
            group, name = found.groups()
            known = (path.stem for path in (CONF / group).glob("*.yaml"))
            return f"unknown {group} {name!r}: {nearest(name, known)}"
    found = re.match(r"Could not override '([^']+)'", text)
    if found:
        full = re.search(r"full_key: (\S+)", str(error.__cause__ or text))
        return unknown_key(full[1] if full and full[1].startswith(found[1]) else found[1], config)
    return text


def no_choice(config: str) -> str:
    """Of the words given, the first that chooses nothing from a group of YAMLs."""
    for word in OverridesParser.create().parse_overrides([w for w in sys.argv[1:] if not w.startswith("-")]):
        names, group = word.value(), word.key_or_group
        if group in ("", *groups(config)) and not isinstance(names, str | list):
            known = nearest(group, (path.stem for path in (CONF / group).glob("*.yaml"))) if group else ""
            return f"{word.input_line}: expected {f'names of {group}s. {known}' if group else 'key=value'}"
    return "a choice from a group must be a name, or names in [ ]"


def groups(config: str) -> set[str]:
    """Groups of YAMLs that ``conf/<config>.yaml`` chooses from."""
    defaults = OmegaConf.load(CONF / f"{config}.yaml").defaults
    return {str(name) for entry in defaults if isinstance(entry, DictConfig) for name in entry}


def unknown_key(key: str, config: str) -> str:
    """Which part of a dotted key is not there, and what is there in its place."""
    given = [word for word in sys.argv[1:] if word.split("=")[0] in groups(config)]
    parsed = OverridesParser.create().parse_overrides(given)
    choices = [
        f"{word.key_or_group}={next(word.sweep_string_iterator())}" if word.is_sweep_override() else text
        for text, word in zip(given, parsed, strict=True)
    ]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose(config, choices)
    path = key.split(".")
    for depth, part in enumerate(path):
        if not isinstance(node, DictConfig) or part not in node:
            where = ".".join(path[:depth])
            place = f" in {where}" if where else ""
            if depth and (path[depth - 1] in OPEN or node == {}):
                return f"{where} has no {part}; a + adds it: +{key}=..."
            known = (str(name) for name in node) if isinstance(node, DictConfig) else ()
            return f"unknown key {key}: {nearest(part, known)}{place}"
        node = node[part]
    return f"{key} cannot be set; --help lists the keys"


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
