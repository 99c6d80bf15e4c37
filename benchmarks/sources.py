"""Where a checkpoint's files are and which they are: a folder and a hash of it, or the hub and a commit."""

import hashlib
import json
from functools import cache
from pathlib import Path

from transformers.utils import cached_file

WHOLE = ("model.safetensors", "pytorch_model.bin")


def looks_local(path: str) -> bool:
    """Whether this is a folder's name rather than ``owner/name`` on the hub."""
    return path.startswith((".", "/", "~")) or path.count("/") != 1


@cache
def commit(path: str, revision: str | None) -> str | None:
    """The commit that a revision on the hub stands for, asked once a process; None for a folder.

    Everything is read at this commit, so that a branch that moves meanwhile does not mix two states.

    Raises: OSError or ValueError when neither the hub nor the cache has it.
    """
    if Path(path).is_dir():
        return None
    return Path(cached_file(path, "config.json", revision=revision)).parent.name  # .../snapshots/COMMIT


def checksum(path: str, revision: str | None) -> str:
    """What identifies the weights: a hash of a folder's files (its card aside), or the hub's commit."""
    folder = Path(path)
    if not folder.is_dir():
        return f"commit:{commit(path, revision)}"
    total = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md"):
        with file.open("rb") as opened:
            total.update(f"{file.relative_to(folder)} ".encode())
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return f"sha256:{total.hexdigest()}"


def missing_weights(folder: Path) -> list[str]:
    """Files of weights that are not there: of those that an index lists, or the one there is without it."""
    for whole in WHOLE:
        index = folder / f"{whole}.index.json"
        if index.is_file():
            shards = json.loads(index.read_text("utf-8"))["weight_map"].values()
            return sorted({shard for shard in shards if not (folder / shard).is_file()})
    return [] if any((folder / whole).is_file() for whole in WHOLE) else [WHOLE[0]]
