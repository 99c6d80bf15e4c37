"""Asks a model about images whose objects are known: watched, or with one candidate after another."""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import nn

from .anatomy import Anatomy
from .encoding import Encode
from .gain import Gain, Measured, counted
from .observe import Observation, observe
from .processor import MutationLogitsProcessor
from .propose import Proposal
from .words import Answer, Mentions, read


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """An image and the objects that it shows.

    Attributes:
        image: what the model's processor takes, or a path.
        objects: names, each of one word or more.
        caption: words to measure in place of the model's own answer; they are forced upon the model.
    """

    image: Any
    objects: Collection[str]
    caption: str | None = None


@dataclass(frozen=True, slots=True)
class Asking:
    """A model, what it is asked, and how its answers are read."""

    model: nn.Module
    tokenizer: Any
    examples: Sequence[Example]
    encode: Encode
    mentions: Mentions
    max_new_tokens: int
    batch_size: int
    say: Callable[[str], None]

    def batches(self, said: str) -> Iterator[tuple[Sequence[Example], Mapping[str, Any]]]:
        for start in range(0, len(self.examples), self.batch_size):
            batch = self.examples[start : start + self.batch_size]
            yield batch, self.encode([example.image for example in batch])
            self.say(f"{said}: {start + len(batch)} of {len(self.examples)} images")

    def anatomy(self) -> Anatomy:
        try:
            return Anatomy.of(self.model)
        except ValueError:
            return Anatomy.of(self.model, self.encode([self.examples[0].image]))

    def watched(self, anatomy: Anatomy) -> tuple[list[Answer], list[Observation], list[Answer]]:
        """The model's own answers; then, of these or of captions given in their place, what was watched."""
        own: list[Answer] = []
        observed: list[Observation] = []
        measured: list[Answer] = []
        for batch, inputs in self.batches("greedy"):
            seen = observe(self.model, inputs, max_new_tokens=self.max_new_tokens, anatomy=anatomy)
            answers = self.read(batch, [one.tokens.tolist() for one in seen])
            own += answers
            if any(example.caption is not None for example in batch):
                ids = [
                    one.tokens.tolist() if example.caption is None else self._ids(example.caption)
                    for example, one in zip(batch, seen, strict=True)
                ]
                seen = observe(self.model, inputs, captions=ids, anatomy=anatomy)
                answers = self.read(batch, ids)
            observed += seen
            measured += answers
        return own, observed, measured

    def tried(
        self, candidates: Sequence[Proposal], anatomy: Anatomy, measured: Measured
    ) -> dict[Proposal, Gain | str]:
        """What each candidate gains, or the reason why the model refuses it."""
        refused: dict[Proposal, str] = {}
        answers: dict[Proposal, list[Answer]] = {one: [] for one in candidates}
        fired: dict[Proposal, list[int]] = {one: [] for one in candidates}
        with ExitStack() as stack, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* never acted in this generate")
            processors = {}
            for one in candidates:
                try:
                    processors[one] = stack.enter_context(
                        MutationLogitsProcessor(
                            self.model,
                            one.strategy,
                            detector=one.detector,
                            gate=one.gate,
                            trace="watched",
                            anatomy=anatomy,
                        )
                    )
                except ValueError as error:
                    refused[one] = f"refused: {error}"
            for batch, inputs in self.batches(f"{len(candidates)} candidates"):
                for one in [one for one in processors if one not in refused]:
                    try:
                        ids, counts = self._answers(inputs, processors[one])
                    except ValueError as error:
                        refused[one] = f"refused: {error}"
                        continue
                    answers[one] += self.read(batch, ids)
                    fired[one] += counts
        return {
            one: refused[one] if one in refused else measured.gain(counted(answers[one], fired[one]))
            for one in candidates
        }

    def read(self, batch: Sequence[Example], ids: Sequence[Sequence[int]]) -> list[Answer]:
        return [
            read(row, example.objects, self.tokenizer, self.mentions)
            for row, example in zip(ids, batch, strict=True)
        ]

    def _answers(
        self, inputs: Mapping[str, Any], processor: MutationLogitsProcessor
    ) -> tuple[list[list[int]], list[int]]:
        self.model.generate(  # type: ignore[operator]
            **inputs,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            logits_processor=[processor],
        )
        trace = processor.trace
        assert trace is not None
        rows = zip(trace.tokens, trace.generated, strict=True)
        return [tokens[kept].tolist() for tokens, kept in rows], (trace.fired & trace.generated).sum(
            dim=1
        ).tolist()

    def _ids(self, caption: str) -> list[int]:
        return list(self.tokenizer(caption, add_special_tokens=False)["input_ids"])
