"""Trains the embedded models again: ``python -m benchmarks.miniature.train``, fixed seeds, fixed steps.

Shared start: the vision tower learns to name cells, the projector is set onto the word embeddings of what it
sees. ``miniature-late-prior``: a trunk of 9 blocks learns faithful captions and questions on clean scenes;
3 blocks that add nothing are appended, and these alone are trained on the captions of a writer who expects
companions. Its late prior is planted. ``miniature-natural``, the control: all 12 blocks learn jointly on the
prior-laden world. Both have a grounding head on readout 3 in training, annealed away and not shipped.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from benchmarks.miniature.learning import teach_text, teach_vision
from benchmarks.miniature.lessons import Stage
from benchmarks.miniature.model import append_blocks, build_model, build_processor
from benchmarks.miniature.packing import Packer

MODELS = Path(__file__).parent / "models"
TRUNK_BLOCKS, LATE_BLOCKS = 9, 3
TOWER = Stage(2500, 1e-3, "clean", prior=False, seed=1)
PROJECTOR = Stage(625, 2e-3, "clean", prior=False, seed=1)
TRUNK = Stage(3600, 1.2e-3, "clean", prior=False, seed=2)
LATE = Stage(700, 2e-3, "prior", prior=True, seed=3)
NATURAL = Stage(2400, 1.2e-3, "prior", prior=True, seed=4)


@dataclass(frozen=True, slots=True)
class Training:
    """Where and how much to train: ``scale`` is the fraction of every stage's steps.

    ``seed`` moves the seed of every stage, the start included: weights, scenes and turns are all others.
    """

    processor: LlavaProcessor
    work: Path
    device: torch.device
    scale: float = 1.0
    seed: int = 0

    @property
    def packer(self) -> Packer:
        return Packer(self.processor)

    def stage(self, stage: Stage) -> Stage:
        return replace(stage.scaled(self.scale), seed=self.seeded(stage))

    def seeded(self, stage: Stage) -> int:
        return stage.seed + 100 * self.seed

    def fresh(self, blocks: int, seed: int) -> LlavaForConditionalGeneration:
        """An untrained model whose first keys equal its queries: words find their like from the start."""
        torch.manual_seed(seed)
        model = build_model(len(self.packer.word), blocks=blocks)
        for block in model.model.language_model.layers[:2]:
            block.self_attn.k_proj.weight.data.copy_(block.self_attn.q_proj.weight.data)
        return model

    def begin(self, blocks: int, seed: int) -> LlavaForConditionalGeneration:
        """A fresh model on the shared tower, projector and embeddings (trained once, then read back)."""
        path = self.work / "start.pt"
        if not path.exists():
            model = self.fresh(TRUNK_BLOCKS, self.seeded(TOWER)).to(self.device)
            teach_vision(model, self.packer, self.stage(TOWER), self.stage(PROJECTOR), device=self.device)
            shared = ("vision_tower", "multi_modal_projector", "embed_tokens")
            state = {k: v.cpu() for k, v in model.state_dict().items() if any(s in k for s in shared)}
            torch.save(state, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        model = self.fresh(blocks, seed)
        model.load_state_dict(torch.load(path), strict=False)
        model.lm_head.weight.data.copy_(model.get_input_embeddings().weight.data)
        return model.to(self.device)


def late_prior(training: Training, bar: int) -> LlavaForConditionalGeneration:
    """A trunk, grounded, then frozen (kept in the work folder), and blocks on top."""
    folder, packer, device = training.work / "trunk", training.packer, training.device
    if folder.exists():
        trunk = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).to(device)
    else:
        trunk = training.begin(TRUNK_BLOCKS, training.seeded(TRUNK))
        keep = training.work / "trunk.pt"
        teach_text("trunk", trunk, packer, training.stage(TRUNK), device=device, bar=bar, keep=keep)
        ship(trunk, training.processor, folder, torch.float32)
    torch.manual_seed(training.seeded(LATE))
    model = append_blocks(trunk, LATE_BLOCKS).to(device)
    keep = training.work / "late-prior.pt"
    teach_text("late prior", model, packer, training.stage(LATE), device=device, frozen=TRUNK_BLOCKS, bar=bar,
               keep=keep)  # fmt: skip
    return model


def natural(training: Training, bar: int) -> LlavaForConditionalGeneration:
    """All blocks at once on the prior-laden world."""
    model = training.begin(TRUNK_BLOCKS + LATE_BLOCKS, training.seeded(NATURAL))
    teach_text("natural", model, training.packer, training.stage(NATURAL), device=training.device, bar=bar,
               keep=training.work / "natural.pt")  # fmt: skip
    return model


RECIPES = {"miniature-late-prior": late_prior, "miniature-natural": natural}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=[*RECIPES], help="train one of the models")
    parser.add_argument(
        "--out", type=Path, help="where the model folders are written; seed 0: the shipped ones"
    )
    parser.add_argument("--work", type=Path, help="keeps finished stages; default: runs/miniature/SEED")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the steps, for a trial")
    parser.add_argument("--seed", type=int, default=0, help="0 is that of the shipped models")
    options = parser.parse_args()
    options.work = options.work or Path("runs/miniature") / str(options.seed)
    options.out = options.out or (options.work if options.seed else MODELS)
    claim(options.work, options.scale, options.seed)
    training = Training(
        build_processor(), options.work, torch.device(options.device), options.scale, options.seed
    )
    training.begin(TRUNK_BLOCKS, training.seeded(TRUNK))
    if options.only is None and training.device.type == "cpu":
        side_by_side(sys.argv[1:])
        return
    for bar, (name, recipe) in enumerate(RECIPES.items()):
        if options.only in (None, name):
            ship(recipe(training, bar), training.processor, options.out / name, torch.bfloat16)


def ship(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path, dtype: torch.dtype
) -> None:
    """Writes a model and its processor as a folder that `from_pretrained` reads, whole or not at all."""
    part = folder.with_name(folder.name + ".part")
    model.to(dtype).save_pretrained(part)
    processor.save_pretrained(part)
    if folder.exists():
        for file in part.iterdir():  # a card beside the weights stays
            file.replace(folder / file.name)
        part.rmdir()
    else:
        part.rename(folder)


def claim(work: Path, scale: float, seed: int) -> None:
    """Makes the work folder, or ends where it holds the stages of another recipe: those must not be mixed."""
    sources = sorted(file for kind in ("*.py", "*.txt") for file in Path(__file__).parent.glob(kind))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()
    recipe, path = json.dumps({"scale": scale, "seed": seed, "sources": digest}), work / "recipe.json"
    if path.exists() and path.read_text() != recipe:
        sys.exit(
            f"{work} holds stages of another scale or seed, or of other sources; remove it, or choose "
            f"another --work"
        )
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(recipe)


def side_by_side(arguments: list[str]) -> None:
    """One process of one thread for each model: on busy cores faster than one process of two threads."""
    command = [sys.executable, "-m", "benchmarks.miniature.train", *arguments, "--only"]
    running = [
        subprocess.Popen([*command, name], env={**os.environ, "OMP_NUM_THREADS": "1"}) for name in RECIPES
    ]
    codes = [process.wait() for process in running]
    if any(codes):
        sys.exit("training failed; finished stages are kept in the work folder, so the same command goes on")


if __name__ == "__main__":
    main()
