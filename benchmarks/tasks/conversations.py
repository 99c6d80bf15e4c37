"""Conversations of any kind, with several images and earlier turns; no truth, figures of length only.

A line of the file is one, in transformers' chat format. Example: ``{"id": "a", "messages": [{"role": "user",
"content": [{"type": "image", "image": "1.jpg"}, {"type": "image", "image": "2.jpg"}, {"type": "text", "text":
"What changed?"}]}]}``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.statistics import Ratio
from benchmarks.tasks import Item, Read, Turn
from benchmarks.tasks.images import images
from benchmarks.usage import UsageError

ROLES = ("system", "user", "assistant")

Spoken = Sequence[tuple[str, str, Sequence[str]]]
"""Turns whose images are names of files: role, text, images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """Conversations whose last turn is the user's; the model gives the next one.

    Figures are by image, and a conversation counts for its first one; without any, for itself.

    Args:
        file: JSON Lines; ``id`` may be left out, and is the number of the line then.
        images: the folder that names of images start from; None: the file's.
    """

    file: str
    images: str | None
    max_new_tokens: int
    answer: ClassVar[str] = "response"

    def items(self) -> list[Item]:
        """Raises: UsageError that names the first five wrong lines."""
        spoken = _conversations(Path(self.file))
        names = [name for turns in spoken.values() for _, _, listed in turns for name in listed]
        folder = Path(self.file).parent if self.images is None else self.images
        readers = images(folder, names)
        return [_item(key, turns, readers) for key, turns in spoken.items()]

    def files(self) -> tuple[Path, ...]:
        return (Path(self.file),)

    def score(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, Ratio]:
        return {}


def _item(key: str, turns: Spoken, readers: Mapping[str, Read]) -> Item:
    first = next((listed[0] for _, _, listed in turns if listed), key)
    said = (Turn(role, text, tuple(readers[name] for name in listed)) for role, text, listed in turns)
    return Item({"id": key, "image_id": first}, tuple(said))


def _conversations(path: Path) -> dict[str, Spoken]:
    """Id -> turns. Raises: UsageError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the conversations {path}: {error}") from None
    found, wrong = dict[str, Spoken](), list[str]()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            key = str(entry.get("id", number))
            if key in found:
                raise ValueError(f"the id {key!r} stands there twice")
            found[key] = _spoken(entry)
        except json.JSONDecodeError as error:
            wrong.append(f"line {number} is no JSON ({error.msg})")
        except (AttributeError, KeyError, TypeError) as error:
            wrong.append(f"line {number} is not in transformers' chat format ({error!r})")
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        raise UsageError(f"{path}: {len(wrong)} wrong: {'; '.join(wrong[:5])}")
    if not found:
        raise UsageError(f"{path} is an empty data set; expected a conversation a line")
    return found


def _spoken(entry: Mapping[str, Any]) -> Spoken:
    """Raises: ValueError on what cannot be asked; KeyError and others on another format."""
    turns = [(str(message["role"]), *_content(message["content"])) for message in entry["messages"]]
    unknown = [role for role, _, _ in turns if role not in ROLES]
    if unknown:
        raise ValueError(f"expected the roles {', '.join(ROLES)}, got {unknown[0]!r}")
    if not turns or turns[-1][0] != "user":
        raise ValueError("expected the last turn to be the user's, for the model to answer")
    return turns


def _content(content: Any) -> tuple[str, Sequence[str]]:
    """Text and images of a turn."""
    if isinstance(content, str):
        return content, ()
    text, listed = "", list[str]()
    for part in content:
        if part["type"] == "text":
            text += part["text"]
        elif part["type"] != "image":
            raise ValueError(f"expected parts of the type text or image, got {part['type']!r}")
        elif text:
            raise ValueError("expected the images of a turn before its text")
        else:
            name = part.get("image", part.get("path"))
            if not isinstance(name, str) or "://" in name:
                raise ValueError(f"expected an image to be the name of a file, got {part}")
            listed.append(name)
    return text, listed
