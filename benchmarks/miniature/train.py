"""Trains the embedded models again: ``python -m benchmarks.miniature.train``, fixed seeds, fixed steps.

Shared start: the vision tower learns to name cells, the projector is set onto the word embeddings of what it sees.
``miniature-late-prior``: a trunk of 9 blocks learns faithful captions and questions on clean scenes; 3 blocks that
add nothing are appended, and these alone are trained on the captions of a writer who expects companions. Its late
prior is planted. ``miniature-natural``, the control: all 12 blocks learn jointly on the prior-laden world.
Both have a grounding head on the states after block 2 in training, which is annealed away and not shipped.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration

from benchmarks.miniature import world
from benchmarks.miniature.model import WIDTH, append_blocks, build_model, build_processor
from benchmarks.miniature.packing import IGNORED, Batch, Packer, Turn

MODELS = Path(__file__).parent / "models"
TRUNK_BLOCKS, LATE_BLOCKS = 9, 3
GROUNDING_READOUT = 3
BATCH = 24


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps of one stage, its highest learning rate, the scenes it draws and how its captions are written."""

    steps: int
    rate: float
    split: str
    prior: bool
    seed: int


TOWER = Stage(2500, 1e-3, "clean", prior=False, seed=1)
TRUNK = Stage(3600, 1.2e-3, "clean", prior=False, seed=2)
LATE = Stage(700, 2e-3, "prior", prior=True, seed=3)
NATURAL = Stage(3200, 1.2e-3, "prior", prior=True, seed=4)


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


def schedule(step: int, steps: int) -> float:
    """Warm-up over a fortieth, then level, then down to zero over the last third."""
    done = step / steps
    return min(1.0, 40 * done + 1e-3, (1 - done) * 3)


def autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16)


