"""The command: mutation-decode inspect | calibrate | diagnose | doctor."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .encoding import PROMPT, encoder, opened
from .examples import EXPECTED, UNREADABLE, read_examples

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class MistakeError(Exception):
    """What the user can put right: one line, and exit code 2."""


def main(words: Sequence[str] | None = None) -> None:
    """Runs a command of `words`, those of the command line by default."""
    asked = _parser().parse_args(words)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an answer has letters that a terminal may not have
    try:
        asked.run(asked)
    except MistakeError as error:
        print(f"mutation-decode: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mutation-decode", description="Looks into a model, and fits decoding to it."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(required=True, metavar="inspect | calibrate | diagnose | doctor")
    inspect = commands.add_parser("inspect", help="answer about one image, and see which words to doubt")
    inspect.add_argument("--image", required=True, type=Path, help="a file")
    inspect.add_argument(
        "--strategy", default="contrast", help="greedy, contrast, skip or calibration.json (%(default)s)"
    )
    inspect.add_argument("--out", type=Path, default=Path("inspect.html"), help="default: %(default)s")
    inspect.add_argument("--top", type=_number, default=5, help="candidates of every readout (%(default)s)")
    inspect.add_argument("--colour", choices=["auto", "always", "never"], default="auto")
    inspect.set_defaults(run=_inspect)
    calibrate = commands.add_parser(
        "calibrate", help="fit a detector and a strategy to a model, from images with known objects"
    )
    calibrate.add_argument("--data", required=True, type=Path, help=f"JSON Lines: {EXPECTED}")
    calibrate.add_argument("--out", type=Path, default=Path("calibration.json"), help="default: %(default)s")
    calibrate.add_argument("--budget", type=_number, default=12, help="candidates of each kind (%(default)s)")
    calibrate.set_defaults(run=_calibrate)
    diagnose = commands.add_parser("diagnose", help="see where images enter a model, from plain images")
    diagnose.add_argument("--images", required=True, type=Path, help="a folder")
    diagnose.set_defaults(run=_diagnose)
    doctor = commands.add_parser("doctor", help="try what works with a model, and what it costs here")
    doctor.set_defaults(run=_doctor)
    for command in (inspect, calibrate, diagnose):
        command.add_argument("--prompt", default=PROMPT, help="default: %(default)r")
        command.add_argument("--max-new-tokens", type=_number, default=128, help="default: %(default)s")
    for command in (calibrate, diagnose):
        command.add_argument("--batch-size", type=_number, default=8, help="default: %(default)s")
        command.add_argument("--limit", type=_number, help="use the first so many images only")
    for command in (inspect, calibrate, diagnose, doctor):
        command.add_argument("--model", required=True, help="a folder, or a name on the hub")
        command.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: %(default)s")
        command.add_argument(
            "--dtype", help="float32, bfloat16, ...; default: the checkpoint's, on a CPU float32"
        )
    return parser


def _version() -> str:
    try:
        return version("mutation-decode")
    except PackageNotFoundError:  # run from its sources
        return "unknown"


def _number(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {word!r}")
    return int(word)


def _calibrate(asked: argparse.Namespace) -> None:
    from .calibrate import calibrate

    try:
        examples = read_examples(asked.data, asked.limit)
    except (OSError, ValueError) as error:
        raise MistakeError(error) from error
    _refuse_if_unwritable(asked.out)
    model, processor = _loaded(asked)
    try:
        calibration = calibrate(
            model,
            processor,
            examples,
            prompt=asked.prompt,
            max_new_tokens=asked.max_new_tokens,
            batch_size=asked.batch_size,
            budget=asked.budget,
            progress=True,
        )
    except ValueError as error:  # what the model or an example does not allow
        raise MistakeError(error) from error
    calibration.save(asked.out)
    print(calibration)
    print(f"written to {asked.out}")


def _refuse_if_unwritable(out: Path) -> None:
    """Hours before it is written."""
    folder = out.absolute().parent
    if not folder.is_dir():
        raise MistakeError(f"--out: there is no folder {folder}; make it first.")
    if out.is_dir():
        raise MistakeError(f"--out: expected a file, got the folder {out}; name a file in it.")
    if not os.access(folder, os.W_OK):
        raise MistakeError(f"--out: the folder {folder} cannot be written to; choose another one.")


def _diagnose(asked: argparse.Namespace) -> None:
    from .diagnose import diagnose

    if not asked.images.is_dir():
        raise MistakeError(f"--images: expected a folder, got {asked.images}, which is none.")
    paths = sorted(path for path in asked.images.iterdir() if path.suffix.lower() in SUFFIXES)[: asked.limit]
    if not paths:
        raise MistakeError(
            f"--images: expected images ({', '.join(sorted(SUFFIXES))}) in {asked.images}, got none."
        )
    for path in paths:
        try:
            opened(path)
        except UNREADABLE as error:
            raise MistakeError(f"--images: {path} cannot be read: {type(error).__name__}: {error}") from error
    model, processor = _loaded(asked)
    try:
        encode = encoder(model, processor, asked.prompt)
        batches = (
            encode(paths[start : start + asked.batch_size])
            for start in range(0, len(paths), asked.batch_size)
        )
        print(diagnose(model, batches, max_new_tokens=asked.max_new_tokens))
    except ValueError as error:  # what the model does not allow
        raise MistakeError(error) from error


def _inspect(asked: argparse.Namespace) -> None:
    from .inspecting import GREEDY, NAMED, inspect, refuse_without_page, write_page
    from .terminal import has_colours

    if asked.strategy not in (GREEDY, *NAMED) and not Path(asked.strategy).is_file():
        raise MistakeError(
            f"--strategy: expected {', '.join((GREEDY, *NAMED))} or the file of a calibration, got "
            f"{asked.strategy!r}, which is none."
        )
    try:
        image = opened(asked.image)
    except UNREADABLE as error:
        raise MistakeError(
            f"--image: {asked.image} cannot be read: {type(error).__name__}: {error}"
        ) from error
    _refuse_if_unwritable(asked.out)
    try:
        refuse_without_page()
    except ImportError as error:
        raise MistakeError(error) from error
    model, processor = _loaded(asked)
    try:
        found = inspect(
            model,
            processor,
            image,
            asked.prompt,
            strategy=asked.strategy,
            max_new_tokens=asked.max_new_tokens,
            top=asked.top,
            colours=has_colours(sys.stdout, asked.colour),
        )
    except (OSError, ValueError) as error:  # what the model or the calibration does not allow
        raise MistakeError(error) from error
    write_page(asked.out, found, image, asked.prompt, title=f"{asked.model}: {Path(asked.image).name}")
    print(f"\nwritten to {asked.out}; open it in a browser")


def _doctor(asked: argparse.Namespace) -> None:
    from .doctor import checkup, example
    from .loading import REFUSALS, load_or_build

    try:
        model, processor, built = load_or_build(asked.model, asked.device, asked.dtype)
    except REFUSALS as error:
        raise MistakeError(f"--model {asked.model} cannot be loaded: {error}") from error
    whole = f"{type(model).__name__}, {model.dtype} on {model.device}".replace("torch.", "")
    print(f"   model: {whole}{', built with random weights: there are none' if built else ''}")
    inputs, of = example(model, processor)
    print(f"   tried with: {of}")
    read = True
    for each in checkup(model, inputs):
        sign = {True: "ok", False: "NO", None: "  "}[each.works]
        print(f"{sign} {each.name}: {each.told}", flush=True)
        read = read and not (each.name == "lens" and each.works is False)
    if not read:
        raise SystemExit(1)


def _loaded(asked: argparse.Namespace) -> tuple[Any, Any]:
    """The model on its device, and its processor."""
    from .loading import REFUSALS, load

    try:
        return load(asked.model, asked.device, asked.dtype)
    except REFUSALS as error:
        raise MistakeError(f"--model {asked.model} cannot be loaded: {error}") from error


if __name__ == "__main__":
    main()
