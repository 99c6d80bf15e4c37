"""Where a checkpoint's files are and which they are: a folder and a hash of it, or the hub and a commit."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from transformers.utils import cached_file

from benchmarks.usage import UsageError

SAID_NO = (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError)
"""The hub has answered: there is no such thing, or not for this user."""

WHOLE = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class Source:
    """From where everything of a checkpoint is read, so that no two states of it are mixed.

    Attributes:
        place: a folder (the user's, or that of a commit in the hub's cache) or a name on the hub.
        revision: the commit to read at of a name on the hub; None of a folder.
        commit: the commit on the hub, wherever it is read; None of the user's folder.
    """

    place: str
    revision: str | None
    commit: str | None

    @property
    def folder(self) -> Path | None:
        """The folder that everything is in; None where files are yet to be fetched."""
        return Path(self.place) if self.revision is None else None


def looks_local(path: str) -> bool:
    """Whether this is a folder's name rather than ``owner/name`` on the hub."""
    return path.startswith((".", "/", "~")) or path.count("/") != 1


def local(path: str) -> Path:
    """The folder of this name, there or not; ``~`` is the user's home."""
    return Path(os.path.expanduser(path))


@cache
def source(path: str, revision: str | None) -> Source:
    """Where a checkpoint is to be read, asked once a process.

    A hub that does not answer at the first attempt is not asked again: every file that a model may have or
    not have would be tried for half a minute. The cache then stands for it, as one folder.

    Raises: OSError or ValueError when neither the hub nor the cache has it.
    """
    folder = local(path)
    if folder.is_dir():
        return Source(str(folder), None, None)
    try:
        get_hf_file_metadata(
            hf_hub_url(path, "config.json", revision=revision), timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except Exception as error:  # of whichever HTTP library the hub's client uses
        cached = try_to_load_from_cache(path, "config.json", revision=revision)
        if isinstance(cached, str):
            snapshot = Path(cached).parent  # .../snapshots/COMMIT
            return Source(str(snapshot), None, snapshot.name)
        if not isinstance(error, SAID_NO):
            at = f" --revision {revision}" if revision else ""
            raise OSError(
                f"the hub does not answer and the cache has none; on a machine without network fetch it "
                f"elsewhere with `hf download {path}{at}` and set HF_HUB_OFFLINE=1"
            ) from error
    # Where the hub said no, this raises what it said.
    found = Path(cached_file(path, "config.json", revision=revision))
    return Source(path, found.parent.name, found.parent.name)


def checksum(path: str, revision: str | None) -> str:
    """What identifies the weights: a hash of a folder's files, or the hub's commit.

    Cards and hidden files (the hub's client leaves some, with the time in them) are no part of it.
    """
    at = source(path, revision)
    if at.commit is not None:
        return f"commit:{at.commit}"
    folder, total = Path(at.place), hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md"):
        name = file.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue
        with file.open("rb") as opened:
            total.update(f"{name} ".encode())
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return f"sha256:{total.hexdigest()}"


def missing_weights(folder: Path) -> list[str]:
    """Files of weights that are not there, of those that would be read: a whole one first, then an index's.

    Raises: UsageError when the index cannot be read.
    """
    for whole in WHOLE:
        if (folder / whole).is_file():
            return []
        index = folder / f"{whole}.index.json"
        if index.is_file():
            shards = settings(index).get("weight_map")
            if not isinstance(shards, dict) or not shards:
                raise UsageError(f"{index} has no weight_map, which says what file has which weights")
            return sorted({str(shard) for shard in shards.values() if not (folder / str(shard)).is_file()})
    return [WHOLE[0]]


def unread_weights(told: Mapping[str, Any]) -> str:
    """Which of a model's weights are random, as its files have none for them that fit; empty if none are.

    Args:
        told: what from_pretrained says with ``output_loading_info``; tied weights are not missing there.
    """
    shapes = [key for key, *_ in told["mismatched_keys"]]
    for keys, said in ((told["missing_keys"], "not there"), (shapes, "of another shape")):
        if keys:
            more = ", ..." if len(keys) > 5 else ""
            return f"{len(keys)} of its weights are {said}: {', '.join(sorted(keys)[:5])}{more}"
    return ""


def settings(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises: UsageError when it holds none."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is no JSON ({error}); fetch it again, or save the model again") from error
    if not isinstance(found, dict):
        raise UsageError(f"{file} holds {json.dumps(found)[:20]} in place of settings {{...}}")
    return found
