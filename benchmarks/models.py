"""Checkpoints: any image-text-to-text model of transformers, with its processor, through one path."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from benchmarks.usage import UsageError

Messages = list[dict[str, Any]]
"""A conversation as chat templates take it, its images among it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint by hub name or by folder, and where it runs.

    Attributes:
        path: ``owner/name`` on the hub, or a folder written by save_pretrained.
        revision: of a hub checkpoint; None for its newest.
        dtype: float32, bfloat16, float16, or auto for what the checkpoint holds.
        device: cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one.
    """

    path: str
    revision: str | None
    dtype: str
    device: str

    def check(self, name: str) -> int:
        """Whatever can be known without loading the weights. Returns: the number of text blocks.

        Raises: UsageError on a folder, a configuration, a tokenizer or a device that is not there.
        """
        resolve_device(self.device, name)
        if self.dtype != "auto" and not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise UsageError(
                f"model {name}: dtype {self.dtype!r} is none; use float32, bfloat16, float16 or auto"
            )
        if not Path(self.path).is_dir() and _looks_local(self.path):
            raise UsageError(f"model {name}: no folder {self.path}; set model.{name}.path")
        try:
            config = AutoConfig.from_pretrained(self.path, revision=self.revision)
        except (OSError, ValueError) as error:
            raise UsageError(f"model {name}: no configuration at {self.path}: {first_line(error)}") from error
        self.processor(name)
        return int(config.get_text_config().num_hidden_layers)

    def processor(self, name: str) -> Any:
        """The processor, padding left. Raises: UsageError when it lacks a tokenizer or a chat template."""
        try:
            processor = AutoProcessor.from_pretrained(self.path, revision=self.revision)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"model {name}: no processor with a tokenizer at {self.path}: {first_line(error)}"
            ) from error
        if getattr(processor, "tokenizer", None) is None:
            raise UsageError(f"model {name}: {self.path} has no tokenizer; save one there beside the weights")
        if not getattr(processor, "chat_template", None):
            raise UsageError(f"model {name}: the processor at {self.path} has no chat template")
        processor.tokenizer.padding_side = "left"
        return processor

    def load(self, name: str) -> "Loaded":
        """The model in evaluation mode. Raises: UsageError when its weights cannot be loaded."""
        transformers.utils.logging.disable_progress_bar()
        try:
            model = AutoModelForImageTextToText.from_pretrained(
                self.path, revision=self.revision, dtype=self.dtype
            )
        except (OSError, ValueError) as error:
            raise UsageError(f"model {name}: {self.path} cannot be loaded: {first_line(error)}") from error
        return Loaded(name, model.to(resolve_device(self.device, name)).eval(), self.processor(name))

    def checksum(self) -> str:
        """What identifies the weights: a hash of a folder's files (its card aside), or the hub's commit."""
        folder = Path(self.path)
        if not folder.is_dir():
            return f"commit:{AutoConfig.from_pretrained(self.path, revision=self.revision)._commit_hash}"
        total = hashlib.sha256()
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md"):
            with path.open("rb") as file:
                total.update(f"{path.relative_to(folder)} ".encode())
                total.update(hashlib.file_digest(file, "sha256").digest())
        return f"sha256:{total.hexdigest()}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, its processor, and the name under which its results go."""

    name: str
    model: Any
    processor: Any

    def inputs(self, conversations: Sequence[Messages]) -> Any:
        """One left-padded batch of conversations that end with the user's turn, on the model's device."""
        texts = [self.processor.apply_chat_template(c, add_generation_prompt=True) for c in conversations]
        images = [
            part["image"]
            for c in conversations
            for message in c
            for part in message["content"]
            if "image" in part
        ]
        batch = self.processor(images=images, text=texts, padding=True, return_tensors="pt")
        return batch.to(self.model.device, self.model.dtype)

    def lengths(self, inputs: Any) -> list[int]:
        """Tokens of each prompt of a batch, padding aside."""
        return [int(length) for length in inputs["attention_mask"].sum(dim=1)]

    @property
    def context(self) -> int | None:
        """The most tokens of prompt and answer; None where the configuration does not say."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def rendered(self, messages: Messages) -> str:
        """The text that a conversation becomes; its images need not be there."""
        return str(self.processor.apply_chat_template(messages, add_generation_prompt=True))


def resolve_device(device: str, name: str) -> torch.device:
    """``auto`` gives each process an accelerator of its own, if there are as many.

    Raises: UsageError when this machine has no such device.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device == "auto":
        if accelerator is None:
            return torch.device("cpu")
        if "LOCAL_RANK" not in os.environ:
            return accelerator
        return torch.device(
            accelerator.type, int(os.environ["LOCAL_RANK"]) % torch.accelerator.device_count()
        )
    there = ["cpu"]
    if accelerator is not None:
        count = torch.accelerator.device_count()
        there += [accelerator.type, *(f"{accelerator.type}:{index}" for index in range(count))]
    if device not in there:
        raise UsageError(f"model {name}: device {device!r} is not there; this machine has {', '.join(there)}")
    return torch.device(device)


def first_line(error: Exception) -> str:
    """The first line of what a library says, or the kind of its error when it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _looks_local(path: str) -> bool:
    return path.startswith((".", "/", "~")) or path.count("/") != 1
