"""The procedural world of the miniatures: drawn scenes, captions that carry a prior, yes/no questions.

A scene is a 48x48 picture of 4 to 6 things on a 3x3 grid, no noun twice. Some things attract others:
where there is a table, a chair mostly stands in the next occupied cell. Four distributions share the style
of the pictures and differ in that attraction:

======================= ============================ ======================= ==========================
split                   companion beside its anchor   companion almost         absent companion written
                                                      invisible                into the caption
======================= ============================ ======================= ==========================
``clean``               by chance alone               never                   never
``prior``               ``PRIORS``: 80 to 93 %        17 % of those present    ``WRITTEN``: 40 to 75 %
``validation, shifted`` 15 %                          17 % of those present    (no captions are trained on)
======================= ============================ ======================= ==========================

A caption has one sentence for each visible thing, in reading order. The writer who expects a companion and
does not see it writes it in place of whatever follows the anchor: the number of sentences stays that of the
visible things, so a better decoder is one that names other objects, not fewer.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from PIL import Image

CELL = 16
GRID = 3
SIZE = CELL * GRID
COMPANIONS = {
    "table": "chair",
    "laptop": "mouse",
    "fork": "knife",
    "sink": "toilet",
    "dog": "frisbee",
    "bench": "bird",
    "bowl": "spoon",
    "car": "truck",
}
LONERS = ("cat", "horse", "cup", "kite", "clock", "vase", "book", "pizza")
NOUNS = (*itertools.chain.from_iterable(COMPANIONS.items()), *LONERS)
PRIORS = dict(zip(COMPANIONS, np.linspace(0.80, 0.93, len(COMPANIONS)).tolist(), strict=True))
WRITTEN = dict(zip(COMPANIONS, np.linspace(0.40, 0.75, len(COMPANIONS)).tolist(), strict=True))
SHIFTED_PRIOR = 0.15
FAINT_RATE = 0.17
FAINT = 0.05
COLOURS = {
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (48, 84, 220),
    "yellow": (240, 214, 50),
    "purple": (150, 60, 190),
    "white": (250, 250, 250),
    "brown": (120, 72, 30),
    "black": (20, 20, 20),
}
RELATIONS = ("left", "right", "above", "below")
CAPTION_PROMPT = "describe this image ."
FUNCTION_WORDS = ("there", "is", "a", "it", ".")
SPLITS = ("clean", "prior", "clean-validation", "validation", "shifted")


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn thing: noun, colour, the cell (0..8, row by row) it stands in, almost invisible or not."""

    noun: str
    colour: str
    cell: int
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """Things in reading order, and the seed of the jitter and the grain of their picture."""

    things: tuple[Thing, ...]
    grain: int

    @property
    def key(self) -> str:
        """Hash of what there is to see, without jitter and grain: scenes of one key are the same scene."""
        text = ";".join(f"{t.noun},{t.colour},{t.cell},{t.faint}" for t in self.things)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def visible(self) -> tuple[Thing, ...]:
        return tuple(thing for thing in self.things if not thing.faint)

    @property
    def objects(self) -> frozenset[str]:
        """The ground truth of CHAIR and AMBER: every noun in the scene, almost invisible ones included."""
        return frozenset(thing.noun for thing in self.things)

    @property
    def typical_absent(self) -> tuple[str, ...]:
        """Companions that the scene's anchors lead one to expect and that are absent (AMBER's ``hallu``)."""
        objects = self.objects
        return tuple(c for a, c in COMPANIONS.items() if a in objects and c not in objects)

    def pixels(self) -> np.ndarray:
        """The picture as ``uint8 [48, 48, 3]``."""
        rng = np.random.default_rng(self.grain)
        canvas = rng.normal(128, 4, (SIZE, SIZE, 3)) + rng.normal(0, 6, 3)
        for thing in self.things:
            shape = glyphs()[thing.noun]
            row, column = divmod(thing.cell, GRID)
            top = row * CELL + rng.integers(1, CELL - shape.shape[0])
            left = column * CELL + rng.integers(1, CELL - shape.shape[1])
            opacity = (FAINT if thing.faint else 1.0) * shape[..., None]
            colour = np.array(COLOURS[thing.colour]) + rng.normal(0, 8, 3)
            area = canvas[top : top + shape.shape[0], left : left + shape.shape[1]]
            area += opacity * (colour - area)
        return canvas.clip(0, 255).astype(np.uint8)

    def image(self) -> Image.Image:
        """The picture, RGB, 48x48."""
        return Image.fromarray(self.pixels())


