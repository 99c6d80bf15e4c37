"""From the configuration to the figures: what is checked, which models run, what is written."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks.analysis import kept as folders
from benchmarks.analysis.figures import FIGURES, draw
from benchmarks.analysis.kept import Kept
from benchmarks.analysis.subject import FEWEST, asked
from benchmarks.analysis.watch import Watcher
from benchmarks.methods import Method, build, create
from benchmarks.mistakes import CONF
from benchmarks.models import Checkpoint
from benchmarks.settings import check_arguments
from benchmarks.usage import UsageError, nearest

SHIPPED = Path(__file__).parents[1] / "miniature" / "models"


def run(config: Mapping[str, Any], folder: Path) -> None:
    """Writes the figures of all models and captions.md. Raises: UsageError."""
    check(config)
    lines = _drawn_again(config, folder) if config["traces"] is not None else _watched(config, folder)
    text = "# Figures\n\nNumbers are in the CSV of the same name, traces in `traces/` of each model.\n\n"
    (folder / "captions.md").write_text(text + "\n".join(lines) + "\n", "utf-8")
    print(f"{sum('.png`' in line for line in lines)} figures: {folder / 'captions.md'}")


def check(config: Mapping[str, Any]) -> None:
    """Raises: UsageError on a key that is none, or a value that cannot work."""
    known = {str(key) for key in OmegaConf.load(CONF / "analysis.yaml")} - {"defaults", "hydra"}
    known |= {"model", "method"}
    for key in set(config) - known:  # those of +key=value
        raise UsageError(f"unknown key {key}: {nearest(key, known)}")
    for key, least in {"n": FEWEST, "batch_size": 1, "scene": 0, "max_new_tokens": 1}.items():
        value = config[key]
        if value is None and key in ("scene", "max_new_tokens"):
            continue
        if type(value) is not int or value < least:
            raise UsageError(f"{key}={value}; expected a whole number, at least {least}")
    for key in ("image", "images", "prompt", "question", "traces"):
        if not isinstance(config[key], str | None) or config[key] == "":
            raise UsageError(f"{key}={config[key]}; expected text, in quotes if it looks like something else")
    for key in ("figure", "objects"):
        if not isinstance(config[key], list | None) or (key == "figure" and config[key] == []):
            raise UsageError(f"{key}={config[key]}; expected a list such as [a,b], or null")
    for name in config["figure"] or ():
        if name not in FIGURES:
            raise UsageError(f"unknown figure {name!r}: {nearest(str(name), FIGURES)}")


def _watched(config: Mapping[str, Any], folder: Path) -> list[str]:
    if not config.get("model"):
        raise UsageError("model=[] leaves nothing to run; name at least one, or draw from traces=FOLDER")
    subject, figures = asked(config), _figures(config)
    methods = _methods(config) if "texts" in figures else {}
    models = {name: create(f"model {name}", node) for name, node in config["model"].items()}
    for name, model in models.items():
        depth = _checked(model, name, own=config["image"] is not None)
        for method in methods.values():
            method.check(depth)
    lines = []
    for name, model in models.items():
        watcher = Watcher(model.load(name), config["batch_size"], figures, config["figure"] or ())
        watcher.kept(subject, methods).save(folder / name / "traces")
        # Drawn from what was written, as any later call does it.
        kept = folders.load(folder / name / "traces")
        lines += draw(kept, kept.about["figures"], folder / name)
    return lines


def _drawn_again(config: Mapping[str, Any], folder: Path) -> list[str]:
    lines = []
    for name, path in folders.models(Path(config["traces"])).items():
        kept = folders.load(path)
        lines += draw(kept, _there(kept, config["figure"], path), folder / name)
    return lines


def _there(kept: Kept, chosen: Sequence[str] | None, path: Path) -> Collection[str]:
    there = kept.about["figures"]
    for name in chosen or ():
        if name not in there:
            raise UsageError(f"{path} has no traces for the figure {name}, only for {', '.join(there)}")
    return [name for name in FIGURES if name in (chosen or there)]


def _figures(config: Mapping[str, Any]) -> list[str]:
    """Those that are asked for, in their order; all that can be drawn if none is."""
    chosen = config["figure"]
    alone = config["image"] is not None and config["images"] is None
    if chosen is not None and "questions" in chosen and alone:
        raise UsageError(
            f"the figure questions is about many images, and image= is one; give images=FOLDER with at least "
            f"{FEWEST} more"
        )
    return [name for name in FIGURES if name in (chosen or FIGURES) and not (alone and name == "questions")]


def _methods(config: Mapping[str, Any]) -> dict[str, Method]:
    methods = {name: build(name, node) for name, node in (config.get("method") or {}).items()}
    for name, method in methods.items():
        check_arguments(name, method.generate)
        if method.second is not None:
            raise UsageError(
                f"method {name} runs the model a second time, of which there is no trace; leave it out"
            )
    return {name: method for name, method in methods.items() if name != "greedy"}


def _checked(model: Checkpoint, name: str, *, own: bool) -> int:
    depth = model.check(name)
    if own and Path(model.path).resolve().is_relative_to(SHIPPED):
        raise UsageError(
            f"model {name} knows the drawn world only, and image= is a file of your own; name a checkpoint "
            f"such as model=[llava-1.5-7b]"
        )
    return depth
