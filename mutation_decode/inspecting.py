"""``mutation-decode inspect``: one image, one question; answers as they are made, and what is behind them."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import torch

from . import terminal
from .calibration import Calibration
from .encoding import encoder
from .processor import MutationLogitsProcessor
from .record import Record
from .strategy import Contrast, Skip
from .trace import Trace

GREEDY = "greedy"
NAMED = {"contrast": Contrast, "skip": Skip}
UNTOUCHED = Contrast(alpha=0.0, layer=0, always=True)
"""Reads every layer, changes no score."""


def inspect(
    model: Any,
    processor: Any,
    image: Any,
    prompt: str,
    *,
    strategy: str = GREEDY,
    max_new_tokens: int = 128,
    top: int = 5,
    file: TextIO | None = None,
    colours: bool = False,
) -> dict[str, Trace]:
    """Answers greedily, and once more with a strategy, each written to `file` while it is made.

    Args:
        image: a picture, or the path of one.
        strategy: greedy for the plain answer alone, contrast or skip with their defaults, or the file of a
            calibration.
        top: how many candidates of every readout the traces hold.

    Returns: name -> trace of one row, with texts.

    Raises:
        ValueError: if the model or the prompt does not allow it, or the file is no calibration.
        OSError: if a file cannot be read.
    """
    file = sys.stdout if file is None else file
    inputs = encoder(model, processor, prompt)([image])
    record, found = Record(top=top), dict[str, Trace]()
    calibration = None if strategy in (GREEDY, *NAMED) else Calibration.load(strategy, model)
    watched = (
        None if calibration is None or not calibration.recommended else calibration.settings()["detector"]
    )
    with ExitStack() as on:
        # Risk is read where the strategy would look, in the plain answer too.
        ways = {GREEDY: MutationLogitsProcessor(model, UNTOUCHED, detector=watched, trace=record)}
        if strategy in NAMED:
            ways[strategy] = MutationLogitsProcessor(model, NAMED[strategy](), trace=record)
            print(
                f"{strategy} as it comes, not fitted to this model: mutation-decode calibrate does", file=file
            )
        elif calibration is not None and calibration.recommended is None:
            print(f"{strategy} recommends nothing, so there is the plain answer alone", file=file)
        elif calibration is not None and calibration.recommended is not None:
            ways[calibration.recommended] = calibration.processor(model, trace=record)
        for way in ways.values():
            on.enter_context(way)
        print(terminal.legend(colours=colours), file=file)
        for name, way in ways.items():
            print(f"\n{name}:", file=file)
            streamer = terminal.RiskStreamer(way, processor.tokenizer, file, colours=colours)
            with torch.inference_mode(), _notes(file):
                model.generate(
                    **inputs,
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    num_beams=1,
                    num_return_sequences=1,
                    logits_processor=[way],
                    streamer=streamer,
                )
            assert way.trace is not None
            found[name] = way.trace.row(0).named(processor.tokenizer)
    return found


def refuse_without_page() -> None:
    """Raises: ImportError where what pages are made of is not installed, before anything is answered."""
    if find_spec("bokeh") is None:
        raise ImportError("a page needs bokeh; pip install 'mutation-decode[inspect]'.")


def write_page(out: Path, found: dict[str, Trace], image: Any, prompt: str, title: str) -> None:
    """The page of these answers; see `page.write`."""
    from . import page

    page.write(out, found, prompt=prompt, image=image, title=title)


@contextmanager
def _notes(file: TextIO) -> Iterator[None]:
    """A warning is a line below the answer, and no interruption of it."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        yield
    for each in told:
        if issubclass(each.category, UserWarning):
            print(f"note: {each.message}", file=file)
