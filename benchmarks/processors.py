"""The processor of a checkpoint: the stock one, or one put together from its parts without torchvision.

Where torchvision is missing, transformers builds no processor with a video processor among its parts (Qwen,
InternVL, LLaVA-OneVision and others), although pictures need none: image processors exist for PIL as well.
"""

import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError
from inspect import signature
from typing import Any, ClassVar

import transformers
from transformers import AutoConfig, AutoProcessor, AutoTokenizer
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # older: not from the top
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

from benchmarks import processes
from benchmarks.usage import UsageError, nearest

REFUSALS = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError)
"""What transformers raises on files that are missing, damaged or not meant for each other."""


def first_line(error: Exception) -> str:
    """The first line of what a library says, or the kind of its error when it says nothing."""
    if isinstance(error, PackageNotFoundError):
        return f"the package {error.name} is not installed; pip install {error.name}"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def read(path: str, revision: str | None, options: Mapping[str, Any]) -> Any:
    """The processor at ``path``, with its tokenizer and its image processor.

    Args:
        options: settings of the image processor or of the processor in place of those in its files.

    Raises: UsageError when it cannot be made, lacks one of the two, or has no such option.
    """
    try:
        processor = _read(path, revision, options)
    except REFUSALS as error:
        raise UsageError(
            f"no processor with a tokenizer and an image processor at {path}: {first_line(error)}"
        ) from error
    for part in ("tokenizer", "image_processor"):
        if getattr(processor, part, None) is None:
            raise UsageError(f"{path} has no {part.replace('_', ' ')}; save one there beside the weights")
    own = {
        *signature(type(processor).__init__).parameters,
        *processor.image_processor.valid_kwargs.__annotations__,
    }
    known = own - {"self", "kwargs", "chat_template", *type(processor).get_attributes()}
    for name in options:
        if name not in known:
            raise UsageError(f"unknown processor option {name}: {nearest(name, known)}")
    return processor


def _read(path: str, revision: str | None, options: Mapping[str, Any]) -> Any:
    try:
        return AutoProcessor.from_pretrained(path, revision=revision, trust_remote_code=False, **options)
    except REFUSALS as error:
        if is_torchvision_available():
            raise
        stock = error
    try:
        processor = _assembled(path, revision, options)
    except REFUSALS as error:
        if "torchvision" not in str(stock).lower():  # older transformers does not always say what is missing
            raise stock from None
        raise UsageError(
            f"the processor at {path} needs torchvision, which is not installed; pip install torchvision "
            f"(it cannot be made without: {first_line(error)})"
        ) from error
    _tell(path)
    return processor


@cache
def _tell(path: str) -> None:
    if processes.rank() == 0:
        print(
            f"note: torchvision is not installed: {path} gets its image processor for PIL, whose pixels "
            f"differ slightly from torchvision's, and takes no videos; pip install torchvision for its own",
            file=sys.stderr,
        )


def _assembled(path: str, revision: str | None, options: Mapping[str, Any]) -> Any:
    """The checkpoint's processor class with the parts that can be had, and a stand-in for videos."""
    kind: Any = type("Assembled", (_AnyVideos, _class(path, revision)), {})
    parts = [_part(name, path, revision, options) for name in kind.get_attributes()]
    settings, _ = kind.get_processor_dict(path, revision=revision)
    own = {name: value for name, value in options.items() if name in signature(kind.__init__).parameters}
    processor = kind.from_args_and_dict(parts, settings, **own)
    kind.__name__ = kind.__qualname__ = kind.__mro__[2].__name__
    return processor


def _class(path: str, revision: str | None) -> Any:
    """The processor's class: the one that its files name, else the one of the model."""
    named = ProcessorMixin.get_processor_dict(path, revision=revision)[0].get("processor_class")
    if named is None:
        named = ImageProcessingMixin.get_image_processor_dict(path, revision=revision)[0].get(
            "processor_class"
        )
    if named is None:
        return PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(path, revision=revision))]
    found = getattr(transformers, named)
    if getattr(found, "is_dummy", False):
        raise ValueError(f"{named} itself needs it")
    return found


def _part(name: str, path: str, revision: str | None, options: Mapping[str, Any]) -> Any:
    if name == "image_processor":
        return AutoImageProcessor.from_pretrained(
            path, revision=revision, backend="pil", trust_remote_code=False, **options
        )
    if name == "video_processor":
        return _NoVideos()
    if "tokenizer" not in name:
        raise ValueError(f"nothing here makes its {name.replace('_', ' ')}")
    subfolder = "" if name == "tokenizer" else name
    return AutoTokenizer.from_pretrained(
        path, revision=revision, subfolder=subfolder, trust_remote_code=False
    )


class _NoVideos(ImageProcessingMixin):
    """Stands where a video processor would, with what is read from one when there is no video."""

    model_input_names: ClassVar[list[str]] = []
    num_frames = fps = None


class _AnyVideos:
    """A processor that takes the stand-in; the class to compare with does not exist without torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor":
            return type(argument)
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[misc]
