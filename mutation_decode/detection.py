"""The decision, per row: which late blocks mutate the distribution, and what it was before them."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import saved
from .divergence import MEASURES, Divergence


@dataclass(frozen=True, slots=True, eq=False)
class Mutations:
    """What the detector found at one step, row by row. Blocks count 0..L-1, readouts 0..L.

    Attributes:
        js: `[rows, L]` nats, the change that each block makes; NaN where the block was not read. In another
            unit if the detector goes by another divergence.
        critical: `[rows]` readout at which the shallow evolution ends; L where a row never settles.
        mutated: `[rows, L]` bool, the blocks that mutate the distribution.
        fired: `[rows]` bool, whether there is such a block.
        pre_mutation: `[rows]` the readout that enters the first mutated block; L where the row did not fire.
    """

    js: Tensor
    critical: Tensor
    mutated: Tensor
    fired: Tensor
    pre_mutation: Tensor

    @classmethod
    def none(cls, js: Tensor) -> Self:
        """Nothing found in any row."""
        rows, depth = js.shape
        nowhere = torch.full((rows,), depth, device=js.device)
        mutated = torch.zeros(rows, depth, dtype=torch.bool, device=js.device)
        return cls(js=js, critical=nowhere, mutated=mutated, fired=mutated.any(dim=-1), pre_mutation=nowhere)

    def only(self, rows: Tensor) -> Self:
        """The same in these rows (`[rows]` bool), and in the others as if nothing had been found."""
        fired = self.fired & rows
        first = torch.where(fired, self.pre_mutation, self.mutated.shape[1])
        return replace(self, mutated=self.mutated & rows[:, None], fired=fired, pre_mutation=first)


@dataclass(frozen=True, slots=True)
class Detector:
    """Finds each row's mutation layers: the blocks from the critical readout on that change the distribution.

    Attributes:
        threshold: nats, in [0, ln 2]; a block mutates the distribution if its js is above it. In the unit and
            range of `divergence`, if that is another one.
        critical: where the search begins: a fraction of the depth in [0, 1), a readout (an int), or None to
            find it for each token as the first readout from which two successive js stay below `settle`.
        settle: nats, above 0, else as `threshold`; used only when `critical` is None.
        largest: keep only the block with the largest js (the lower one of equals).
        include_last: consider the last block too; it moves nearly every distribution.
        until: where the search ends: a fraction of the depth in (0, 1] or a block (an int), the first one
            that is not watched; None for the end. It does not bring the last block in.
        divergence: what js stands for here: js, kl, reverse_kl, tv or hellinger; what is above the threshold
            of one may not be above that of another.

    Raises:
        ValueError: if a knob is out of its range.

    Source: section 4 of "Towards Understanding How Knowledge Evolves in Large Vision-Language Models".
    """

    threshold: float = 0.05
    critical: float | int | None = 18 / 32
    settle: float = 0.02
    largest: bool = False
    include_last: bool = False
    until: float | int | None = None
    divergence: Divergence = "js"

    def __post_init__(self) -> None:
        if self.divergence not in get_args(Divergence):
            raise ValueError(
                f"divergence is one of {', '.join(get_args(Divergence))}, got {self.divergence!r}."
            )
        measure = MEASURES[self.divergence]
        unit = measure.unit and f" in{measure.unit}"
        for name, value, least in (
            ("threshold", self.threshold, "at least 0"),
            ("settle", self.settle, "above 0"),
        ):
            number = isinstance(value, int | float) and math.isfinite(value) and value <= measure.largest
            if not number or value < 0 or (value == 0 and least == "above 0"):
                raise ValueError(
                    f"{name} is a {measure.name}{unit}, {least}{measure.at_most}, got {value!r}."
                )
        if isinstance(self.critical, bool) or not isinstance(self.critical, float | int | None):
            raise ValueError(f"critical is a fraction, a readout or None, got {self.critical!r}.")
        if isinstance(self.critical, float) and not 0 <= self.critical < 1:
            raise ValueError(
                f"critical, as a float, is a fraction of the depth in [0, 1), got {self.critical!r}; "
                f"write an int for a readout."
            )
        if isinstance(self.critical, int) and self.critical < 0:
            raise ValueError(f"critical, as an int, is a readout from 0 on, got {self.critical!r}.")
        if isinstance(self.until, bool) or not isinstance(self.until, float | int | None):
            raise ValueError(f"until is a fraction, a block or None, got {self.until!r}.")
        if isinstance(self.until, float) and not 0 < self.until <= 1:
            raise ValueError(
                f"until, as a float, is a fraction of the depth in (0, 1], got {self.until!r}; write an int "
                f"for a block."
            )
        if isinstance(self.until, int) and self.until < 1:
            raise ValueError(
                f"until, as an int, is the first block not watched, from 1 on, got {self.until!r}."
            )

    @classmethod
    def paper(cls) -> Self:
        """The authors' recipe: the block with the largest js from 18/32 of the depth to the last but one."""
        return cls(threshold=0.0, critical=18 / 32, largest=True)

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | None = None, *, remedy: str | None = None) -> Self:
        """The detector of a saved calibration.

        Args:
            model: what it is for; it warns if the calibration was made for another one.
            remedy: contrast or skip, for the detector that goes with that; None for the recommended one's.

        Raises:
            ValueError: if there is none in that file, or it watches layers that the model lacks.
        """
        return saved.load(cls, path, model, part="detector", remedy=remedy)

    def blocks(self, depth: int) -> range:
        """The blocks whose js the detector looks at in a model of `depth` blocks; only these have to be read.

        Raises:
            ValueError: if that leaves no block, or `until` is none of the model.
        """
        if isinstance(self.until, int) and self.until > depth:
            raise ValueError(f"until={self.until}: a model of {depth} blocks ends at {depth}.")
        first = 0 if self.critical is None else _at(self.critical, depth)
        last = depth if self.include_last else depth - 1
        last = last if self.until is None else min(last, _at(self.until, depth))
        if first >= last:
            end = "" if self.until is None else f" with until={self.until!r}"
            raise ValueError(
                f"critical={self.critical!r}{end} leaves no block to watch in a model of {depth} blocks "
                f"(the last one {'in' if self.include_last else 'ex'}cluded); choose a readout below {last}."
            )
        return range(first, last)

    def __call__(self, js: Tensor) -> Mutations:
        """Decides for every row by itself; no row looks at another, and nothing waits for the device.

        Args:
            js: `[rows, L]` in the unit of `divergence`, with NaN at blocks that were not read; those never
                count as mutated.
        """
        depth = js.shape[-1]
        watched = self.blocks(depth)
        block = torch.arange(depth, device=js.device)
        critical = self._critical(js, block, watched.stop)
        searched = (block >= critical[:, None]) & (block < watched.stop)
        mutated = searched & (js > self.threshold)
        if self.largest:
            # NaN would win an argmax, so blocks that do not count are lowered first.
            top = torch.where(mutated, js, -1.0).argmax(dim=-1)
            mutated = mutated & (block == top[:, None])
        fired = mutated.any(dim=-1)
        first = torch.where(mutated, block, depth).amin(dim=-1)
        return Mutations(js=js, critical=critical, mutated=mutated, fired=fired, pre_mutation=first)

    def stable(self, js: Tensor, *, share: float = 0.95) -> tuple[int, ...]:
        """The blocks in the stable phase of most tokens: from the critical readout to the first mutation.

        These change little, so they are the ones to try to do without: `Skip(layers=..., prompt=True)`.

        Args:
            js: `[tokens, L]` in the unit of `divergence`, such as `trace.js[trace.generated]`.
            share: in (0, 1]; a block counts if it lies in the stable phase of at least this share of tokens.

        Raises:
            ValueError: if `share` is out of range, or there are no tokens.
        """
        if not 0 < share <= 1 or js.dim() != 2 or len(js) == 0:
            raise ValueError(
                f"expected js of some tokens, [tokens, L], and a share in (0, 1], got js "
                f"{tuple(js.shape)} and share={share!r}."
            )
        found, block = self(js), torch.arange(js.shape[1], device=js.device)
        last = found.pre_mutation[:, None].clamp_max(self.blocks(js.shape[1]).stop)
        calm = (block >= found.critical[:, None]) & (block < last)
        return tuple((calm.float().mean(dim=0) >= share).nonzero().flatten().tolist())

    def _critical(self, js: Tensor, block: Tensor, stop: int) -> Tensor:
        rows, depth = js.shape
        if self.critical is not None:
            return torch.full((rows,), _at(self.critical, depth), device=js.device)
        calm = (js < self.settle) & (block < stop)
        settled = calm & F.pad(calm[:, 1:], (0, 1))
        return torch.where(settled, block, depth).amin(dim=-1)


def _at(place: float | int, depth: int) -> int:
    """A fraction of the depth as a number of blocks; an int is one."""
    return round(place * depth) if isinstance(place, float) else place


DEFAULT_DETECTOR = Detector()