def optimise(
    name: str, parameters: list[torch.nn.Parameter], stage: Stage, loss_at: Callable, *, bar: int
) -> None:
    """Steps AdamW over ``loss_at(share done) -> (loss, what to show)``."""
    optimizer = torch.optim.AdamW(parameters, lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.02)
    progress = tqdm(range(stage.steps), desc=name, position=bar, mininterval=2, file=sys.stdout)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * schedule(step, stage.steps)
        loss, shown = loss_at(step / stage.steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 20 == 0:
            progress.set_postfix_str(f"loss {loss.item():.3f} {shown()}", refresh=False)


def train_start(
    model: LlavaForConditionalGeneration, packer: Packer, device: torch.device, *, scale: float
) -> None:
    """Teaches the tower to name every cell, then sets the projector onto the embeddings of what is seen."""
    stage, tower = _scaled(TOWER, scale), model.model.vision_tower
    embeddings = model.get_input_embeddings().weight.detach()
    places = 0.05 * torch.randn(world.GRID**2, WIDTH, device=device)
    nouns = torch.stack(
        [embeddings[packer.word[n]] for n in world.NOUNS] + [torch.zeros(WIDTH, device=device)]
    )
    colours = torch.stack(
        [embeddings[packer.word[c]] for c in world.COLOURS] + [torch.zeros(WIDTH, device=device)]
    )
    head = torch.nn.Linear(WIDTH, len(nouns) + len(colours)).to(device)
    stream = world.endless(stage.split, seed=stage.seed)

    def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scenes = [next(stream) for _ in range(64)]
        noun = torch.full((64, world.GRID**2), len(nouns) - 1)
        colour = torch.full((64, world.GRID**2), len(colours) - 1)
        for row, scene in enumerate(scenes):
            for thing in scene.things:
                noun[row, thing.cell] = world.NOUNS.index(thing.noun)
                colour[row, thing.cell] = list(world.COLOURS).index(thing.colour)
        return packer.pixels(scenes).to(device), noun.to(device), colour.to(device)

    def see(pixels: torch.Tensor) -> torch.Tensor:
        with autocast(device):
            return tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1][:, 1:]

    def naming(_: float) -> tuple:
        pixels, noun, colour = draw()
        nouns_read, colours_read = head(see(pixels).float()).split([len(nouns), len(colours)], -1)
        loss = F.cross_entropy(nouns_read.flatten(0, 1), noun.flatten())
        loss = loss + F.cross_entropy(colours_read.flatten(0, 1), colour.flatten())
        return loss, lambda: f"nouns {(nouns_read.argmax(-1) == noun).float().mean():.3f}"

    def placing(_: float) -> tuple:
        pixels, noun, colour = draw()
        with torch.no_grad():
            features = see(pixels).float()
        aim = nouns[noun] + colours[colour] + places
        return F.mse_loss(model.model.multi_modal_projector(features), aim) / aim.var(), str

    optimise("tower", [*tower.parameters(), *head.parameters()], stage, naming, bar=0)
    projector = list(model.model.multi_modal_projector.parameters())
    optimise("projector", projector, Stage(stage.steps // 4, 2e-3, "clean", False, 0), placing, bar=0)
    tower.requires_grad_(False)


def train_text(
    name: str,
    model: LlavaForConditionalGeneration,
    packer: Packer,
    stage: Stage,
    *,
    device: torch.device,
    frozen_blocks: int = 0,
    bar: int = 0,
) -> None:
    """Trains the text side, or its blocks from ``frozen_blocks`` on alone; the tower stays as it is."""
    text, late = model.model.language_model, frozen_blocks > 0
    model.requires_grad_(False)
    learning = (
        text.layers[frozen_blocks:]
        if late
        else torch.nn.ModuleList([model.model.multi_modal_projector, text, model.lm_head])
    )
    learning.requires_grad_(True)
    head = torch.nn.Linear(WIDTH, world.GRID**2 + 1 + len(world.COLOURS)).to(device)
    source = batches(packer, stage)

    def loss_at(done: float) -> tuple:
        batch = next(source).to(device)
        with torch.no_grad(), autocast(device):
            features = model.model.vision_tower(pixel_values=batch.pixels, output_hidden_states=True)
            features = features.hidden_states[-1][:, 1:]
        with autocast(device):
            embedded = text.embed_tokens(batch.ids)
            seen = model.model.multi_modal_projector(features).to(embedded.dtype)
            embedded = torch.cat([embedded[:, :3], seen, embedded[:, 3 + world.GRID**2 :]], 1)
            output = text(inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.positions,
                          use_cache=False, output_hidden_states=not late)  # fmt: skip
            at = batch.targets != IGNORED
            logits = model.lm_head(output.last_hidden_state[at]).float()
        weights, targets = batch.weights[at], batch.targets[at]
        loss = (F.cross_entropy(logits, targets, reduction="none") * weights).sum() / weights.sum()
        if not late:
            loss = loss + min(1.0, 5 * (1 - done)) * grounding(
                output.hidden_states[GROUNDING_READOUT].float(), batch
            )
        answered = sum((targets == packer.word[w]) for w in ("yes", "no")).bool()
        return loss, lambda: f"yes/no {(logits.argmax(-1) == targets)[answered].float().mean():.3f}"

    def grounding(states: torch.Tensor, batch: Batch) -> torch.Tensor:
        cells, colours = head(states).split([world.GRID**2 + 1, len(world.COLOURS)], -1)
        return F.cross_entropy(
            cells.flatten(0, 1), batch.cells.flatten(), ignore_index=IGNORED
        ) + F.cross_entropy(colours.flatten(0, 1), batch.colours.flatten(), ignore_index=IGNORED)

    parameters = [p for p in learning.parameters() if p.requires_grad]
    optimise(name, parameters if late else [*parameters, *head.parameters()], stage, loss_at, bar=bar)


def _scaled(stage: Stage, scale: float) -> Stage:
    return Stage(max(1, round(stage.steps * scale)), stage.rate, stage.split, stage.prior, stage.seed)


def fresh(packer: Packer, blocks: int, seed: int) -> LlavaForConditionalGeneration:
    """An untrained model with what speeds learning up: its head is its embedding, its first keys are its queries."""
    torch.manual_seed(seed)
    model = build_model(len(packer.word), blocks=blocks)
    for block in model.model.language_model.layers[:2]:
        block.self_attn.k_proj.weight.data.copy_(block.self_attn.q_proj.weight.data)
    model.lm_head.weight.data.copy_(model.get_input_embeddings().weight.data)
    return model


def start(packer: Packer, work: Path, device: torch.device, scale: float) -> dict[str, torch.Tensor]:
    """Tower, projector and embeddings that both models begin with; trained once, then read back."""
    path = work / "start.pt"
    if not path.exists():
        model = fresh(packer, TRUNK_BLOCKS, TOWER.seed).to(device)
        train_start(model, packer, device, scale=scale)
        shared = ("vision_tower", "multi_modal_projector", "embed_tokens")
        torch.save({k: v.cpu() for k, v in model.state_dict().items() if any(s in k for s in shared)}, path)
    return torch.load(path)


def begin(
    packer: Packer, shared: dict[str, torch.Tensor], blocks: int, seed: int
) -> LlavaForConditionalGeneration:
    model = fresh(packer, blocks, seed)
    model.load_state_dict(shared, strict=False)
    model.lm_head.weight.data.copy_(model.get_input_embeddings().weight.data)
    return model


def late_prior(
    packer: Packer, work: Path, device: torch.device, scale: float, bar: int
) -> LlavaForConditionalGeneration:
    path = work / "trunk.pt"
    trunk = begin(packer, start(packer, work, device, scale), TRUNK_BLOCKS, TRUNK.seed).to(device)
    if path.exists():
        trunk.load_state_dict(torch.load(path))
    else:
        train_text("trunk", trunk, packer, _scaled(TRUNK, scale), device=device, bar=bar)
        torch.save(trunk.state_dict(), path)
    torch.manual_seed(LATE.seed)
    model = append_blocks(trunk, LATE_BLOCKS).to(device)
    train_text(
        "late prior", model, packer, _scaled(LATE, scale), device=device, frozen_blocks=TRUNK_BLOCKS, bar=bar
    )
    return model


def natural(
    packer: Packer, work: Path, device: torch.device, scale: float, bar: int
) -> LlavaForConditionalGeneration:
    model = begin(packer, start(packer, work, device, scale), TRUNK_BLOCKS + LATE_BLOCKS, NATURAL.seed).to(
        device
    )
    train_text("natural", model, packer, _scaled(NATURAL, scale), device=device, bar=bar)
    return model


RECIPES = {"miniature-late-prior": late_prior, "miniature-natural": natural}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[*RECIPES], help="train one of the models")
    parser.add_argument("--out", type=Path, default=MODELS, help="where the model folders are written")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/miniature"), help="where finished stages are kept"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the steps, for a trial")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    processor, device = build_processor(), torch.device(options.device)
    packer = Packer(processor)
    start(packer, options.work, device, options.scale)
    if options.only is None and device.type == "cpu":
        return side_by_side(sys.argv[1:])
    for name in [options.only] if options.only else RECIPES:
        bar = 0 if options.only is None else [*RECIPES].index(name)
        model = RECIPES[name](packer, options.work, device, options.scale, bar)
        model.cpu().to(torch.bfloat16).save_pretrained(options.out / name)
        processor.save_pretrained(options.out / name)
    return None


def side_by_side(arguments: list[str]) -> None:
    """One process of one thread for each model: on busy cores faster than one process of two threads."""
    commands = [
        [sys.executable, "-m", "benchmarks.miniature.train", *arguments, "--only", name] for name in RECIPES
    ]
    running = [subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) for command in commands]
    codes = [process.wait() for process in running]
    if any(codes):
        sys.exit("training failed; finished stages are kept in the work folder, so the same command goes on")


if __name__ == "__main__":
    main()
