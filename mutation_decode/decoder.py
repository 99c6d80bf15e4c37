"""The wrapper: generate with a strategy already in it."""

from typing import Any, Literal, Self

from torch import nn

from .anatomy import Anatomy
from .detection import DEFAULT_DETECTOR, Detector
from .gate import Gate
from .intercept import GenerateCall
from .processor import MutationLogitsProcessor
from .record import Record
from .strategy import DEFAULT_STRATEGY, ForwardStrategy, Strategy
from .trace import Trace


class MutationDecoder:
    """Generates with a layer-wise strategy; takes and returns what `model.generate` takes and returns.

    Args:
        model, strategy, detector, gate, norm, trace, exact, anatomy: see `MutationLogitsProcessor`.

    Raises:
        TypeError, ValueError: see `MutationLogitsProcessor`.

    Example:
        decoder = MutationDecoder(model, Contrast(alpha=1.0), detector=Detector.paper())
        output = decoder.generate(**inputs, max_new_tokens=64)
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
        self.model = model
        self.processor = MutationLogitsProcessor(
            model,
            strategy,
            detector=detector,
            gate=gate,
            norm=norm,
            trace=trace,
            exact=exact,
            anatomy=anatomy,
        )

    @property
    def trace(self) -> Trace | None:
        """The trace of the last generate call, if the decoder was built with trace=."""
        return self.processor.trace

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """`model.generate` with the strategy applied after the caller's own logits processors."""
        call = GenerateCall(self.model, self.model.generate, args, kwargs)  # type: ignore[arg-type]
        call.arguments["logits_processor"] = [*call.processors, self.processor]
        return self.model.generate(**call.arguments)  # type: ignore[operator]

    def close(self) -> None:
        """Takes everything off the model again."""
        self.processor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
