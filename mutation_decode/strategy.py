"""What to do with a step once its mutations are known: the protocols, Contrast and Skip."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from . import saved
from .detection import Mutations
from .readout import Readout


class Strategy(Protocol):
    """Turns the scores of one step into better ones, with every layer it asked for at hand.

    A strategy holds its knobs and nothing else: the same arguments give the same scores. It may be any object
    with these three members; `Contrast` is one, and layer-wise methods such as DoLa, DeCo or SLED are others.

    Example, early exit at a fixed depth:
        @dataclass(frozen=True)
        class EarlyExit:
            layer: int
            always: bool = True

            def readouts(self, depth):
                return (self.layer,)

            def __call__(self, readout, mutations, scores):
                return readout.log_probs(self.layer)
    """

    @property
    def always(self) -> bool:
        """Whether the strategy acts on every row; if not, only on the rows in which the detector fired."""
        ...

    def readouts(self, depth: int) -> Iterable[int]:
        """The readouts (0..depth) it needs beside the detector's and the model's own, which are always there.

        Raises:
            ValueError: if its knobs do not fit a model of `depth` blocks.
        """
        ...

    def __call__(self, readout: Readout, mutations: Mutations, scores: Tensor) -> Tensor:
        """New scores for every row; rows on which the strategy does not act are put back by the caller.

        Args:
            readout: the logits of this step at the readouts that were read.
            mutations: what the detector found, row by row.
            scores: `[rows, vocab]` fp32, as generate hands them over: raw logits when greedy or sampling,
                log-probabilities under beams, -inf for forbidden tokens. Must not be changed in place.

        Returns:
            `[rows, vocab]`. -inf must stay -inf, and under beams rows must be log-probabilities.
        """
        ...


@runtime_checkable
class ForwardStrategy(Protocol):
    """Leaves blocks out of the forward itself, row by row, and hands on the scores that come of it.

    The first two members are those of `Strategy`; `Skip` is one. See `Skip` for what leaving out means.
    """

    @property
    def always(self) -> bool:
        """Whether the strategy acts without the detector."""
        ...

    def readouts(self, depth: int) -> Iterable[int]:
        """See `Strategy.readouts`."""
        ...

    def skips(self, readout: Readout, mutations: Mutations) -> Tensor:
        """The blocks to leave out, `[rows, L]` bool; a row without one stays as the model had it."""
        ...


@dataclass(frozen=True, slots=True)
class Contrast:
    """Contrast between the distribution before the mutation and the final one, on the plausible tokens.

    The scores s become s + alpha (log p_before - log p_final), shifted so that the logsumexp of the row stays
    what it was: constants pass through, and beams get log-probabilities. Tokens that are plausible neither
    before nor at the end get -inf.

    Attributes:
        alpha: 0 leaves the scores untouched, 1 falls back to the distribution before the mutation, more
            pushes away from what the mutation added, less than 0 pushes away from the earlier layer.
        beta: in [0, 1]; a token is plausible if its probability is at least beta times the best one's.
        layer: the readout (0..L-1) to go back to; None for the pre-mutation one that the detector finds.
        always: act on every token, not only where the detector fires; needs a `layer`.

    Raises:
        ValueError: if a knob is out of its range.
    """

    alpha: float = 1.0
    beta: float = 0.1
    layer: int | None = None
    always: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, int | float) or not math.isfinite(self.alpha):
            raise ValueError(f"alpha must be a finite number, got {self.alpha!r}.")
        if not isinstance(self.beta, int | float) or not 0 <= self.beta <= 1:
            raise ValueError(f"beta is a share of the best probability, between 0 and 1, got {self.beta!r}.")
        if self.layer is not None and (not isinstance(self.layer, int) or self.layer < 0):
            raise ValueError(f"layer is a readout from 0 on, or None for the detector's, got {self.layer!r}.")
        if self.always and self.layer is None:
            raise ValueError(
                "always=True acts also where the detector finds no earlier readout: say which one with "
                "layer=."
            )

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | None = None) -> Self:
        """The best contrast of a saved calibration; its detector is `Detector.load(path, remedy="contrast")`.

        Args:
            model: what it is for; it warns if the calibration was made for another one.

        Raises:
            ValueError: if there is none in that file, or it names layers that the model lacks.
        """
        return saved.load(cls, path, model, part="strategy", remedy="contrast")

    def readouts(self, depth: int) -> tuple[int, ...]:
        """The fixed readout, if there is one.

        Raises:
            ValueError: if it is not below `depth`.
        """
        if self.layer is None:
            return ()
        if self.layer >= depth:
            raise ValueError(
                f"layer={self.layer} is no earlier readout of a model of {depth} blocks; choose one in "
                f"0..{depth - 1}."
            )
        return (self.layer,)

    def __call__(self, readout: Readout, mutations: Mutations, scores: Tensor) -> Tensor:
        """See `Strategy`; a row none of whose allowed tokens is plausible comes back as it was."""
        if self.alpha == 0:
            return scores
        final = readout.log_probs(readout.depth)
        before = readout.log_probs(mutations.pre_mutation if self.layer is None else self.layer)
        keep = (self._plausible(final) | self._plausible(before)) & (scores > -math.inf)
        # Probability 0 in both makes no difference; a bare subtraction would make it NaN.
        change = before.clamp_min(-1e30) - final.clamp_min(-1e30)
        moved = torch.where(keep, scores + self.alpha * change, -math.inf)
        shift = scores.logsumexp(dim=-1, keepdim=True) - moved.logsumexp(dim=-1, keepdim=True)
        return torch.where(keep.any(dim=-1, keepdim=True), moved + shift, scores)

    def _plausible(self, log_probs: Tensor) -> Tensor:
        floor = math.log(self.beta) if self.beta > 0 else -math.inf
        return log_probs >= log_probs.amax(dim=-1, keepdim=True) + floor


Found = Literal["mutations", "stable", "to_last"]


@dataclass(frozen=True, slots=True)
class Skip:
    """Leaves blocks out where the answer is made: for a row that fires, they are the identity at that token.

    What enters a block goes on to the next one, and the blocks above run on it. A block that is left out
    keeps its own cache entry, which its input alone decides; logits and cache are those of a model without
    these blocks at these tokens. `Skip()` leaves out the mutation layers, the paper's skip.2.

    The first token is made at the end of the prompt. Layers that keep one running state (linear attention,
    Mamba) cannot go back into a prompt, nor can prompts whose positions look ahead (PaliGemma). Where blocks
    that are found lie below such a one, the first token stays as the model had it; `Trace.skipped` shows it.
    So it does where layers quantise all positions of a call together (dynamic int8, bitsandbytes' 8 bits).
    What generate hands out beside tokens, scores and logits (hidden states, attentions) is of the forward
    before anything was left out. Forwards that you make of the model yourself meanwhile are treated alike.

    Attributes:
        which: the blocks to leave out, of those that the detector finds: ``mutations``; ``stable``, from the
            critical readout to the first mutation; ``to_last``, from the critical readout on, `keep` kept.
        layers: a set of blocks of your own (each 0..L-1) instead, left out at every token; as no detector is
            asked, nothing runs a second time.
        keep: how many blocks ``to_last`` keeps at the end; None for 5 of 32, and at least 1.
        gated: leave `layers` out only where the detector fires.
        prompt: leave `layers` out of the prompt too; they do not run at all, and cost nothing.

    Raises:
        ValueError: if a knob is out of its range, or of no use beside the others.

    Source: section 4.2 of "Towards Understanding How Knowledge Evolves in Large Vision-Language Models".
    """

    which: Found = "mutations"
    layers: Sequence[int] | None = None
    keep: int | None = None
    gated: bool = False
    prompt: bool = False

    def __post_init__(self) -> None:
        if self.which not in get_args(Found):
            raise ValueError(f"which is one of {', '.join(get_args(Found))}, got {self.which!r}.")
        if self.keep is not None and (not isinstance(self.keep, int) or self.keep < 1):
            raise ValueError(f"keep is a number of blocks, at least 1, or None, got {self.keep!r}.")
        if self.layers is not None and self.which != "mutations":
            raise ValueError(f"layers is a set of your own, beside which which={self.which!r} means nothing.")
        if self.keep is not None and self.which != "to_last":
            raise ValueError("keep says what which='to_last' leaves at the end; leave it out.")
        if self.layers is None and (self.gated or self.prompt):
            raise ValueError(
                "gated and prompt say when to leave out a set of your own: name it with layers=."
            )
        if self.gated and self.prompt:
            raise ValueError("gated asks the detector at every token, and a prompt has none: choose one.")
        if self.layers is not None:
            layers = tuple(self.layers) if isinstance(self.layers, Iterable) else ()
            if not layers or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in layers):
                raise ValueError(f"layers are blocks, whole numbers from 0 on, got {self.layers!r}.")
            object.__setattr__(self, "layers", tuple(sorted(set(layers))))

    @classmethod
    def stable(cls) -> Self:
        """The paper's skip.1: the blocks between the critical readout and the first mutation."""
        return cls(which="stable")

    @classmethod
    def mutations(cls) -> Self:
        """The paper's skip.2: the mutation layers."""
        return cls(which="mutations")

    @classmethod
    def to_last(cls, keep: int | None = None) -> Self:
        """The paper's skip.3: everything from the critical readout on but the last `keep` blocks."""
        return cls(which="to_last", keep=keep)

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | None = None) -> Self:
        """The best skip of a saved calibration; its detector is `Detector.load(path, remedy="skip")`.

        Args:
            model: what it is for; it warns if the calibration was made for another one.

        Raises:
            ValueError: if there is none in that file, or it names layers that the model lacks.
        """
        return saved.load(cls, path, model, part="strategy", remedy="skip")

    @property
    def always(self) -> bool:
        """A set of your own needs no detector, unless it is gated."""
        return self.layers is not None and not self.gated

    def readouts(self, depth: int) -> tuple[int, ...]:
        """None: the detector's are enough.

        Raises:
            ValueError: if `layers` or `keep` do not fit a model of `depth` blocks.
        """
        if self.layers is not None and self.layers[-1] >= depth:
            raise ValueError(
                f"layers={list(self.layers)}: a model of {depth} blocks has blocks 0..{depth - 1}."
            )
        if self.layers is not None and len(self.layers) == depth:
            raise ValueError(
                f"layers names all {depth} blocks, which leaves nothing that answers; keep some."
            )
        if self.which == "to_last" and self._kept(depth) >= depth:
            raise ValueError(f"keep={self.keep} keeps all blocks of a model of {depth}; keep fewer.")
        return ()

    def skips(self, readout: Readout, mutations: Mutations) -> Tensor:
        """See `ForwardStrategy`."""
        depth, rows = mutations.mutated.shape[1], mutations.fired
        block = torch.arange(depth, device=rows.device)
        if self.layers is not None:
            chosen = torch.isin(block, torch.tensor(self.layers, device=rows.device))
            return chosen & (rows | self.always)[:, None]
        if self.which == "mutations":
            return mutations.mutated
        end = mutations.pre_mutation[:, None] if self.which == "stable" else depth - self._kept(depth)
        return (block >= mutations.critical[:, None]) & (block < end) & rows[:, None]

    def _kept(self, depth: int) -> int:
        return max(1, round(5 * depth / 32)) if self.keep is None else self.keep


DEFAULT_STRATEGY = Contrast()
