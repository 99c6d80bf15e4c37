"""Early exit: the plainest thing that an earlier layer can be used for."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from benchmarks.baselines.places import earlier_readout
from benchmarks.baselines.tokens import among
from mutation_decode import Mutations, Readout


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """The distribution of one earlier readout in place of the final one, on every token.

    What other processors did to the final scores (a repetition penalty) is done to the earlier ones.

    Attributes:
        layer: a readout, or a fraction of the depth.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """

    layer: float | int
    always: ClassVar[bool] = True

    def readouts(self, depth: int) -> tuple[int]:
        """The layer. Raises: ValueError when it is not in 0..depth-1."""
        return (earlier_readout("layer", self.layer, depth),)

    def __call__(self, readout: Readout, mutations: Mutations, scores: Tensor) -> Tensor:
        """``[rows, vocab]`` log-probabilities; -inf stays -inf."""
        others = scores - readout.logits_at(readout.depth).clamp_min(-1e30)
        return among(True, readout.logits_at(*self.readouts(readout.depth)) + others, scores)
