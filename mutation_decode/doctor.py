"""What works with a model, tried one thing after the other: parts, lens, strategies, beams, cost."""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from .anatomy import Anatomy
from .detection import Detector
from .encoding import encoder
from .gate import Gate
from .lens import LogitLens
from .processor import MutationLogitsProcessor
from .strategy import Contrast, Skip

TOKENS = 8
ROUNDS = 5
ALWAYS = Detector(threshold=0.0, critical=0.5, include_last=True)
NEVER = Detector(threshold=0.69)


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was looked at. `works` is None where there is nothing to fail."""

    name: str
    works: bool | None
    told: str


def checkup(model: nn.Module, inputs: Mapping[str, Any]) -> Iterator[Checked]:
    """Looks at one thing after the other; ends early where the layers cannot be read.

    Args:
        model: a transformers model.
        inputs: what its generate takes, one row.
    """
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that something never acted is no news here
        try:
            anatomy = _anatomy(model, inputs)
            yield Checked("parts", True, _parts(model, anatomy))
            yield Checked("lens", True, _lens(model, anatomy, inputs))
        except Exception as error:  # of a model that nobody has tried, anything may come
            yield Checked("lens", False, _one_line(error))
            return
        plain = Checkup(model, inputs, anatomy)
        yield Checked("cache", None, plain.cache())
        for name, strategy, detector, more in (
            ("contrast", Contrast(), ALWAYS, {}),
            ("contrast, beams", Contrast(), ALWAYS, {"num_beams": 2}),
            ("skip", Skip(), ALWAYS, {}),
            ("skip, beams", Skip(), ALWAYS, {"num_beams": 2}),
            ("skip of a fixed set", Skip(layers=[anatomy.depth // 2]), ALWAYS, {}),
        ):
            yield plain.tried(name, strategy, detector, {}, more)
        toward = {"gate": Gate(toward="text")}
        yield plain.tried("contrast, only toward the text", Contrast(), ALWAYS, toward, {})
        yield Checked("compile", None, "calls that use a processor run the model uncompiled")
        yield from plain.costs()


def example(model: Any, processor: Any) -> tuple[Mapping[str, Any], str]:
    """A grey picture and a question, as far as the processor allows, else a few tokens; and what it is."""
    why = "no processor"
    if processor is not None:
        try:
            from PIL import Image

            picture = Image.new("RGB", (224, 224), (127, 127, 127))
            return encoder(model, processor)([picture]), "a grey picture and a question"
        except Exception as error:  # of processors, anything may come
            why = _one_line(error)
    start = getattr(model.generation_config, "bos_token_id", None) or 1
    ids = torch.tensor([[start, *range(5, 12)]], device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return inputs, f"{ids.shape[1]} tokens without a picture ({why})"


@dataclass(frozen=True, slots=True)
class Checkup:
    """A model whose parts are known, and one prompt."""

    model: Any
    inputs: Mapping[str, Any]
    anatomy: Anatomy

    def generate(self, **more: Any) -> Any:
        """Plain, `TOKENS` tokens."""
        arguments = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, **more}
        return self.model.generate(**self.inputs, **arguments)

    def cache(self) -> str:
        """Which kind of cache generate makes."""
        output = self.generate(return_dict_in_generate=True)
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            return "none: every token runs through the whole text again"
        kinds = sorted({type(layer).__name__ for layer in getattr(cache, "layers", [])})
        return type(cache).__name__ + (f" of {', '.join(kinds)}" if kinds else "")

    def tried(
        self, name: str, strategy: Any, detector: Detector, how: Mapping[str, Any], more: Mapping[str, Any]
    ) -> Checked:
        """Whether a strategy generates where it always fires."""
        try:
            with self.using(strategy, detector, trace=True, **how) as processor:
                self.generate(logits_processor=[processor], **more)
                assert processor.trace is not None
                acted = processor.trace.percent_acted
        except Exception as error:
            return Checked(name, False, _one_line(error))
        return Checked(name, True, f"acted on {acted:.0f} % of {TOKENS} tokens, at all of which it fires")

    def using(self, strategy: Any, detector: Detector, **how: Any) -> MutationLogitsProcessor:
        """A processor for this model."""
        return MutationLogitsProcessor(self.model, strategy, detector=detector, anatomy=self.anatomy, **how)

    def costs(self) -> Iterator[Checked]:
        """Time for a token, as medians of runs in turn, so that what else the machine does falls on all."""
        ways: dict[str, Callable[[], Any]] = {"plain": self.generate}
        processors = []
        for name, strategy, detector in (
            ("contrast", Contrast(), ALWAYS),
            ("skip, firing never", Skip(), NEVER),
            ("skip, firing always", Skip(), ALWAYS),
        ):
            try:
                processor = self.using(strategy, detector)
                self.generate(logits_processor=[processor])
            except Exception:
                continue  # told above
            processors.append(processor)
            ways[name] = partial(self.generate, logits_processor=[processor])
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                took[name].append((time.perf_counter() - start) / TOKENS)
        for processor in processors:
            processor.close()
        plain = statistics.median(took.pop("plain"))
        yield Checked("cost, plain", None, f"{1000 * plain:.3g} ms a token, the prompt's share included")
        for name, times in took.items():
            yield Checked(f"cost, {name}", None, f"{statistics.median(times) / plain:.2f} times that")


def _anatomy(model: nn.Module, inputs: Mapping[str, Any]) -> Anatomy:
    try:
        return Anatomy.of(model)
    except ValueError:
        return Anatomy.of(model, inputs)  # it may need more than text to run


def _parts(model: nn.Module, anatomy: Anatomy) -> str:
    names = {id(module): name for name, module in model.named_modules()}
    tail = [names.get(id(part)) or type(part).__name__ for part in anatomy.tail]
    first = names[id(anatomy.blocks[0])]
    return (
        f"{anatomy.depth} blocks from {first} ({type(anatomy.blocks[0]).__name__}) on; then "
        f"{', '.join(tail) or 'nothing'}; head {names[id(anatomy.head)]}"
    )


def _lens(model: nn.Module, anatomy: Anatomy, inputs: Mapping[str, Any]) -> str:
    with LogitLens(model, anatomy=anatomy, inputs=inputs) as lens:
        model.generate(**inputs, max_new_tokens=1, do_sample=False)  # type: ignore[operator]
    off, allowed = lens.apart
    return f"the last block reads as the model's own logits: {off:.2g} off, {allowed:.2g} allowed"


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
