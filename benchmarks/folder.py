"""The run folder: what was asked, with what it was answered, and whether a rerun may go on in it."""

import hashlib
import json
import math
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from benchmarks.usage import UsageError

OWN = (
    *(
        "config.yaml",
        "versions.json",
        "lists",
        "predictions",
        "tuning",
        "tuning.json",
        "scores.json",
        "table.md",
    ),
    *("problems.json", "cost", "cost.json", "calibration", "js_by_layer.png", "js_heatmap.png"),
    *("report.html", "traces"),
)
"""What a run writes; ``overwrite=true`` removes nothing else."""
APART = (
    *("benchmarks/analysis/", "benchmarks/conformance/", "benchmarks/evidence/", "benchmarks/report_page/"),
    *(
        f"benchmarks/miniature/{name}.py"
        for name in ("train", "learning", "lessons", "packing", "curriculum")
    ),
)
"""What of the harness no answer depends on: weights have a checksum of their own."""

IMAGES = "images of task"
"""The group of checksums that may change when images are mended."""

ELSEWHERE = ("folder", "overwrite", "processes", "retry")
"""Keys of the configuration that say where and how, not what."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder that holds one configuration's run."""

    path: Path

    def predictions(self, model: str, method: str, task: str) -> Path:
        return self.path / "predictions" / model / method / f"{task}.jsonl"

    def tuning(self, model: str, method: str, candidate: int) -> Path:
        return self.path / "tuning" / model / method / f"{candidate}.jsonl"

    def costs(self, model: str, method: str, task: str) -> Path:
        """The folder of what answers took, a file for each process."""
        return self.path / "cost" / model / method / task

    def write(self, name: str, content: Any) -> None:
        """Text as it is, the rest as JSON; in one move, so that a kill leaves the old file or the new one."""
        text = (
            content
            if isinstance(content, str)
            else json.dumps(defined(content), indent=1, ensure_ascii=False) + "\n"
        )
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, "utf-8")
        partial.replace(path)


@contextmanager
def opened(
    path: Path,
    config: Mapping[str, Any],
    checksums: Mapping[str, Mapping[str, str]],
    *,
    overwrite: bool,
    retry: bool,
) -> Iterator[RunFolder]:
    """Takes a new or empty folder, or one that holds the same run; any other is refused, or emptied if so
    asked. While the context lasts nobody else can take it.

    Args:
        config: resolved; all of it but ELSEWHERE must agree with what is there.
        checksums: of each model's files ("model"), of each task's items and of the files that they are from
            ("task"), of its images ("images of task"): group -> name -> checksum; must agree too.
        retry: whether images may differ, since they were mended.

    Raises: UsageError, with what changed, or when another run is at work there.
    """
    config = {key: value for key, value in config.items() if key not in ELSEWHERE}
    ours = (path / "config.yaml").exists()
    if not ours and path.is_dir() and any(not _begun(entry.name) for entry in path.iterdir()):
        raise UsageError(f"{path} is not empty and holds no run; choose another folder=")
    path.mkdir(parents=True, exist_ok=True)
    with locked(path, 0):
        yield _taken(path, config, checksums, ours=ours, overwrite=overwrite, retry=retry)


def _begun(name: str) -> bool:
    """Whether this is a file of a run that was killed before it had written its config.yaml."""
    return (
        name == "versions.json" or name.startswith(".lock") or (name[:1] == "." and name.endswith(".partial"))
    )


@contextmanager
def locked(path: Path, rank: int) -> Iterator[None]:
    """Each process of a run holds a lock of its own, and the first one sees that no other run's is held.

    A killed run's processes may outlive it, and two that append to one file would spoil it.

    Raises: UsageError when another run is at work in the folder.
    """
    try:
        if rank == 0:
            for other in path.glob(".lock.*"):
                with FileLock(other, timeout=0):
                    pass
        with FileLock(path / f".lock.{rank}", timeout=0):
            yield
    except Timeout:
        raise UsageError(
            f"another run is at work in {path}; wait for it, stop all its processes, or choose a new folder="
        ) from None


def _taken(
    path: Path,
    config: Mapping[str, Any],
    checksums: Mapping[str, Mapping[str, str]],
    *,
    ours: bool,
    overwrite: bool,
    retry: bool,
) -> RunFolder:
    if ours and overwrite:
        for name in OWN[2:]:  # what the folder holds stays known, and is written anew below
            entry = path / name
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
    elif ours:
        changed = list(_changes(path, config, checksums, mended=retry))
        if changed:
            shown = "; ".join(changed[:4]) + (f"; and {len(changed) - 4} more" if len(changed) > 4 else "")
            raise UsageError(
                f"{path} holds another run ({shown}); "
                f"replace it with overwrite=true, or choose another folder="
                + ("; retry=true, if images were mended" if all(IMAGES in one for one in changed) else "")
            )
    folder = RunFolder(path)
    folder.write("versions.json", {**checksums, "code": code(), **versions()})
    folder.write("config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))
    return folder


def defined(node: Any) -> Any:
    """JSON has no NaN: a figure that divides by 0 becomes null."""
    if isinstance(node, Mapping):
        return {key: defined(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [defined(value) for value in node]
    return None if isinstance(node, float) and math.isnan(node) else node


def code() -> dict[str, str]:
    """What answers depend on beside configuration and weights: our sources, torch, transformers."""
    root, total = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted([*root.glob("mutation_decode/**/*.py"), *root.glob("benchmarks/**/*.py")]):
        name = path.relative_to(root).as_posix()
        if not name.startswith(APART):
            total.update(name.encode() + path.read_bytes())
    return {
        "the code": total.hexdigest(),
        **{name: _version(name) for name in ("torch", "transformers", "tokenizers", "pillow", "torchvision")},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def versions() -> dict[str, Any]:
    """Python, the commit of this checkout (``+`` when files differ from it), every installed package."""
    packages = {d.metadata["Name"]: d.version for d in distributions()}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": _commit(),
        "packages": dict(sorted(packages.items(), key=lambda pair: pair[0].lower())),
    }


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
        ).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None  # an exported tree, or a machine without git


def _changes(
    path: Path, config: Mapping[str, Any], checksums: Mapping[str, Mapping[str, str]], *, mended: bool
) -> Iterator[str]:
    """``key: old -> new`` of everything that differs from the run in ``path``."""
    old = dict(_leaves(OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))))
    new = dict(_leaves(config))
    for key in dict.fromkeys([*old, *new]):
        before, after = (flat.get(key, "absent") for flat in (old, new))
        if before != after:
            yield f"{key}: {before} -> {after}"
    made_with = json.loads((path / "versions.json").read_text("utf-8"))
    for name, digest in code().items():
        if made_with["code"].get(name) != digest:
            yield f"{name}: {str(made_with['code'].get(name))[:12]} -> {digest[:12]}"
    for group, found in checksums.items():
        if mended and group == IMAGES:
            continue
        for name, checksum in found.items():
            known = made_with.get(group, {}).get(name, checksum)
            if known != checksum:
                yield f"the files of {group} {name}: {known[:19]} -> {checksum[:19]}"


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node
