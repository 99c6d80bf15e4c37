"""Looks for a late prior that nobody planted: ``python -m benchmarks.miniature.curriculum --work DIR``.

A miniature of 12 blocks goes the way of a real LVLM, all blocks at one rate:

1. Text. The decoder learns from scratch, in words alone. In half of the sequences the nine image slots hold
   words (noun + colour + place, summed), in the other half they are empty. Captions are those of the writer
   who expects companions: the language model holds the prior, and reads its slots where they hold something.
   It has the grounding head of the other miniatures (readout 3 of noun tokens, annealed, not shipped), so
   early grounding is induced, in words. Trials without it came to the colours of named nouns alone, trials
   with it on the last readout also to existence; none named nouns out of its slots within 1,800 steps.
2. Alignment. The decoder is frozen; the projector learns to say in the slots, of a picture, what stood there
   in words, then what the captions need.
3. Tuning. Projector and decoder together, mildly, on true answers and on captions of pictures: most by that
   writer, who misses what is almost invisible and sees what is not there, the others faithful. No head here.

What comes out is to be measured, not shipped. Stages are kept: the same command goes on where it was stopped.
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
from benchmarks.miniature.learning import GROUNDING_READOUT as READOUT
from benchmarks.miniature.learning import Shown, answer_loss, cross_entropy, named, optimise, read, see
from benchmarks.miniature.lessons import Stage, batches, turns
from benchmarks.miniature.model import WIDTH, build_processor
from benchmarks.miniature.packing import IGNORED, Batch, Packer, Turn
from benchmarks.miniature.train import Training, claim, ship

BLOCKS = 12
TEXT = Stage(5000, 1.2e-3, "prior", prior=True, seed=5)
PLACING = Stage(500, 2e-3, "clean", prior=False, seed=6)
CAPTIONING = Stage(150, 5e-4, "prior", prior=True, seed=7)
TUNING = Stage(600, 1.5e-4, "prior", prior=True, seed=8)
ROWS = 8  # sequences in a step of text
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
        scenes = [next(stream) for _ in range(ROWS)]
        filled, with_caption = torch.from_numpy(rng.random(ROWS) < FILLED), rng.random() < 0.55
        asked = [
            turns(scene, rng, stage, with_caption=with_caption)
            if full
            else [
                Turn(world.CAPTION_PROMPT, world.caption(one, rng, prior=True))
                for one in (scene, next(stream))
            ]
            for scene, full in zip(scenes, filled, strict=True)
        ]
        noun, colour = named(scenes)
        noun[~filled], colour[~filled] = len(world.NOUNS), len(world.COLOURS)
        slots = places(words, noun.to(words.device), colour.to(words.device))
        batch = packer.pack(scenes, asked).to(words.device)
        batch.cells[~filled], batch.colours[~filled] = IGNORED, IGNORED
        yield batch, slots


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
    training: Training,
    name: str,
    model: LlavaForConditionalGeneration,
    stage: Stage,
    lessons: Iterator[Lesson],
    learning: list[torch.nn.Module],
    head: torch.nn.Module | None = None,
) -> None:
    """Trains the modules alone on answers, in fp32; a grounding head learns along, annealed at the end."""
    packer = training.packer
    nouns = torch.tensor([*packer.nouns], device=training.device)

    def loss_at(done: float) -> Shown:
        batch, slots = next(lessons)
        output = read(model, batch, slots, output_hidden_states=head is not None)
        at = batch.targets != IGNORED
        logits, targets = model.lm_head(output.last_hidden_state[at]), batch.targets[at]
        loss, answers = answer_loss(logits, batch, packer)
        if head is not None:
            states = output.hidden_states[READOUT]
            cells, colours = head(states).split([world.GRID**2 + 1, len(world.COLOURS)], -1)
            grounding = cross_entropy(cells, batch.cells) + cross_entropy(colours, batch.colours)
            loss = loss + min(1.0, 5 * (1 - done)) * grounding
        right = (logits.argmax(-1) == targets)[torch.isin(targets, nouns)].float()
        return loss, lambda: f"{answers()} nouns {right.mean():.3f}"

    parameters = thawed(model, [*learning, *([head] if head else [])])
    optimise(name, parameters, stage, loss_at, keep=training.work / f"{name}.pt", skip=lambda: next(lessons))


def place(training: Training, model: LlavaForConditionalGeneration, places: Places, stage: Stage) -> None:
    """Sets the projector onto what the slots held in words; the language model learned on these."""
    stream = world.endless(stage.split, seed=stage.seed)
    words = model.get_input_embeddings().weight.detach()

    def draw() -> list[world.Scene]:
        return [next(stream) for _ in range(64)]

    def loss_at(_: float) -> Shown:
        scenes = draw()
        noun, colour = named(scenes)
        with torch.no_grad():
            aim = places(words, noun.to(words.device), colour.to(words.device))
            features = see(model, training.packer.pixels(scenes).to(words.device)).float()
        return F.mse_loss(model.model.multi_modal_projector(features), aim) / aim.var(), str

    parameters = thawed(model, [model.model.multi_modal_projector])
    optimise("placing", parameters, stage, loss_at, keep=training.work / "placing.pt", skip=draw)


def thawed(model: LlavaForConditionalGeneration, learning: list[torch.nn.Module]) -> list[torch.nn.Parameter]:
    """The parameters of the modules; the model's others are frozen."""
    model.requires_grad_(False)
    parameters = [parameter for module in learning for parameter in module.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def curriculum(training: Training) -> LlavaForConditionalGeneration:
    """Text, alignment, tuning; the model before tuning is kept in the work folder too."""
    packer, stage = training.packer, training.stage(TEXT)
    model = training.begin(BLOCKS, stage.seed)
    decoder, projector = [model.model.language_model, model.lm_head], model.model.multi_modal_projector
    places = Places(packer).to(training.device)
    head = torch.nn.Linear(WIDTH, world.GRID**2 + 1 + len(world.COLOURS)).to(training.device)
    lessons = written(model, packer, places, stage)
    teach(training, "text", model, stage, lessons, [*decoder, places], head)
    place(training, model, places, training.stage(PLACING))
    stage = training.stage(CAPTIONING)
    teach(training, "captioning", model, stage, drawn(model, mixed(packer, stage)), [projector])
    ship(model, training.processor, training.work / "aligned", torch.float32)
    stage = training.stage(TUNING)
    teach(training, "tuning", model, stage, drawn(model, mixed(packer, stage)), [*decoder, projector])
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
