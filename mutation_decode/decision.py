"""What a step comes to: what is found in its layers, what a gate lets through, what is left out for it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .detection import Detector, Mutations
from .divergence import Divergence
from .gate import Gate
from .readout import Readout
from .strategy import ForwardStrategy, Strategy


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What was found, and the blocks that are left out for it, `[rows, L]` bool.

    `shut`, `[rows]` bool: whether something was found, and a gate let it not through; None without a gate.
    """

    mutations: Mutations
    skipped: Tensor
    shut: Tensor | None


@dataclass(frozen=True, slots=True)
class Decider:
    """From the readout of a step to its decision.

    Attributes:
        detector: None where nobody asks what it would find.
        gate: None where it is open.
        blocks: those whose change is read, for the detector or for a trace.
    """

    strategy: Strategy | ForwardStrategy
    detector: Detector | None
    gate: Gate | None
    blocks: range

    @property
    def divergence(self) -> Divergence:
        """In which the change at a block is measured."""
        return "js" if self.detector is None else self.detector.divergence

    def __call__(self, readout: Readout) -> Decision:
        """Raises: RuntimeError if the strategy leaves out something that is no set of blocks for each row."""
        change = readout.change(self.blocks, self.divergence)
        mutations, shut = Mutations.none(change) if self.detector is None else self.detector(change), None
        if self.gate is not None:
            open_ = self.gate(readout, mutations)
            mutations, shut = mutations.only(open_), mutations.fired & ~open_
        if not isinstance(self.strategy, ForwardStrategy):
            return Decision(mutations, torch.zeros_like(mutations.mutated), shut)
        skipped = self.strategy.skips(readout, mutations)
        if skipped.shape != mutations.mutated.shape or skipped.dtype != torch.bool:
            raise RuntimeError(
                f"{type(self.strategy).__name__}.skips gave {tuple(skipped.shape)} of {skipped.dtype}; "
                f"expected a bool for each row and block, {tuple(mutations.mutated.shape)}."
            )
        return Decision(mutations, skipped, shut)
