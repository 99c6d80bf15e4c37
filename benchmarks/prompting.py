"""How a conversation becomes the text that a processor takes: with an image token where an image goes.

A template of the model's YAML comes first, then the chat template of the processor, then that of its
tokenizer (which knows of no images: their tokens are put in front of the text), then the bare prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from benchmarks.usage import UsageError

Messages = list[dict[str, Any]]
"""A conversation as chat templates take it, its images among it."""


def images_of(messages: Messages) -> list[Any]:
    """What stands for an image in a conversation, in order; to write the text nothing need be in it."""
    return [part for message in messages for part in message["content"] if part["type"] == "image"]


@dataclass(frozen=True, slots=True)
class Prompting:
    """The way prompts are written for one checkpoint.

    Attributes:
        way: "template", "chat template", "tokenizer's chat template" or "plain".
        token: what stands for one image in the text; empty where the processor puts its images there itself.
    """

    way: str
    token: str
    processor: Any
    template: str | None

    def text(self, messages: Messages) -> str:
        """The text for a conversation that ends with the user's turn.

        Raises: ValueError when it has several turns and the template one place, or another number of images
            than a processor takes that puts them into the text itself, or words that are taken for an image.
        """
        words = " ".join(map(_words, messages))
        if said := [token for token in placeholders(self.processor) if token in words]:
            raise ValueError(f"its words have {', '.join(said)}, which stands for what is no text")
        if not self.token and (count := len(images_of(messages))) != 1:
            raise ValueError(f"this model takes one image, before the text; the conversation has {count}")
        if self.way == "chat template":
            return str(self.processor.apply_chat_template(messages, add_generation_prompt=True))
        if self.way == "tokenizer's chat template":
            told = [
                {"role": m["role"], "content": f"{self._images(m)}\n{_words(m)}".lstrip("\n")}
                for m in messages
            ]
            text = self.processor.tokenizer.apply_chat_template(
                told, tokenize=False, add_generation_prompt=True
            )
            return str(text)
        if len(messages) != 1 or messages[0]["role"] != "user":
            raise ValueError(
                f"a prompt without a chat template takes one turn of the user, and the conversation has "
                f"{len(messages)} turns ({', '.join(str(m['role']) for m in messages)})"
            )
        images, words = self._images(messages[0]), _words(messages[0])
        if self.template is None:
            return f"{images}\n{words}" if images else words
        return self.template.replace("{images}", images).replace("{prompt}", words)

    def inputs(self, conversations: Sequence[Messages]) -> Any:
        """The padded batch of conversations, on the CPU, as the processor makes it.

        Raises: ValueError when a conversation cannot be written, or the processor does not take its images.
        """
        texts = [self.text(messages) for messages in conversations]
        images = [[part["image"] for part in images_of(messages)] for messages in conversations]
        start = self.processor.tokenizer.bos_token
        whole = bool(start) and all(text.startswith(start) for text in texts)
        return self.processor(
            text=texts,
            images=images if any(images) else None,
            padding=True,
            return_tensors="pt",
            # A whole text would begin twice; any other begins (and ends) as the processor's authors chose.
            **({"add_special_tokens": False} if whole else {}),
        )

    def _images(self, message: dict[str, Any]) -> str:
        return self.token * len(images_of([message]))


def prompting(processor: Any, template: str | None) -> Prompting:
    """The first way that this processor has.

    Raises: UsageError when the template has no place for the prompt or for the images, or does not work.
    """
    token = _token(processor)
    if template is not None:
        if "{prompt}" not in template:
            raise UsageError(f"the template {template!r} has no {{prompt}}, where the prompt is to go")
        if token and "{images}" not in template:
            raise UsageError(f"the template {template!r} has no {{images}}, where {token} is to go")
        way = "template"
    elif getattr(processor, "chat_template", None):
        way = "chat template"
    elif getattr(processor.tokenizer, "chat_template", None):
        way = "tokenizer's chat template"
    else:
        way = "plain"
    made = Prompting(way, token, processor, template)
    content = [{"type": "image", "image": _picture()}, {"type": "text", "text": "Is it?"}]
    try:
        made.inputs([[{"role": "user", "content": content}]])
    except Exception as error:  # a chat template is a program, and its author's
        raise UsageError(f"prompts by {way} do not work with this processor: {error}") from error
    return made


def placeholders(processor: Any) -> list[str]:
    """The tokens that stand for an image, a video or a sound; for some classes, each half has its own."""
    found = (
        getattr(part, f"{kind}_token", None)
        for part in (processor, processor.tokenizer)
        for kind in ("image", "video", "audio")
    )
    return list(dict.fromkeys(str(token) for token in found if token))


def _token(processor: Any) -> str:
    """The image token; of a processor that puts images before the text and takes no token there, none."""
    token = str(getattr(processor, "image_token", None) or "")
    bare, marked = (_length_of_image(processor, start) for start in ("", token))
    return "" if bare > 0 and marked != bare else token


def _length_of_image(processor: Any, start: str) -> int:
    """How much longer one image, marked by ``start``, makes a text; 0 where it is refused."""
    try:
        ids = processor(text=[f"{start}x"], images=[[_picture()]], return_tensors="pt")["input_ids"]
    except Exception:  # each processor says in its own way that it has no place for an image
        return 0
    return len(ids[0]) - len(processor.tokenizer("x")["input_ids"])


def _picture() -> Image.Image:
    return Image.new("RGB", (64, 64))


def _words(message: dict[str, Any]) -> str:
    return "\n".join(part["text"] for part in message["content"] if part["type"] == "text")
