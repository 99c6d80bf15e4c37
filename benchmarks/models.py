"""Checkpoints: any image-text-to-text model of transformers, with its processor, through one path."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from safetensors import SafetensorError
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoModelForImageTextToText
from transformers.quantizers import AutoHfQuantizer

from benchmarks import processes, processors, sources
from benchmarks.placement import check_spread, entrance, resolve_device
from benchmarks.processors import first_line
from benchmarks.prompting import Messages, Prompting, prompting
from benchmarks.usage import UsageError

DTYPES = ("float32", "bfloat16", "float16", "auto")
"""What a model computes in; fewer bits are a matter of quantization."""

__all__ = ["Checkpoint", "Loaded", "Messages", "first_line", "resolve_device"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint by hub name or by folder, how it is loaded and how it is asked.

    Attributes:
        path: ``owner/name`` on the hub, or a folder written by save_pretrained.
        revision: of a hub checkpoint: a branch, a tag or a commit; None for its newest.
        dtype: float32, bfloat16, float16, or auto for what the checkpoint holds.
        device: cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one.
        device_map: None, or how accelerate spreads the model over devices; ``device`` is then not used.
        quantization: None, or the ``_target_`` and the arguments of a quantization config of transformers.
        attention: None for what the model prefers, else eager, sdpa, flash_attention_2 or another it has.
        template: None, or the prompt with ``{images}`` and ``{prompt}``, in place of any chat template.
        processor: None, or settings of the (image) processor in place of those in its files.
    """

    path: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | Mapping[str, Any] | None = None
    quantization: Mapping[str, Any] | None = None
    attention: str | None = None
    template: str | None = None
    processor: Mapping[str, Any] | None = None

    def check(self, name: str) -> int:
        """Whatever can be known without loading the weights. Returns: the number of text blocks.

        Raises: UsageError on what is not there, does not fit or cannot generate.
        """
        if self.device_map is None:
            resolve_device(self.device, name)
        else:
            check_spread(self.device_map, name)
        if self.dtype not in DTYPES:
            raise UsageError(
                f"model {name}: dtype {self.dtype!r} is none; use float32, bfloat16, float16 or auto"
            )
        self._check_files(name)
        config = self._config(name)
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise UsageError(
                f"model {name}: {self.path} is a {config.model_type}, which no image-text-to-text class "
                f"of transformers {transformers.__version__} is for"
            )
        model = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
        if not model.can_generate():
            raise UsageError(f"model {name}: {model.__name__}, the class of {self.path}, cannot generate")
        self._check_attention(config, name)
        self._check_quantization(name)
        self._prompting(name)
        text = config.get_text_config(decoder=True)
        named = (getattr(text, key, None) for key in ("decoder_layers", "num_decoder_layers"))  # BART's, T5's
        return int(next(filter(None, named), text.num_hidden_layers))

    def load(self, name: str) -> "Loaded":
        """The model in evaluation mode. Raises: UsageError when its weights cannot be loaded or lack some."""
        transformers.utils.logging.disable_progress_bar()
        try:
            at = sources.source(self.path, self.revision)
            model, told = AutoModelForImageTextToText.from_pretrained(
                at.place,
                revision=at.revision,
                dtype=self.dtype,
                device_map=self.device_map or {"": resolve_device(self.device, name)},
                attn_implementation=self.attention,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # or the reason for the refusal would be a table
                output_loading_info=True,
                # Not even None, which would have a checkpoint forget that it is quantized already.
                **({} if self.quantization is None else {"quantization_config": self._quantization()}),
            )
        except (*processors.REFUSALS, RuntimeError, SafetensorError) as error:
            raise UsageError(f"model {name}: {self.path} cannot be loaded: {first_line(error)}") from error
        if lost := sources.unread_weights(told):
            raise UsageError(f"model {name}: {self.path} is no whole checkpoint of its class: {lost}")
        _settle_ends(model)
        return Loaded(name, model.eval(), self._prompting(name))

    def checksum(self) -> str:
        """What identifies the weights: a hash of a folder's files (its card aside), or the hub's commit."""
        return sources.checksum(self.path, self.revision)

    def _config(self, name: str) -> Any:
        try:
            at = sources.source(self.path, self.revision)
            return AutoConfig.from_pretrained(at.place, revision=at.revision, trust_remote_code=False)
        except (*processors.REFUSALS, StrictDataclassError) as error:
            raise UsageError(f"model {name}: no configuration at {self.path}: {first_line(error)}") from error

    def _prompting(self, name: str) -> Prompting:
        try:
            at = sources.source(self.path, self.revision)
            processor = processors.read(at.place, at.revision, self.processor or {})
            # A decoder goes on where the prompt ends; an encoder counts its places from the first.
            side = "right" if self._config(name).is_encoder_decoder else "left"
            processor.tokenizer.padding_side = side
            if processor.tokenizer.pad_token is None:
                processor.tokenizer.pad_token = processor.tokenizer.eos_token
            asked = prompting(processor, self.template)
        except UsageError as error:
            raise UsageError(f"model {name}: {error}") from error
        if asked.way == "plain" and asked.token:
            _tell_bare(self.path, name)
        return asked

    def _quantization(self) -> Any:
        return instantiate(self.quantization, _convert_="all")

    def _check_files(self, name: str) -> None:
        if sources.looks_local(self.path) and not sources.local(self.path).is_dir():
            raise UsageError(f"model {name}: no folder {self.path}; set model.{name}.path")
        try:
            folder = sources.source(self.path, self.revision).folder
        except (OSError, ValueError) as error:
            raise UsageError(f"model {name}: no configuration at {self.path}: {first_line(error)}") from error
        if folder is None:
            return
        if not (folder / "config.json").is_file():
            raise UsageError(f"model {name}: no configuration at {self.path}: it holds no config.json")
        try:
            missing = sources.missing_weights(folder)
            if (folder / "generation_config.json").is_file():  # it says what ends a text
                sources.settings(folder / "generation_config.json")
        except UsageError as error:
            raise UsageError(f"model {name}: {error}") from error
        if missing:
            raise UsageError(f"model {name}: {self.path} lacks its weights: no {', '.join(missing)}")

    def _check_attention(self, config: Any, name: str) -> None:
        if self.attention is None:
            return
        try:
            with torch.device("meta"):  # the model without memory
                AutoModelForImageTextToText.from_config(config, attn_implementation=self.attention)
        except (ValueError, ImportError) as error:
            raise UsageError(
                f"model {name}: no attention {self.attention!r}: {first_line(error)}; use sdpa, eager or null"
            ) from error

    def _check_quantization(self, name: str) -> None:
        if self.quantization is None:
            return
        try:
            quantizer = AutoHfQuantizer.from_config(self._quantization(), pre_quantized=False)
            quantizer.validate_environment(device_map=self.device_map)
        except (InstantiationException, ValueError, TypeError, ImportError, RuntimeError) as error:
            told = str(error) if isinstance(error, InstantiationException) else first_line(error)
            raise UsageError(f"model {name}: no quantization: {told}") from error


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, the way it is asked, and the name under which its results go."""

    name: str
    model: Any
    asked: Prompting

    @property
    def processor(self) -> Any:
        """The processor, which also turns tokens into text again."""
        return self.asked.processor

    @property
    def prompting(self) -> str:
        """Where prompts come from: template, chat template, tokenizer's chat template, plain."""
        return self.asked.way

    @property
    def context(self) -> int | None:
        """The most tokens of prompt and answer together; None if unknown, or if an encoder reads prompts."""
        if self.model.config.is_encoder_decoder:
            return None
        limit = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        return None if limit is None else int(limit)

    def rendered(self, messages: Messages) -> str:
        """The exact text for a conversation, before the processor gives an image its place in it.

        Raises: ValueError when the model does not take the conversation.
        """
        return self.asked.text(messages)

    def inputs(self, conversations: Sequence[Messages]) -> Any:
        """One left-padded batch of conversations that end with the user's turn, on the model's device.

        Raises: ValueError when the model does not take one of them.
        """
        batch = self.asked.inputs(conversations)
        batch.pop("labels", None)  # PaliGemma's processor makes them for training
        return batch.to(entrance(self.model), self.model.dtype)

    def lengths(self, inputs: Any) -> list[int]:
        """The tokens of each prompt of a batch: those of images among them, padding not."""
        return [int(count) for count in inputs["attention_mask"].sum(dim=1)]


@cache
def _tell_bare(path: str, name: str) -> None:
    if processes.rank() == 0:
        print(
            f"note: no chat template at {path}: prompts are bare; set model.{name}.template", file=sys.stderr
        )


def _settle_ends(model: Any) -> None:
    """Has a text end where the model ends it, and nowhere else."""
    model.generation_config.forced_eos_token_id = None  # BART's: it would hide that an answer was cut off
    inner: Any = getattr(model, "language_model", None)
    if type(model).generate is not transformers.GenerationMixin.generate and hasattr(inner, "generate"):
        # The model inside another one's generate (InstructBLIP, BLIP-2) knows nothing of what ends a text.
        inner.generation_config.update(**model.generation_config.to_diff_dict())
