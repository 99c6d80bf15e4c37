"""Looks for a late prior that nobody planted: ``python -m benchmarks.miniature.curriculum --work DIR``.

A miniature of 12 blocks goes the way of a real LVLM, all blocks at one rate and without a grounding head:

1. Text. The decoder learns from scratch, in words alone. In half of the sequences the nine image slots hold
   words (noun + colour + place, summed), in the other half they are empty. Captions are those of the writer
   who expects companions: the language model holds the prior, and reads its slots where they hold something.
2. Alignment. The decoder is frozen; the projector learns to say in the slots, of a picture, what stood there
   in words, then what the captions need.
3. Tuning. Projector and decoder together, mildly, on true answers and on captions of pictures: most by that
   writer, who misses what is almost invisible and sees what is not there, the others faithful.

What comes out is measured and not shipped; see the evidence beside the other miniatures.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlavaForConditionalGeneration

from benchmarks.miniature import world
from benchmarks.miniature.learning import Shown, answer_loss, named, optimise, read, see
from benchmarks.miniature.lessons import BATCH, Stage, batches, turns
from benchmarks.miniature.model import WIDTH, build_processor
from benchmarks.miniature.packing import IGNORED, Batch, Packer, Turn
from benchmarks.miniature.train import Training, claim, ship

BLOCKS = 12
TEXT = Stage(2400, 1.2e-3, "prior", prior=True, seed=5)
PLACING = Stage(500, 2e-3, "clean", prior=False, seed=6)
CAPTIONING = Stage(150, 5e-4, "prior", prior=True, seed=7)
TUNING = Stage(600, 1.5e-4, "prior", prior=True, seed=8)
FILLED = 0.5  # of the sequences of text have words in their slots
FAITHFUL = 0.25  # of the steps of tuning have faithful captions
Lesson = tuple[Batch, torch.Tensor]  # packed turns and what stands in their slots, [n, 9, 128]


class Places(torch.nn.Module):
    """What a slot says of a cell in words: noun + colour + place; of an empty cell its place alone."""

    def __init__(self, packer: Packer) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(0.05 * torch.randn(world.GRID**2, WIDTH))
        self.noun_ids = [packer.word[noun] for noun in world.NOUNS]
        self.colour_ids = [packer.word[colour] for colour in world.COLOURS]

    def forward(self, words: torch.Tensor, noun: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
        """``words [vocabulary, 128]``; ``noun``, ``colour`` ``[n, 9]`` as `named` gives them."""
        nothing = words.new_zeros(1, WIDTH)
        nouns = torch.cat([words[self.noun_ids], nothing])
        colours = torch.cat([words[self.colour_ids], nothing])
        return nouns[noun] + colours[colour] + self.place


def written(
    model: LlavaForConditionalGeneration, packer: Packer, places: Places, stage: Stage
) -> Iterator[Lesson]:
    """Sequences of text: over words in the slots turns as over a picture, over empty ones two captions."""
    stream, rng = world.endless(stage.split, seed=stage.seed), np.random.default_rng(stage.seed)
    words = model.get_input_embeddings().weight
    while True:
        scenes = [next(stream) for _ in range(BATCH)]
        filled, with_caption = torch.from_numpy(rng.random(BATCH) < FILLED), rng.random() < 0.55
        asked = [
            turns(scene, rng, stage, with_caption=with_caption)
            if full
            else [
                Turn(world.CAPTION_PROMPT, world.caption(one, rng, prior=stage.prior))
                for one in (scene, next(stream))
            ]
            for scene, full in zip(scenes, filled, strict=True)
        ]
        noun, colour = named(scenes)
        noun[~filled], colour[~filled] = len(world.NOUNS), len(world.COLOURS)
        slots = places(words, noun.to(words.device), colour.to(words.device))
        yield packer.pack(scenes, asked).to(words.device), slots


def drawn(model: LlavaForConditionalGeneration, source: Iterator[Batch]) -> Iterator[Lesson]:
    """Turns about pictures, as the projector now shows them."""
    for batch in source:
        batch = batch.to(model.device)
        yield batch, model.model.multi_modal_projector(see(model, batch.pixels).detach().float())


def mixed(packer: Packer, stage: Stage) -> Iterator[Batch]:
    """Batches of the writer who expects companions, some of a faithful one among them."""
    rng = np.random.default_rng(stage.seed)
    expecting, faithful = batches(packer, stage), batches(packer, replace(stage, prior=False))
    while True:
        yield next(faithful if rng.random() < FAITHFUL else expecting)


def teach(
    name: str,
    model: LlavaForConditionalGeneration,
    packer: Packer,
    stage: Stage,
    lessons: Iterator[Lesson],
    learning: list[torch.nn.Module],
) -> None:
    """Trains the modules alone on answers; in fp32, which CPUs without bf16 units do twice as fast."""

    def loss_at(_: float) -> Shown:
        batch, slots = next(lessons)
        states = read(model, batch, slots).last_hidden_state[batch.targets != IGNORED]
        return answer_loss(model.lm_head(states), batch, packer)

    optimise(name, thawed(model, learning), stage, loss_at)


def place(model: LlavaForConditionalGeneration, packer: Packer, places: Places, stage: Stage) -> None:
    """Sets the projector onto what the slots held in words; the language model learned on these."""
    stream = world.endless(stage.split, seed=stage.seed)
    words = model.get_input_embeddings().weight.detach()

    def loss_at(_: float) -> Shown:
        scenes = [next(stream) for _ in range(64)]
        noun, colour = named(scenes)
        with torch.no_grad():
            aim = places(words, noun.to(words.device), colour.to(words.device))
            features = see(model, packer.pixels(scenes).to(words.device)).float()
        return F.mse_loss(model.model.multi_modal_projector(features), aim) / aim.var(), str

    optimise("placing", thawed(model, [model.model.multi_modal_projector]), stage, loss_at)


def thawed(model: LlavaForConditionalGeneration, learning: list[torch.nn.Module]) -> list[torch.nn.Parameter]:
    """The parameters of the modules; the model's others are frozen."""
    model.requires_grad_(False)
    parameters = [parameter for module in learning for parameter in module.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def pretrained(training: Training) -> tuple[LlavaForConditionalGeneration, Places]:
    """The decoder after its text, on the shared tower; kept in the work folder."""
    path, packer, stage = training.work / "text.pt", training.packer, training.stage(TEXT)
    model = training.begin(BLOCKS, stage.seed)
    places = Places(packer).to(training.device)
    if not path.exists():
        lessons = written(model, packer, places, stage)
        learning = [model.model.language_model, model.lm_head, places]
        teach("text", model, packer, stage, lessons, learning)
        torch.save([model.state_dict(), places.state_dict()], path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    for module, state in zip((model, places), torch.load(path), strict=True):
        module.load_state_dict(state)
    return model, places


def curriculum(training: Training) -> LlavaForConditionalGeneration:
    """Text, alignment, tuning; the model before tuning is kept in the work folder too."""
    model, places = pretrained(training)
    packer, projector = training.packer, model.model.multi_modal_projector
    place(model, packer, places, training.stage(PLACING))
    stage = training.stage(CAPTIONING)
    teach("captioning", model, packer, stage, drawn(model, mixed(packer, stage)), [projector])
    ship(model, training.processor, training.work / "aligned", torch.float32)
    stage, learning = training.stage(TUNING), [projector, model.model.language_model, model.lm_head]
    teach("tuning", model, packer, stage, drawn(model, mixed(packer, stage)), learning)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where stages and the model are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the steps, for a trial")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    claim(options.work, options.scale, options.seed)
    training = Training(
        build_processor(), options.work, torch.device(options.device), options.scale, options.seed
    )
    ship(curriculum(training), training.processor, options.work / "miniature-curriculum", torch.bfloat16)


if __name__ == "__main__":
    main()
