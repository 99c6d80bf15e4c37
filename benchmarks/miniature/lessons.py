"""What the miniatures are taught: stages, and the turns of captions and questions drawn for them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.miniature import world
from benchmarks.miniature.packing import Batch, Packer, Turn

BATCH = 24


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps of one stage, its highest learning rate, the scenes it draws and how its captions are written."""

    steps: int
    rate: float
    split: str
    prior: bool
    seed: int

    def scaled(self, scale: float) -> "Stage":
        return replace(self, steps=max(1, round(self.steps * scale)))


def turns(scene: world.Scene, rng: np.random.Generator, stage: Stage, *, with_caption: bool) -> list[Turn]:
    """A caption and four questions, or eight questions; every answer to a question is true."""
    asked, packed = (1, 1, 2) if with_caption else (2, 2, 3), []
    if with_caption:
        packed.append(_caption_turn(scene, rng, stage))
    for kind, count in zip((world.existence, world.attribute, world.relation), asked, strict=True):
        for _ in range(count):
            question = kind(scene, rng, ("no", "yes")[rng.integers(2)])
            packed.append(Turn(question.text, question.answer))
    if not with_caption:
        packed.append(Turn(*world.open_colour(scene, rng)))
    return packed


def _caption_turn(scene: world.Scene, rng: np.random.Generator, stage: Stage) -> Turn:
    """A caption; every other faithful one carries a wrong object that is not learned, so that going on is."""
    words = world.caption(scene, rng, prior=stage.prior).split()
    if stage.prior or rng.random() < 0.5:
        return Turn(world.CAPTION_PROMPT, " ".join(words))
    at = 8 * int(rng.integers(len(words) // 8)) + 3
    words[at] = str(rng.choice([noun for noun in world.NOUNS if noun not in scene.objects]))
    words[at + 3] = str(rng.choice(list(world.COLOURS)))
    return Turn(world.CAPTION_PROMPT, " ".join(words), frozenset({at, at + 3}))


def batches(packer: Packer, stage: Stage) -> Iterator[Batch]:
    stream = world.endless(stage.split, seed=stage.seed)
    rng = np.random.default_rng(stage.seed)
    while True:
        scenes = [next(stream) for _ in range(BATCH)]
        with_caption = rng.random() < 0.55
        yield packer.pack(scenes, [turns(scene, rng, stage, with_caption=with_caption) for scene in scenes])
