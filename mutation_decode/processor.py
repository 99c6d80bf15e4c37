"""The drop-in: a logits processor that brings every layer's view to a strategy."""

import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal, Self, cast

import torch
from torch import FloatTensor, LongTensor, Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from . import intercept
from .anatomy import Anatomy
from .call import Call, Mark
from .decision import Decider
from .detection import DEFAULT_DETECTOR, Detector
from .gate import Gate
from .intercept import GenerateCall
from .lens import LogitLens
from .record import Record, Recording, late
from .refusals import end_tokens, refuse_if_impossible, refuse_other_types
from .removal import Removal
from .rerun import Rerun
from .saved import fingerprint
from .strategy import DEFAULT_STRATEGY, Contrast, ForwardStrategy, Skip, Strategy
from .trace import Trace
from .twins import add_twins, first_rows
from .uncompiled import compiled_parts


class MutationLogitsProcessor(LogitsProcessor):
    """Applies a layer-wise decoding strategy inside generate, to the rows in which the detector fires.

    Build it, then pass it to `model.generate(..., logits_processor=[processor])`, for greedy, sampled or beam
    decoding, with left padding in batches. Calls that do not name it are those of the untouched model, while
    it exists and afterwards.

    Args:
        model: the transformers model whose generate will use it.
        strategy: what to do where the distribution mutates.
        detector: finds where it does; None reads no js for that (only for strategies that always act).
        gate: lets only some of the tokens through that the detector finds; None for all of them. One that
            goes by the image doubles the rows of the forwards; see `Gate`.
        norm: read the blocks' states through the final norm; see `LogitLens`.
        trace: record every token in `trace`: True, with the js of all blocks, for which all layers are read;
            "watched", with the js of the blocks that the detector looks at and NaN elsewhere, for which no
            further layer is read (a strategy whose blocks are known beforehand watches none, so nothing
            fires in its trace); a Record, with all blocks, the likeliest tokens of every readout, and more;
            see `Record`.
        exact: keep the model's own logits to the last bit, at some cost; see `LogitLens`.
        anatomy: the parts of the model, if they cannot be found; see `Anatomy`.

    Attributes:
        trace: the Trace of the last generate call, if asked for; None before.

    Raises:
        TypeError: if the model does not generate, or an argument is not what its name says.
        ValueError: if the model's parts do not verify, or a knob does not fit its depth.

    Example:
        with MutationLogitsProcessor(model, Contrast(alpha=1.0)) as processor:
            model.generate(**inputs, logits_processor=[processor])
    """

    def __init__(
        self,
        model: nn.Module,
        strategy: Strategy | ForwardStrategy = DEFAULT_STRATEGY,
        *,
        detector: Detector | None = DEFAULT_DETECTOR,
        gate: Gate | None = None,
        norm: bool = True,
        trace: bool | Literal["watched"] | Record = False,
        exact: bool = False,
        anatomy: Anatomy | None = None,
    ) -> None:
        if not callable(getattr(model, "generate", None)):
            raise TypeError(
                f"{type(model).__name__} has no generate; pass a transformers model that generates text."
            )
        refuse_other_types(strategy=strategy, detector=detector, gate=gate, anatomy=anatomy)
        if detector is None and not strategy.always:
            raise ValueError(
                f"{type(strategy).__name__} acts where the detector fires, and there is none; pass a "
                f"Detector, or a strategy with always=True."
            )
        if gate not in (None, Gate()) and strategy.always:
            raise ValueError(
                f"a gate chooses among the tokens at which the detector fires, and {type(strategy).__name__} "
                f"acts at every one; leave the gate out, or use always=False with Detector(threshold=0)."
            )
        if not isinstance(trace, bool | Record) and trace != "watched":
            raise ValueError(f"trace is True, False, 'watched' or a Record, got {trace!r}.")
        record = trace if isinstance(trace, Record) else None
        trace = True if record is not None else trace
        self.model = model
        self.strategy = strategy
        self.detector = detector
        self.gate = None if gate == Gate() else gate  # an open one need not be asked
        if isinstance(strategy, Skip) and strategy.always and trace is not True:
            detector = None  # nobody will ask it
        self.trace: Trace | None = None
        anatomy = Anatomy.of(model) if anatomy is None else anatomy
        depth = anatomy.depth
        watched = range(0) if detector is None else detector.blocks(depth)
        blocks = range(depth) if trace is True else watched
        self._decision = Decider(strategy, detector, self.gate, blocks)
        readouts = {*strategy.readouts(depth), *(r for block in blocks for r in (block, block + 1))}
        states = record is not None and record.states
        self._lens = LogitLens(
            model, readouts=readouts, exact=exact, norm=norm, anatomy=anatomy, states=states
        )
        self._change: Rerun | Removal | None = None  # what a forward-level strategy does to the forward
        if isinstance(strategy, Skip) and strategy.layers is not None and strategy.always:
            self._change = Removal(self._lens, strategy.layers, prompt=strategy.prompt)
        elif isinstance(strategy, ForwardStrategy):
            self._change = Rerun(self._lens, first=_lowest(strategy, watched))
        self._both_ways = gate is not None and gate.toward is not None
        self._twins_tried = False
        self._watched = watched
        self._recording: Recording | None = None
        if trace:
            risky = watched if detector is not None and detector.critical is not None else late(depth)
            if trace == "watched" and detector is not None:  # nothing is known of the other blocks
                risky = range(max(risky.start, watched.start), min(risky.stop, watched.stop)) or watched
            self._recording = Recording(record, self._decision.divergence, risky, fingerprint(model))
        self._warned = False
        self._told = False
        self._closed = False
        self._busy = threading.Lock()
        self._call: Call | None = None
        self._generates = intercept.generating(model)  # merging an adapter ends the wrapper, not the model
        intercept.attach(self._generates, self)
        self._restore = weakref.finalize(self, _detach_gone, weakref.ref(self._generates))

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        """Called by generate with `scores` `[rows, vocab]`.

        Returns:
            New scores; a row in which nothing fired comes back bit for bit, unless the strategy always acts.

        Raises:
            RuntimeError: if it is not the model's own generate that calls.
        """
        call = self._call
        if call is None and self._closed:
            raise RuntimeError(f"this {type(self).__name__} is closed; build another one.")
        if call is None:
            raise RuntimeError(
                f"this {type(self).__name__} was built for another model than the one that is generating, or "
                f"only after generate was looked up, as inside the arguments of the call, or was called "
                f"outside {type(self.model).__name__}.generate; build it for that model, on a line before."
            )
        readout = call.current()
        if readout.logits.shape[0] != scores.shape[0] or readout.logits.shape[2] != scores.shape[1]:
            raise RuntimeError(
                f"the forward gave logits {tuple(readout.logits.shape)} [rows, readouts, vocab], but "
                f"generate asks about scores {tuple(scores.shape)}; the strategy cannot be applied."
            )
        decision = call.decided or self._decision(readout)
        if isinstance(self.strategy, ForwardStrategy):
            acts = decision.skipped.any(dim=-1)
            call.note(decision, acts, self._watched, input_ids, (readout, scores, acts))
            return scores  # the forward has done it
        mutations = decision.mutations
        acts = torch.ones_like(mutations.fired) if self.strategy.always else mutations.fired
        ours = type(self.strategy) is Contrast
        moved = self.strategy(readout, mutations, scores if ours else scores.clone())
        shape = tuple(moved.shape) if isinstance(moved, Tensor) else type(moved).__name__
        if shape != scores.shape:
            raise RuntimeError(
                f"{type(self.strategy).__name__} turned scores {tuple(scores.shape)} into {shape}; a "
                f"strategy returns one score per row and token."
            )
        changed = torch.where(acts[:, None], moved, scores)
        if not ours:
            call.look_for_nan(changed, scores)
        differs = acts if call.recorder is None else (changed != scores).any(dim=-1)
        call.note(decision, acts, self._watched, input_ids, (readout, changed, differs))
        return cast(FloatTensor, changed)

    @property
    def risk(self) -> Tensor | None:
        """`[rows]` in [0, 1] of the tokens that generate chose last, for its streamers; see `Trace.risk`.

        None outside of a call, and where nothing is traced.
        """
        recorder = None if self._call is None else self._call.recorder
        return None if recorder is None or not recorder.steps else recorder.risk()

    def __reduce__(self) -> Any:
        """Refuses to be copied or pickled, alone or as an attribute of something else."""
        raise TypeError(
            f"a {type(self).__name__} belongs to its model and cannot be copied or saved; build one for the "
            f"copy, and copy a model while it is not generating."
        )

    def close(self) -> None:
        """Takes everything off the model again; the processor cannot be used afterwards."""
        self._closed = True
        self._restore.detach()
        intercept.detach(self._generates, self)
        self._call = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decide(self, ids: Tensor | None, lowest: int) -> Tensor:
        """Inside a forward: the blocks to leave out of it, in rows that go on."""
        call, readout = self._call, self._lens.take()
        assert call is not None
        found = self._decision(readout)
        running = call.running(ids, found.mutations.fired)
        barred = found.skipped[:, :lowest].any(dim=-1)
        call.bar(barred & running)
        decision = replace(found, skipped=found.skipped & (running & ~barred)[:, None])
        call.decide(readout, decision)
        return decision.skipped

    def _refuse_beside_others(self, call: GenerateCall) -> None:
        ours = [p for p in call.processors if isinstance(p, MutationLogitsProcessor)]
        skipping = [p for p in ours if isinstance(p.strategy, ForwardStrategy)]
        if skipping and len(ours) > 1:
            raise ValueError(
                f"{type(skipping[0].strategy).__name__} changes the forward that the other "
                f"{type(self).__name__}s of this call would read; use one of them at a time."
            )
        if len(ours) > 1 and any(p._both_ways for p in ours):
            raise ValueError(
                f"a gate with toward= puts twins beside the rows, which the other {type(self).__name__}s of "
                f"this call would take for rows; use one of them at a time."
            )

    def _tell_of_compiling(self, call: GenerateCall) -> None:
        wished = call.setting("compile_config") is not None or compiled_parts(self.model)
        if wished and not self._told:
            self._told = True
            warnings.warn(
                f"a compiled graph does not show its layers: calls that use this {type(self).__name__} run "
                f"the model as it was before torch.compile; other calls stay compiled.",
                UserWarning,
                stacklevel=6,
            )

    def _put_twins(self, call: GenerateCall) -> int | None:
        if not self._both_ways:
            return None
        masked = "twins" not in call.arguments
        rows = add_twins(call.arguments, self.model, check=not self._twins_tried)
        self._twins_tried |= masked
        return rows

    def _changed(self) -> AbstractContextManager[None]:
        if isinstance(self._change, Rerun):
            return self._change.deciding(self._decide)
        return nullcontext() if self._change is None else self._change.on()

    # What the interceptor of generate calls.

    @contextmanager
    def during(self, call: GenerateCall) -> Iterator[None]:
        """Around a generate call that uses this processor: hooks on, one call at a time."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(
                "this processor is in use by another generate call (another thread, or a call inside a "
                "call); build one processor for each."
            )
        try:
            refuse_if_impossible(
                call,
                for_tokens=self._change is not None and not getattr(self.strategy, "prompt", False),
                with_twins=self._both_ways,
            )
            self._refuse_beside_others(call)
            self._tell_of_compiling(call)
            rows = self._put_twins(call)
            with self._lens as lens, self._changed():
                beams = call.setting("num_beams") or 1
                recorder = None if self._recording is None else self._recording.begin(beams)
                self._call = Call(lens, recorder, end_tokens(call), rows)
                if recorder is not None and beams > 1:
                    # Only the full output says which beam a token came from.
                    self._call.unwrap = not call.setting("return_dict_in_generate")
                    call.arguments["return_dict_in_generate"] = True
                call.arguments["logits_processor"] = LogitsProcessorList(
                    [Mark(self._call.freeze), *call.processors, Mark(self._call.resume)]
                )
                # A compiled step would keep the hooks of the call that it was compiled in.
                call.arguments["disable_compile"] = True
                yield
        finally:
            self._call = None
            self._busy.release()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around a generate call that does not use this processor: not seen, even inside a call that does."""
        with self._lens.looking_away():
            yield

    def completed(self, call: GenerateCall, output: Any) -> Any:
        """After generate: the trace, and a warning where nothing happened."""
        done = self._call
        assert done is not None
        if done.steps == 0:
            raise RuntimeError(
                "generate returned without calling this processor once, so the strategy was not in effect; "
                "use greedy, sampling or beam search of transformers' own generate."
            )
        if done.nan is not None and bool(done.nan):
            raise RuntimeError(
                f"{type(self.strategy).__name__} gave NaN for some scores, so the answer means nothing; a "
                f"score is a number, or -inf for a token that may not follow."
            )
        if done.rows is not None:
            output = first_rows(output, done.rows)
        if done.recorder is not None:
            self.trace = done.recorder.finish(output, end_tokens(call), call.setting("pad_token_id"))
        if not (self.strategy.always or self._warned) and not bool(done.acted):
            self._warned = True
            assert self.detector is not None
            warnings.warn(
                f"{type(self.strategy).__name__} never acted in this generate: "
                f"{done.why_nothing(self.detector, self._watched)}",
                UserWarning,
                stacklevel=3,
            )
        return output.sequences if done.unwrap else output


def _lowest(strategy: ForwardStrategy, watched: range) -> int:
    """The lowest block that a strategy may leave out: of a strategy of the user's own, it may be any."""
    if type(strategy) is not Skip:
        return 0
    return watched.start if strategy.layers is None else strategy.layers[0]


def _detach_gone(model: "weakref.ref[nn.Module]") -> None:
    if (alive := model()) is not None:
        intercept.detach(alive, None)
