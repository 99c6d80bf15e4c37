"""What happened at every token of a generate call."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from . import trace_file
from .divergence import MEASURES, Divergence
from .pieces import pieces

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """The answers of one generate call, token by token, on the CPU. Blocks count 0..L-1, readouts 0..L.

    Row r is row r of what generate returned; entry t is its t-th generated token, and what was measured at
    the position that predicted it. Everything outside `generated` (after a row's end) is filler.

    Attributes:
        tokens: `[rows, tokens]` the generated ids.
        generated: `[rows, tokens]` bool, True up to and including the token that ended the row.
        js: `[rows, tokens, L]` nats, the change that each block made; in another unit if the detector went by
            another `divergence`, as it is what the detector saw.
        critical: `[rows, tokens]` readout.
        pre_mutation: `[rows, tokens]` readout; L where nothing fired.
        mutated: `[rows, tokens, L]` bool.
        skipped: `[rows, tokens, L]` bool, the blocks that were left out.
        fired: `[rows, tokens]` bool, whether the detector found mutated blocks, and a gate let that through.
        acted: `[rows, tokens]` bool, whether the strategy was applied: where it fired, or everywhere if it
            always acts.
        divergence: which one js holds; js unless the detector names another.
        watched: the blocks, first and first not, that `risk` looks at: the detector's, if its search begins
            at a fixed one; else the last 14/32 of the depth, less the last block.
        moved: `[rows, tokens]` bool, whether it changed what generate was handed; None in a trace without it.
        prob: `[rows, tokens, L+1]` what every readout gives the emitted token, readout L the model itself;
            NaN where a beam went on with a token that was not among its likeliest, as by drawing, or by other
            processors. This and what follows it only with a `Record`; else None.
        top_ids, top_probs: `[rows, tokens, L+1, k]` the likeliest tokens of every readout, likeliest first.
        after_ids, after_probs: `[rows, tokens, k]` the same of what was handed on to generate.
        states: `[rows, tokens, L+1, hidden]` as the blocks left them, before the final norm, with one more
            dimension where several streams run side by side; of a skipped token those of the first run. Only
            with `Record(states=True)`.
        texts: for each row, what each of its generated tokens adds to the text; from `named`, like names.
        names: id -> its text when it stands alone, for all that occur.
        model: the fingerprint of the model.
    """

    tokens: Tensor
    generated: Tensor
    js: Tensor
    critical: Tensor
    pre_mutation: Tensor
    mutated: Tensor
    skipped: Tensor
    fired: Tensor
    acted: Tensor
    divergence: Divergence = "js"
    watched: tuple[int, int] = (0, 0)
    moved: Tensor | None = None
    prob: Tensor | None = None
    top_ids: Tensor | None = None
    top_probs: Tensor | None = None
    after_ids: Tensor | None = None
    after_probs: Tensor | None = None
    states: Tensor | None = None
    texts: tuple[tuple[str, ...], ...] | None = None
    names: Mapping[int, str] | None = None
    model: Mapping[str, Any] | None = None

    @property
    def depth(self) -> int:
        """L, the number of blocks."""
        return int(self.js.shape[2])

    @property
    def percent_fired(self) -> float:
        """Percent of the generated tokens at which the detector found a mutation; NaN without tokens."""
        return _percent(self.fired, self.generated)

    @property
    def percent_acted(self) -> float:
        """Percent of the generated tokens at which the strategy acted; NaN without tokens."""
        return _percent(self.acted, self.generated)

    @property
    def risk(self) -> Tensor:
        """`[rows, tokens]` in [0, 1]: the largest change at the watched blocks, of the largest there can be.

        How well that tells invented words differs from model to model (`calibrate` says); where the prior
        enters early, it may point the other way. A KL divergence D, which has no largest value, counts as
        sqrt(1 - exp(-D)), the most that total variation can then be (Bretagnolle and Huber 1979). NaN where
        none of these blocks was read.
        """
        return risk_of(self.js, self.watched, self.divergence)

    def row(self, number: int) -> Self:
        """One row, cut to its generated tokens. Raises: IndexError if there is no such row."""
        if not 0 <= number < len(self.tokens):
            raise IndexError(f"a trace of {len(self.tokens)} rows has no row {number}.")
        kept = self.generated[number]
        cut: dict[str, Any] = {name: value[number, kept][None] for name, value in self.tensors().items()}
        return replace(self, texts=None if self.texts is None else (self.texts[number],), **cut)

    def named(self, tokenizer: Any) -> Self:
        """The same with texts and names.

        Args:
            tokenizer: anything with transformers' `decode`.
        """
        every = [self.tokens[self.generated]]
        every += [ids.reshape(-1) for ids in (self.top_ids, self.after_ids) if ids is not None]
        ids = sorted(set(torch.cat(every).tolist()))
        rows = [tokens[kept].tolist() for tokens, kept in zip(self.tokens, self.generated, strict=True)]
        return replace(
            self,
            texts=tuple(pieces(row, tokenizer) for row in rows),
            names={each: str(tokenizer.decode([each])) for each in ids},
        )

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, those that are there."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file, whole or not at all; all but the tensors is JSON in its header."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        trace_file.write(path, self.tensors(), {k: v for k, v in told.items() if not isinstance(v, Tensor)})

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | None = None) -> Self:
        """Reads a saved trace.

        Args:
            model: what it is to be compared with; it warns if the trace is of another one.

        Raises:
            ValueError: if it is no such file, or its depth is not that of the model.
        """
        return cls(
            **trace_file.read(path, model, required=[f.name for f in fields(cls) if f.default is MISSING])
        )

    def to_pandas(self) -> "DataFrame":
        """A line for each generated token: scalars, lists of blocks, and js_0, ..., prob_0, ... by layer.

        Raises:
            ImportError: without pandas.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise ImportError("to_pandas needs pandas; pip install pandas.") from error
        lines = []
        for line in self._lines():
            js, prob = line.pop("js"), line.pop("prob", None) or []
            for name in ("top_ids", "top_probs", "after_ids", "after_probs"):
                line.pop(name, None)
            layers = {f"js_{block}": value for block, value in enumerate(js)}
            lines.append(line | layers | {f"prob_{readout}": value for readout, value in enumerate(prob)})
        return DataFrame(lines, columns=None if lines else [*SCALARS])

    def to_dataset(self) -> "Dataset":
        """A line for each generated token, lists by layer: js `[L]`, prob `[L+1]`, top_ids `[L+1, k]`, ...

        Raises:
            ImportError: without datasets.
        """
        try:
            from datasets import Dataset
        except ImportError as error:
            raise ImportError("to_dataset needs datasets; pip install datasets.") from error
        lines = self._lines()
        return Dataset.from_list(list(lines)) if lines else Dataset.from_dict({name: [] for name in SCALARS})

    def _lines(self) -> Sequence[dict[str, Any]]:
        risk, lines = self.risk, []
        by_layer = ("js", "prob", "top_ids", "top_probs", "after_ids", "after_probs")
        tensors = {name: value for name, value in self.tensors().items() if name in by_layer}
        for row, token in self.generated.nonzero().tolist():
            at = row, token
            lines.append(
                {
                    "row": row,
                    "token": token,
                    "id": int(self.tokens[at]),
                    "text": None if self.texts is None else self.texts[row][token],
                    "risk": float(risk[at]),
                    "fired": bool(self.fired[at]),
                    "acted": bool(self.acted[at]),
                    "moved": None if self.moved is None else bool(self.moved[at]),
                    "critical": int(self.critical[at]),
                    "pre_mutation": int(self.pre_mutation[at]),
                    "probability": None if self.prob is None else float(self.prob[at][-1]),
                    "mutated": self.mutated[at].nonzero().flatten().tolist(),
                    "skipped": self.skipped[at].nonzero().flatten().tolist(),
                    **{name: value[at].tolist() for name, value in tensors.items()},
                }
            )
        return lines


SCALARS = ("row", "token", "id", "text", "risk", "fired", "acted", "moved", "critical", "pre_mutation",
           "probability", "mutated", "skipped")  # fmt: skip
"""What a table has of each token, whatever was recorded."""


def risk_of(js: Tensor, watched: tuple[int, int], divergence: Divergence) -> Tensor:
    """`[...]` in [0, 1] of changes `[..., L]`; see `Trace.risk`."""
    change = js[..., slice(*watched)]
    if change.shape[-1] == 0:
        return torch.full(change.shape[:-1], torch.nan)
    largest = change.nan_to_num(-1.0, posinf=torch.inf).amax(dim=-1)
    largest, most = torch.where(largest < 0, torch.nan, largest), MEASURES[divergence].largest
    return largest / most if math.isfinite(most) else (1 - (-largest).exp()).sqrt()


def _percent(which: Tensor, among: Tensor) -> float:
    return 100 * float((which & among).sum()) / total if (total := int(among.sum())) else float("nan")
