"""How the miniatures learn: one optimiser loop, the start of the vision side, the text side on turns."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPast

from benchmarks.miniature import world
from benchmarks.miniature.lessons import Stage, batches
from benchmarks.miniature.model import WIDTH
from benchmarks.miniature.packing import COLOUR_INDEX, IGNORED, Batch, Packer

GROUNDING_READOUT = 3
KEPT_EVERY = 100
"""Steps after which a training is kept on the disk."""
Shown = tuple[torch.Tensor, Callable[[], str]]  # a loss and what the progress bar says beside it


def schedule(step: int, steps: int) -> float:
    """Warm-up over a fortieth, then level, then down to zero over the last third."""
    done = step / steps
    return min(1.0, 40 * done + 1e-3, (1 - done) * 3)


def autocast(device: torch.device, *, enabled: bool = True) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def optimise(
    name: str,
    parameters: list[torch.nn.Parameter],
    stage: Stage,
    loss_at: Callable[[float], Shown],
    *,
    bar: int = 0,
    keep: Path | None = None,
    skip: Callable[[], object] = int,
) -> None:
    """Steps AdamW over ``loss_at(share of the steps done)``.

    With ``keep``, a file, what was stopped goes on from the last KEPT_EVERY steps as if it had not been;
    ``skip`` passes over what one step draws.
    """
    optimizer = torch.optim.AdamW(parameters, lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.02)
    start = _taken_up(keep, parameters, optimizer) if keep and keep.exists() else 0
    for _ in range(start):
        skip()
    progress = tqdm(range(start, stage.steps), desc=name, position=bar, mininterval=2, file=sys.stdout,
                    initial=start, total=stage.steps)  # fmt: skip
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
        if keep and ((step + 1) % KEPT_EVERY == 0 or step + 1 == stage.steps):
            partial = keep.with_suffix(".part")
            torch.save(
                {"steps": step + 1, "weights": parameters, "optimizer": optimizer.state_dict()}, partial
            )
            partial.replace(keep)


def _taken_up(keep: Path, parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Sets parameters and optimiser to what was kept. Returns: the steps that led there."""
    kept = torch.load(keep, map_location=parameters[0].device)
    with torch.no_grad():
        for parameter, value in zip(parameters, kept["weights"], strict=True):
            parameter.copy_(value)
    optimizer.load_state_dict(kept["optimizer"])
    return int(kept["steps"])


def teach_vision(
    model: LlavaForConditionalGeneration,
    packer: Packer,
    tower: Stage,
    projector: Stage,
    *,
    device: torch.device,
) -> None:
    """Teaches the tower to name every cell, then sets the projector onto the embeddings of what is seen."""
    words = model.get_input_embeddings().weight.detach()
    nothing = torch.zeros(1, WIDTH, device=device)
    places = 0.05 * torch.randn(world.GRID**2, WIDTH, device=device)
    nouns = torch.cat([words[[packer.word[noun] for noun in world.NOUNS]], nothing])
    colours = torch.cat([words[[packer.word[colour] for colour in world.COLOURS]], nothing])
    head = torch.nn.Linear(WIDTH, len(nouns) + len(colours)).to(device)
    stream = world.endless(tower.split, seed=tower.seed)

    def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scenes = [next(stream) for _ in range(64)]
        noun, colour = named(scenes)
        return packer.pixels(scenes).to(device), noun.to(device), colour.to(device)

    def naming(_: float) -> Shown:
        pixels, noun, colour = draw()
        nouns_read, colours_read = head(see(model, pixels).float()).split([len(nouns), len(colours)], -1)
        loss = cross_entropy(nouns_read, noun) + cross_entropy(colours_read, colour)
        return loss, lambda: f"nouns {(nouns_read.argmax(-1) == noun).float().mean():.3f}"

    def placing(_: float) -> Shown:
        pixels, noun, colour = draw()
        with torch.no_grad():
            features = see(model, pixels).float()
        aim = nouns[noun] + colours[colour] + places
        return F.mse_loss(model.model.multi_modal_projector(features), aim) / aim.var(), str

    optimise("tower", [*model.model.vision_tower.parameters(), *head.parameters()], tower, naming)
    optimise("projector", list(model.model.multi_modal_projector.parameters()), projector, placing)


