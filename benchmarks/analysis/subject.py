"""What a model is asked about: a scene of the drawn world, or files of the user's own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from benchmarks.batch import UNREADABLE
from benchmarks.miniature import world
from benchmarks.tasks.coco_objects import Objects, Vocabulary
from benchmarks.tasks.images import rgb
from benchmarks.tasks.miniature import Captions
from benchmarks.tasks.placed import WORD, placed
from benchmarks.usage import UsageError, nearest

Named = Callable[[str], Sequence[tuple[str, int]]]
"""The objects that a text names, each with where it begins."""

FEWEST = 12
"""Images of one question: as many as the paper's."""
SPLIT, SEED = "shifted", 10
"""The scenes: those of the test of the harness."""
PAPER = "Please describe this image in detail."
OWN_QUESTION = "Is there a person in the image? Please answer with one word."


@dataclass(frozen=True, slots=True)
class Subject:
    """One image and what is asked about it; the objects that are in it, if they are known."""

    told: str
    prompt: str
    image: Image.Image
    objects: frozenset[str] | None
    named: Named
    max_new_tokens: int

    def kinds(self, pieces: Sequence[str]) -> list[str]:
        """For each piece of an answer: correct or hallucinated where it names an object; else empty."""
        found = [""] * len(pieces)
        if self.objects is None:
            return found
        text = "".join(pieces)
        ends = [len("".join(pieces[: at + 1])) for at in range(len(pieces))]
        for name, start in self.named(text):
            words = list(WORD.finditer(text, start))[: len(name.split())]
            kind = "correct" if name in self.objects else "hallucinated"
            for at, end in enumerate(ends):
                if end - len(pieces[at]) < words[-1].end() and start < end and pieces[at]:
                    found[at] = kind
        return found

    def kind(self, word: str) -> str:
        """The same of a word alone."""
        return next((kind for kind in self.kinds([word]) if kind), "")


@dataclass(frozen=True, slots=True)
class Asked:
    """What all figures are about.

    Attributes:
        subjects: what is described: one, or scenes, of which the first is taken whose answer invents a word.
        images: name -> image, those of the question and of the comparison with no image.
        question: what is asked about each of them.
        prompt: what each is described by.
    """

    subjects: Sequence[Subject]
    images: Mapping[str, Callable[[], Image.Image]]
    question: str
    prompt: str
    max_new_tokens: int


def asked(config: Mapping[str, Any]) -> Asked:
    """Raises: UsageError on files that cannot be read, and keys that do not go together."""
    return _scenes(config) if config["image"] is None else _own(config)


def _scenes(config: Mapping[str, Any]) -> Asked:
    for key in ("images", "objects"):
        if config[key] is not None:
            raise UsageError(f"{key}= is about files of your own, and none is named; give image=FILE too")
    new, chosen = config["max_new_tokens"] or 64, config["scene"]
    prompt = config["prompt"] or world.CAPTION_PROMPT
    count = max(64, config["n"], (chosen or 0) + 1)
    task = Captions(split=SPLIT, n=count, seed=SEED, prompt=prompt, max_new_tokens=new)
    scenes = list(task.scenes().values())
    subjects = [
        Subject(
            f"scene {number} of the drawn world",
            prompt,
            scenes[number].image(),
            scenes[number].objects,
            task.named,
            new,
        )
        for number in (range(64) if chosen is None else [chosen])
    ]
    images = {f"scene {number}": scene.image for number, scene in enumerate(scenes[: config["n"]])}
    return Asked(subjects, images, config["question"] or "is there a cup ?", prompt, new)


def _own(config: Mapping[str, Any]) -> Asked:
    if config["scene"] is not None:
        raise UsageError("scene= is of the drawn world, and image= a file of your own; give one of them")
    path, new = Path(config["image"]), config["max_new_tokens"] or 256
    prompt = config["prompt"] or PAPER
    vocabulary = None if config["objects"] is None else _vocabulary()
    objects = None
    if vocabulary is not None:
        objects = frozenset(map(str, config["objects"]))
        for name in sorted(objects - {*vocabulary.vocabulary.objects}):
            raise UsageError(
                f"objects: unknown object {name!r}: {nearest(name, vocabulary.vocabulary.objects)}"
            )
    subject = Subject(
        path.name,
        prompt,
        read(path),
        objects,
        lambda text: [] if vocabulary is None else placed(vocabulary, text),
        new,
    )
    images: dict[str, Callable[[], Image.Image]] = {}
    if config["images"] is not None:
        for file in _files(Path(config["images"]))[: config["n"]]:
            read(file)  # now, and not after minutes
            images[file.name] = lambda file=file: read(file)  # type: ignore[misc]
        if len(images) < FEWEST:
            raise UsageError(f"{config['images']} has {len(images)} images; expected at least {FEWEST}")
    return Asked([subject], images, config["question"] or OWN_QUESTION, prompt, new)


def read(path: Path) -> Image.Image:
    """An image, RGB and upright. Raises: UsageError on what is none."""
    try:
        with Image.open(path) as image:
            return rgb(ImageOps.exif_transpose(image))
    except UNREADABLE as error:
        told = (
            error.strerror if isinstance(error, OSError) and error.strerror else "no image that can be read"
        )
        raise UsageError(f"{path}: {told}; expected the file of an image") from error


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"there is no folder of images {folder}")
    known = Image.registered_extensions()
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in known)


@cache
def _vocabulary() -> Objects:
    return Objects(Vocabulary.read(), "original")
