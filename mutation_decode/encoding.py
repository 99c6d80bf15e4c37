"""Images and one prompt as the inputs of generate, by the model's own processor and chat template."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .probe import first_parameter

PROMPT = "Please describe this image in detail."
"""What the paper asks."""

Encode = Callable[[Sequence[Any]], Mapping[str, Any]]
"""From images to what generate takes for them, left-padded and on the model's device."""


def encoder(model: nn.Module, processor: Any, prompt: str = PROMPT) -> Encode:
    """Asks the same of every image, through the chat template of the processor (or of its tokenizer).

    Images may be paths; these are opened one batch at a time.

    Raises:
        ValueError: if there is no chat template, or no tokenizer.
    """
    tokenizer = getattr(processor, "tokenizer", None)
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
    if tokenizer is None or not template:
        raise ValueError(
            f"expected a processor with a tokenizer and a chat template to write the prompt with, got "
            f"{type(processor).__name__}, which has none; pass encode=, a function from images to the inputs "
            f"of generate."
        )
    text = str(processor.apply_chat_template([turn], chat_template=template, add_generation_prompt=True))
    start = getattr(tokenizer, "bos_token", None)
    # A whole text would begin twice.
    special = {"add_special_tokens": False} if start and text.startswith(start) else {}

    def encode(images: Sequence[Any]) -> Mapping[str, Any]:
        side, tokenizer.padding_side = tokenizer.padding_side, "left"
        try:
            inputs = processor(
                text=[text] * len(images),
                images=[[opened(image)] for image in images],
                padding=True,
                return_tensors="pt",
                **special,
            )
        finally:
            tokenizer.padding_side = side
        inputs.pop("labels", None)
        device = first_parameter(model).device
        # Where weights wait on the disk, accelerate takes inputs from anywhere.
        moved: Mapping[str, Any] = inputs.to("cpu" if device.type == "meta" else device, model.dtype)
        return moved

    return encode


def opened(image: Any) -> Any:
    """The image of a file, in RGB, the way up that it is shown; anything but a path is given back.

    Raises:
        OSError: if the file is not there, or is no image.
        ValueError: if it is far too large to be one.
    """
    if not isinstance(image, str | Path):
        return image
    from PIL import Image, ImageOps

    try:
        with Image.open(image) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except Image.DecompressionBombError as error:  # which is no OSError
        raise ValueError(str(error)) from error