def teach_text(
    name: str,
    model: LlavaForConditionalGeneration,
    packer: Packer,
    stage: Stage,
    *,
    device: torch.device,
    frozen: int = 0,
    bar: int = 0,
    keep: Path | None = None,
) -> None:
    """Trains the text side on packed turns; with ``frozen`` only its blocks from that one on.

    Without ``frozen`` a linear grounding head reads, on readout 3 of every noun token, where that thing is
    (or that it is not there) and its colour; its loss is annealed to 0 over the last fifth.
    ``keep``: see `optimise`.
    """
    text = model.model.language_model
    # On a processor that has no matrix units for bf16, this and fp32 take half the time of the fused one.
    text.set_attn_implementation("eager")
    learning = text.layers[frozen:] if frozen else [model.model.multi_modal_projector, text, model.lm_head]
    model.requires_grad_(False)
    parameters = [p.requires_grad_() for module in learning for p in module.parameters()]
    head = torch.nn.Linear(WIDTH, world.GRID**2 + 1 + len(world.COLOURS)).to(device)
    source = batches(packer, stage)

    def loss_at(done: float) -> Shown:
        batch = next(source).to(device)
        with torch.no_grad():
            features = see(model, batch.pixels)
        with autocast(device, enabled=device.type != "cpu"):
            slots = model.model.multi_modal_projector(features)
            output = read(model, batch, slots, output_hidden_states=not frozen)
            logits = model.lm_head(output.last_hidden_state[batch.targets != IGNORED]).float()
        loss, shown = answer_loss(logits, batch, packer)
        if not frozen:
            states = output.hidden_states[GROUNDING_READOUT].float()
            cells, colours = head(states).split([world.GRID**2 + 1, len(world.COLOURS)], -1)
            grounding = cross_entropy(cells, batch.cells) + cross_entropy(colours, batch.colours)
            loss = loss + min(1.0, 5 * (1 - done)) * grounding
        return loss, shown

    learned = parameters if frozen else [*parameters, *head.parameters()]
    optimise(name, learned, stage, loss_at, bar=bar, keep=keep, skip=lambda: next(source))


def named(scenes: Sequence[world.Scene]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which noun and which colour is to be seen in each cell, ``[n, 9]``; the number of all of them: none."""
    noun = torch.full((len(scenes), world.GRID**2), len(world.NOUNS))
    colour = torch.full((len(scenes), world.GRID**2), len(world.COLOURS))
    for row, scene in enumerate(scenes):
        for thing in scene.visible:
            noun[row, thing.cell] = world.NOUNS.index(thing.noun)
            colour[row, thing.cell] = COLOUR_INDEX[thing.colour]
    return noun, colour


def read(
    model: LlavaForConditionalGeneration, batch: Batch, slots: torch.Tensor, **options: bool
) -> BaseModelOutputWithPast:
    """The decoder over packed turns; ``slots [n, 9, 128]`` stand where the image tokens are."""
    embedded = model.model.language_model.embed_tokens(batch.ids)
    embedded = torch.cat([embedded[:, :3], slots.to(embedded.dtype), embedded[:, 3 + world.GRID**2 :]], 1)
    return model.model.language_model(inputs_embeds=embedded, attention_mask=batch.mask,
                                      position_ids=batch.positions, use_cache=False, **options)  # fmt: skip


def answer_loss(logits: torch.Tensor, batch: Batch, packer: Packer) -> Shown:
    """The loss on the answers' words, whose logits these are, ``[words, vocabulary]``."""
    at = batch.targets != IGNORED
    weights, targets = batch.weights[at], batch.targets[at]
    loss = (F.cross_entropy(logits, targets, reduction="none") * weights).sum() / weights.sum()
    answered = (targets == packer.word["yes"]) | (targets == packer.word["no"])
    return loss, lambda: f"yes/no {(logits.argmax(-1) == targets)[answered].float().mean():.3f}"


def see(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """The tower's last states without its class token, ``[n, 9, 128]``."""
    with autocast(pixels.device):
        return model.model.vision_tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1][
            :, 1:
        ]


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over the positions ``[n, T]`` that have a target."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