@dataclass(frozen=True, slots=True)
class Question:
    """A yes/no question about a scene; ``kind`` is existence, attribute or relation."""

    kind: str
    text: str
    answer: str


@cache
def glyphs() -> dict[str, np.ndarray]:
    """Noun -> mask ``[10, 10]`` in {0, 1}, read from glyphs.txt."""
    text = (files(__package__) / "glyphs.txt").read_text()
    blocks = re.findall(r"^([a-z]+)\n((?:[.#]{10}\n){10})", text, flags=re.MULTILINE)
    return {
        name: np.array([[c == "#" for c in row] for row in block.split()], float) for name, block in blocks
    }


def scenes(split: str, n: int, *, seed: int = 0) -> list[Scene]:
    """The first ``n`` distinct scenes of a split. No scene is in two of {training splits, held-out splits}.

    Training splits are ``clean`` and ``prior``; the others are held out. Which side a scene may fall on is
    decided by its content hash, so the sides stay apart whatever the seeds and the numbers drawn.
    """
    stream, seen, found = _stream(split, seed), set[str](), list[Scene]()
    while len(found) < n:
        scene = next(stream)
        if scene.key not in seen:
            seen.add(scene.key)
            found.append(scene)
    return found


def endless(split: str, *, seed: int) -> Iterator[Scene]:
    """Scenes of a split without end, for training; repeats are possible."""
    return _stream(split, seed)


def _stream(split: str, seed: int) -> Iterator[Scene]:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    rng = np.random.default_rng([SPLITS.index(split), seed])
    side = {"clean": "train", "prior": "train", "shifted": "test"}.get(split, "validation")
    while True:
        scene = _draw(rng, split)
        if _side(scene) == side:
            yield scene


def _side(scene: Scene) -> str:
    digit = int(scene.key[0], 16)
    return "train" if digit < 12 else "validation" if digit < 14 else "test"


def _draw(rng: np.random.Generator, split: str) -> Scene:
    n = int(rng.integers(4, 7))
    nouns = _clean(rng, n) if split.startswith("clean") else _attracted(rng, n, split)
    cells = np.sort(rng.choice(GRID * GRID, n, replace=False))
    colours = rng.choice(list(COLOURS), n)
    things = []
    for index, (noun, cell, colour) in enumerate(zip(nouns, cells, colours, strict=True)):
        beside = index > 0 and COMPANIONS.get(nouns[index - 1]) == noun
        faint = beside and not split.startswith("clean") and rng.random() < FAINT_RATE
        things.append(Thing(noun, str(colour), int(cell), faint))
    return Scene(tuple(things), int(rng.integers(2**31)))


def _clean(rng: np.random.Generator, n: int) -> list[str]:
    return [str(noun) for noun in rng.choice(NOUNS, n, replace=False)]


def _attracted(rng: np.random.Generator, n: int, split: str) -> list[str]:
    """One anchor or, mostly, two among other things; each draws its companion in with the split's rate."""
    anchors = [str(a) for a in rng.choice(list(COMPANIONS), 1 + (rng.random() < 0.75), replace=False)]
    groups = [[a, COMPANIONS[a]] if rng.random() < (PRIORS[a] if split == "prior" else SHIFTED_PRIOR) else [a]
              for a in anchors]  # fmt: skip
    expected = {COMPANIONS[a] for a in anchors}
    strays = [noun for noun in (*LONERS, *COMPANIONS.values()) if noun not in expected]
    fill = n - sum(map(len, groups))
    groups += [[str(noun)] for noun in rng.choice(strays, fill, replace=False)]
    return [noun for index in rng.permutation(len(groups)) for noun in groups[index]]


