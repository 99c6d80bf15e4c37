"""An answer in a terminal while it is made, its words marked by risk, with colours or without."""

import os
from collections.abc import Mapping
from typing import Any, TextIO
from unicodedata import category, east_asian_width

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from .pieces import HALF, Pieces
from .processor import MutationLogitsProcessor

LEVELS = (0.07, 0.2, 0.4)
"""From which risk on a token is marked more; the first is the detector's default threshold, 0.05 nats."""
MARKS = ("", "?", "??", "???")
STYLES = ("", "\x1b[33m", "\x1b[1;33m", "\x1b[1;7;33m")
"""Told apart by weight and inversion too, not by their colour alone."""
RESET = "\x1b[0m"


class RiskStreamer(BaseStreamer):
    """Writes an answer of one row as generate makes it: pass it as `streamer=`.

    Args:
        processor: that of the same call, built with a trace.
        tokenizer: anything with transformers' `decode`.
        colours: mark by colour and weight; else by question marks.
    """

    def __init__(
        self, processor: MutationLogitsProcessor, tokenizer: Any, file: TextIO, *, colours: bool
    ) -> None:
        self._processor, self._file, self._colours = processor, file, colours
        self._pieces = Pieces(tokenizer)
        self._level = 0
        self._owed = 0  # the question marks of a word that may go on
        self._prompt = True

    def put(self, value: Tensor) -> None:
        """The prompt at first, then one token after the other."""
        if self._prompt:
            self._prompt = False
            return
        risk = self._processor.risk
        assert risk is not None
        # A letter of several tokens is as doubtful as the most doubtful of them.
        self._level = max(self._level, level(float(risk[0])))
        if piece := self._pieces.add(int(value.flatten()[0])):
            self._write(piece)
            self._level = 0

    def end(self) -> None:
        """After the last token."""
        self._write(self._pieces.rest() + "\n")

    def _write(self, piece: str) -> None:
        # What a model says must not move the cursor or clear the screen.
        piece = "".join(HALF if category(c) == "Cc" and c not in "\n\t" else c for c in piece)
        if self._colours:
            self._file.write(coloured(piece, self._level))
        else:
            goes_on = _goes_on(piece[0])
            owed = 0 if goes_on else self._owed
            self._file.write(MARKS[owed] + piece)
            self._owed = max(self._owed if goes_on else 0, self._level if piece.strip() else 0)
        self._file.flush()


def _goes_on(letter: str) -> bool:
    """Whether a piece that begins so goes on with a word: not in scripts that write a word in one letter."""
    if category(letter) == "Lo" and east_asian_width(letter) in "WF":
        return False
    return (
        letter.isalnum()
        or letter in "'\N{RIGHT SINGLE QUOTATION MARK}\N{ZERO WIDTH JOINER}"
        or category(letter)[0] == "M"
    )


def level(risk: float) -> int:
    """How much a token is marked, from 0 to 3."""
    return sum(risk >= least for least in LEVELS)


def coloured(piece: str, much: int) -> str:
    """A piece of text with its colour; blanks around it stay as they are."""
    word = piece.strip()
    return piece.replace(word, f"{STYLES[much]}{word}{RESET}") if much and word else piece


def legend(*, colours: bool) -> str:
    """One line that says what the marks mean."""
    told = [
        f"{coloured('word', number) if colours else 'word' + MARKS[number]} from {least:g}"
        for number, least in enumerate(LEVELS, start=1)
    ]
    return f"risk, the largest late change of mind in [0, 1]: {', '.join(told)}"


def has_colours(file: TextIO, wish: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether to use colours: `wish` is auto, always or never; see no-color.org."""
    if wish != "auto":
        return wish == "always"
    return file.isatty() and not environment.get("NO_COLOR") and environment.get("TERM", "dumb") != "dumb"
