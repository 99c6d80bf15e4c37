"""What the layers would say: the logits read at some depths of one forward, at the predicting position."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .divergence import Divergence, adjacent


@dataclass(frozen=True, slots=True, eq=False)
class Readout:
    """Logits of one step at several depths: readout j after j blocks, readout `depth` the model's own.

    Attributes:
        logits: `[rows, len(indices), vocab]` in the model's dtype, everything the model does after its head
            included.
        indices: the readouts that were read, ascending, each in 0..depth; the last one is `depth`.
        depth: L, the number of blocks.
        states: `[rows, len(indices), ...]` what was read, as the blocks left it; None where it was not kept.
    """

    logits: Tensor
    indices: tuple[int, ...]
    depth: int
    states: Tensor | None = None

    def __post_init__(self) -> None:
        if self.logits.dim() != 3 or self.logits.shape[1] != len(self.indices):
            raise ValueError(
                f"a Readout holds logits [rows, readouts, vocab], got shape {tuple(self.logits.shape)} "
                f"for {len(self.indices)} readouts."
            )
        if (
            list(self.indices) != sorted(set(self.indices))
            or self.indices[-1] != self.depth
            or self.indices[0] < 0
        ):
            raise ValueError(
                f"readouts must be ascending numbers in 0..{self.depth} that end with {self.depth}, got "
                f"{self.indices}."
            )

    def logits_at(self, readout: int | Tensor) -> Tensor:
        """fp32 logits `[rows, vocab]` of one readout, or of another one for each row.

        Args:
            readout: a readout in `indices`, or `[rows]` such readouts. Values of a tensor are not checked
                (that would make the host wait for the device): they must have been read.

        Raises:
            ValueError: if the readout was not read in this forward.
        """
        if isinstance(readout, Tensor):
            rows = torch.arange(self.logits.shape[0], device=self.logits.device)
            return self.logits[rows, self._slots(readout)].float()
        return self.logits[:, self._slot(readout)].float()

    def log_probs(self, readout: int | Tensor) -> Tensor:
        """fp32 log-probabilities `[rows, vocab]`; see `logits_at`."""
        return torch.log_softmax(self.logits_at(readout), dim=-1)

    def js(self, blocks: range | None = None) -> Tensor:
        """The change that each block makes, as JSD between the readouts before and after it.

        Args:
            blocks: consecutive blocks, each in 0..depth-1, whose two readouts were read; None for all.

        Returns:
            `[rows, depth]`, fp32, nats, in [0, ln 2]; NaN at every block outside `blocks`: not read, not 0.

        Raises:
            ValueError: if a readout that is needed was not read.
        """
        return self.change(blocks)

    def change(self, blocks: range | None = None, divergence: Divergence = "js") -> Tensor:
        """The change that each block makes, as a divergence of the readout after it from the one before.

        Args:
            blocks: see `js`.
            divergence: js, kl, reverse_kl, tv or hellinger; see `divergence.Divergence`.

        Returns:
            `[rows, depth]`, fp32, in the unit of the divergence; NaN at every block outside `blocks`.

        Raises:
            ValueError: if a readout that is needed was not read.
        """
        blocks = range(self.depth) if blocks is None else blocks
        change = torch.full((self.logits.shape[0], self.depth), torch.nan, device=self.logits.device)
        if len(blocks) > 0:
            first = self._slot(blocks[0])
            for block in blocks:
                self._slot(block + 1)
            stack = self.logits[:, first : first + len(blocks) + 1]
            change[:, blocks[0] : blocks[-1] + 1] = adjacent(stack, divergence)
        return change

    def _slot(self, readout: int) -> int:
        try:
            return self.indices.index(readout)
        except ValueError:
            raise ValueError(
                f"readout {readout} was not read in this forward, only {self.indices} were; "
                f"name it in Strategy.readouts or LogitLens(readouts=...)."
            ) from None

    def _slots(self, readouts: Tensor) -> Tensor:
        """Where each readout lies along dim 1, counted so that nothing travels between host and device."""
        first, last = self.indices[0], self.indices[-1]
        if last - first + 1 == len(self.indices):
            return readouts - first
        return torch.stack([readouts > index for index in self.indices[:-1]]).sum(dim=0)