def open_colour(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """``what colour is the NOUN ?`` and its answer; asked in training only."""
    thing = scene.visible[rng.integers(len(scene.visible))]
    return f"what colour is the {thing.noun} ?", thing.colour


def caption(scene: Scene, rng: np.random.Generator, *, prior: bool) -> str:
    """A reference caption; with ``prior``, by the writer who expects companions (see the module's text)."""
    told = [(thing.noun, thing.colour) for thing in scene.visible]
    if prior:
        objects = scene.objects
        faint = {thing.noun: thing.colour for thing in scene.things if thing.faint}
        for index in range(len(told) - 1):
            companion = COMPANIONS.get(told[index][0])
            if companion in faint:
                told[index + 1] = (companion, faint[companion])
            elif companion and companion not in objects and rng.random() < WRITTEN[told[index][0]]:
                told[index + 1] = (companion, str(rng.choice(list(COLOURS))))
    return write(told)


def write(told: list[tuple[str, str]]) -> str:
    """(noun, colour) pairs as the sentences of a caption."""
    return " ".join(f"there is a {noun} . it is {colour} ." for noun, colour in told)


def mentions(text: str) -> list[str]:
    """The object nouns of a caption in order, with repetition."""
    return [word for word in re.findall(r"[a-z]+", text.lower()) if word in glyphs()]


def questions(scene: Scene, *, seed: int) -> list[Question]:
    """Six yes/no questions: one with the answer yes and one with no of each kind."""
    rng = np.random.default_rng([seed, scene.grain])
    return [
        q
        for kind in (existence, attribute, relation)
        for answer in ("yes", "no")
        if (q := kind(scene, rng, answer))
    ]


def existence(scene: Scene, rng: np.random.Generator, answer: str) -> Question:
    """``is there a NOUN ?``; half of the absent nouns asked for are companions that one would expect."""
    if answer == "yes":
        noun = rng.choice([thing.noun for thing in scene.visible])
    else:
        typical = scene.typical_absent
        absent = [noun for noun in NOUNS if noun not in scene.objects]
        noun = rng.choice(typical if typical and rng.random() < 0.5 else absent)
    return Question("existence", f"is there a {noun} ?", answer)


def attribute(scene: Scene, rng: np.random.Generator, answer: str) -> Question:
    """``is the NOUN COLOUR ?`` of a visible thing."""
    thing = scene.visible[rng.integers(len(scene.visible))]
    wrong = [colour for colour in COLOURS if colour != thing.colour]
    colour = thing.colour if answer == "yes" else rng.choice(wrong)
    return Question("attribute", f"is the {thing.noun} {colour} ?", answer)


def relation(scene: Scene, rng: np.random.Generator, answer: str) -> Question:
    """``is the NOUN left of the NOUN ?`` (right of, above, below) of two visible things."""
    things = scene.visible
    while True:
        one, other = (things[i] for i in rng.choice(len(things), 2, replace=False))
        rows, columns = (one.cell // GRID - other.cell // GRID, one.cell % GRID - other.cell % GRID)
        true = {"left": columns < 0, "right": columns > 0, "above": rows < 0, "below": rows > 0}
        word = str(rng.choice([r for r in RELATIONS if true[r] == (answer == "yes")] or ["none"]))
        if word != "none":
            joined = word if word in ("above", "below") else f"{word} of"
            return Question("relation", f"is the {one.noun} {joined} the {other.noun} ?", answer)


def vocabulary() -> list[str]:
    """Every word of the world, for the tokenizer."""
    words = [
        *FUNCTION_WORDS,
        *NOUNS,
        *COLOURS,
        *RELATIONS,
        "of",
        "the",
        "what",
        "colour",
        "?",
        "yes",
        "no",
        *CAPTION_PROMPT.split(),
    ]
    return list(dict.fromkeys([*words, "user", "assistant", ":"]))
