"""One generate call: the readout of the step at hand, and what is known of the steps before."""

from collections.abc import Callable

import torch
from torch import FloatTensor, LongTensor, Tensor
from transformers import LogitsProcessor

from .decision import Decision
from .detection import Detector
from .divergence import MEASURES
from .lens import LogitLens
from .readout import Readout
from .record import Recorder, Step


class Call:
    """The state of one generate call; nothing of it outlives the call but the trace.

    Args:
        ends: `[any]` ids that end a row; what it says after one, nobody reads.
        rows: how many rows are the caller's; those behind them are their twins. None: all.
    """

    def __init__(
        self, lens: LogitLens, recorder: Recorder | None, ends: Tensor, rows: int | None = None
    ) -> None:
        self.recorder = recorder
        self.rows = rows
        self.unwrap = False
        self.steps = 0
        self.decided: Decision | None = None
        self.fired: Tensor | None = None
        self.acted: Tensor | None = None
        self.barred: Tensor | None = None
        self.shut: Tensor | None = None
        self.nan: Tensor | None = None
        self.largest: Tensor | None = None
        self._lens = lens
        self._ends = ends
        self._prompt = 0
        self._ended: Tensor | None = None
        self._readout: Readout | None = None

    def freeze(self) -> None:
        """Before the processors: the forward is done, and forwards that a processor makes are not ours."""
        if self.decided is None:  # a forward-level strategy takes it inside the forward
            self._readout = self._lens.take()
        self._lens.paused = True

    def current(self) -> Readout:
        """The readout of this step. Raises: RuntimeError if it was asked for already."""
        if self._readout is None:
            raise RuntimeError("the processor was called twice for one token; pass it to generate only once.")
        return self._readout

    def decide(self, readout: Readout, decision: Decision) -> None:
        """Keeps what was decided inside the forward until generate asks for it."""
        self._readout, self.decided = readout, decision

    def resume(self) -> None:
        """After the processors: the next forward is generate's again."""
        self._readout = self.decided = None
        self._lens.paused = False

    def running(self, ids: Tensor | None, rows: Tensor) -> Tensor:
        """Which rows `[rows]` go on, from the ids of the forward at hand, which end with the last token."""
        running = torch.ones_like(rows, dtype=torch.bool)
        if self.steps == 0 or ids is None or len(ids) != len(rows):  # at first the ids are the prompt
            return running
        ended = torch.isin(ids[:, -1], self._ends.to(ids.device)).to(rows.device)
        return ~ended if self._ended is None else ~(ended | self._ended)

    def bar(self, rows: Tensor) -> None:
        """Notes that blocks were found for some of these rows, and could not be left out."""
        self.barred = _or(self.barred, rows.any())

    def note(
        self,
        decision: Decision,
        acts: Tensor,
        watched: range,
        input_ids: Tensor,
        handed_on: tuple[Readout, Tensor, Tensor],
    ) -> None:
        """Keeps what the trace and the final warning need, on the device.

        Args:
            handed_on: what was read in this step, the scores that came of it, and `[rows]` bool, whether they
                are others than they were.
        """
        m = decision.mutations
        if self.steps == 0:
            self._prompt = input_ids.shape[1]
        self._ends = self._ends.to(input_ids.device)
        self._ended = torch.isin(input_ids[:, self._prompt :], self._ends).any(dim=-1).to(m.fired.device)
        running = ~self._ended
        if self.rows is not None:
            running[self.rows :] = False  # what befalls a twin is no effect
        self.steps += 1
        self.fired = _or(self.fired, (m.fired & running).any())
        self.acted = _or(self.acted, (acts & running).any())
        if decision.shut is not None:
            self.shut = _or(self.shut, (decision.shut & running).any())
        if len(watched) > 0:
            js = m.js[:, watched.start : watched.stop]
            largest = torch.where(running[:, None], js, 0.0).amax()
            self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)
        if self.recorder is not None:
            readout, scores, moved = handed_on
            step = Step(m.js, m.critical, m.pre_mutation, m.mutated, decision.skipped, m.fired, acts, moved)
            self.recorder.add(step, input_ids.shape[1])
            if self.recorder.notes is not None:
                self.recorder.notes.add(readout, scores, input_ids)

    def look_for_nan(self, moved: Tensor, scores: Tensor) -> None:
        """Notes whether a strategy made NaN of a score, over which argmax would pass in silence."""
        self.nan = _or(self.nan, (moved.isnan() & ~scores.isnan()).any())

    def why_nothing(self, detector: Detector, watched: range) -> str:
        """Why the strategy never acted, and what to do about it."""
        if self.barred is not None and bool(self.barred):
            return "what it found at the first token cannot be left out of the end of this model's prompt."
        if bool(self.fired):
            return "the detector fired, but left nothing to skip. Begin earlier with Detector(critical=...)."
        if self.shut is not None and bool(self.shut):
            return "the detector fired, but its gate was shut each time. Set wider bounds in Gate(...)."
        assert self.largest is not None
        if float(self.largest) > detector.threshold:
            return (
                f"no token settled: no two successive blocks were below settle={detector.settle:.3g}. Raise "
                f"Detector(settle=...) or fix where the search begins with Detector(critical=...)."
            )
        unit = MEASURES[detector.divergence].unit
        return (
            f"the largest {detector.divergence} in blocks {watched.start}..{watched.stop - 1} was "
            f"{float(self.largest):.3g}{unit}, the threshold is {detector.threshold:.3g}. Lower "
            f"Detector(threshold=...) or look at other blocks with Detector(critical=...)."
        )


def _or(before: Tensor | None, now: Tensor) -> Tensor:
    return now if before is None else before | now


class Mark(LogitsProcessor):
    """Stands first or last among the caller's processors and changes nothing."""

    def __init__(self, reached: Callable[[], None]) -> None:
        self._reached = reached

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        self._reached()
        return scores
