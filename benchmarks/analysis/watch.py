"""A model's answers, watched: the traces that its figures are drawn from."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.analysis.kept import Kept
from benchmarks.analysis.subject import Asked, Subject
from benchmarks.methods import Method
from benchmarks.models import Loaded
from benchmarks.released import Watching
from benchmarks.usage import UsageError
from mutation_decode import Contrast, Detector, MutationLogitsProcessor, Record, Trace, plot

UNTOUCHED = Contrast(alpha=0.0, layer=0, always=True)
"""Reads every layer, changes no score; the detector beside it says where the paper's recipe would act."""
TOP = 50
"""Tokens kept of every readout, so that a rival is rarely too far down to be known."""
OF_ANSWER = ("probabilities", "words", "js", "texts", "states")
MOST_WORDS = 4
"""Panels of the figure words."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """One model, how many prompts go into a batch, and the figures that the traces are for."""

    loaded: Loaded
    batch_size: int
    figures: Collection[str]
    named: Collection[str] = ()
    """Those that the user asked for by name: what cannot be drawn is left out only of the others."""

    @torch.inference_mode()
    def kept(self, asked: Asked, methods: Mapping[str, Method]) -> Kept:
        """Everything that the figures need. Raises: UsageError on what the model does not take."""
        about: dict[str, Any] = {"model": self.loaded.name, "figures": list(self.figures), "left out": {}}
        traces: dict[str, Trace] = {}
        released = None
        if not {*OF_ANSWER}.isdisjoint(self.figures):
            subject = self._first_inventive(asked.subjects)
            traces["greedy"], released = self._greedy(subject)
            if "texts" in self.figures:
                traces |= {name: self._method(method, subject) for name, method in methods.items()}
            about |= {
                "prompt": subject.prompt,
                "of": subject.told,
                "objects": None if subject.objects is None else sorted(subject.objects),
                "searched": len(asked.subjects),
                "marks": {
                    name: subject.kinds(trace.texts[0]) for name, trace in traces.items() if trace.texts
                },
                "words": _words(traces["greedy"], subject) if "words" in self.figures else [],
                "methods": list(methods) if "texts" in self.figures else [],
                "max_new_tokens": subject.max_new_tokens,
            }
        if not self.named and "questions" not in self.figures:
            about["left out"]["questions"] = "it is about many images, images=FOLDER"
        if "questions" in self.figures:
            traces["question"], answers = self._question(asked)
            about |= {"question": asked.question, "images": list(asked.images), "answers": answers}
        if "no-image" in self.figures:
            try:
                with_image, without = self._both(asked)
            except UsageError as error:
                if "no-image" in self.named:
                    raise
                about["figures"].remove("no-image")
                about["left out"]["no-image"] = str(error)
            else:
                traces |= {"with-image": with_image, "without-image": without}
                about |= {"described": len(with_image.tokens), "description": asked.prompt}
        return Kept(about, traces, released)

    def _first_inventive(self, subjects: Sequence[Subject]) -> Subject:
        """The first whose greedy answer names what is not there; if there is none, the first."""
        for start in range(0, len(subjects) if len(subjects) > 1 else 0, self.batch_size):
            some = subjects[start : start + self.batch_size]
            inputs = self._inputs([_turn(each.prompt, each.image) for each in some])
            for subject, text in zip(some, self._texts(inputs, some[0].max_new_tokens), strict=True):
                if "hallucinated" in subject.kinds([text]):
                    return subject
        return subjects[0]

    def _texts(self, inputs: Any, max_new_tokens: int) -> list[str]:
        trace = self._trace(inputs, max_new_tokens, UNTOUCHED, trace=True)
        assert trace.texts is not None
        return ["".join(row) for row in trace.texts]

    def _greedy(self, subject: Subject) -> tuple[Trace, Tensor | None]:
        inputs, watching = self._inputs([_turn(subject.prompt, subject.image)]), Watching()
        record = Record(top=TOP, states="states" in self.figures)
        settings: dict[str, Any] = {"detector": Detector.paper(), "trace": record}
        if "js" not in self.figures:
            return self._trace(inputs, subject.max_new_tokens, UNTOUCHED, **settings).row(0), None
        with self._processor(watching, norm=False, detector=None) as beside:
            trace = self._trace(inputs, subject.max_new_tokens, UNTOUCHED, beside=[beside], **settings).row(0)
        return trace, torch.stack(watching.steps, dim=1)[0, : trace.tokens.shape[1]].clone()

    def _method(self, method: Method, subject: Subject) -> Trace:
        settings: dict[str, Any] = {"detector": method.detector, "gate": method.gate, "norm": method.norm}
        inputs = self._inputs([_turn(subject.prompt, subject.image)])
        return self._trace(
            inputs,
            subject.max_new_tokens,
            method.strategy or UNTOUCHED,
            generate=method.generate,
            trace=Record(),
            **settings,
        ).row(0)

    def _question(self, asked: Asked) -> tuple[Trace, list[str]]:
        """The first token of the answer about each image, and the answers."""
        turns = [_turn(asked.question, read()) for read in asked.images.values()]
        found = [
            self._trace(
                self._inputs(some), 8, UNTOUCHED, detector=Detector.paper(), trace=Record(states=True)
            )
            for some in self._batches(turns)
        ]
        answers = ["".join(row).strip() for trace in found for row in trace.texts or ()]
        return joined([_first_token(trace) for trace in found]), answers

    def _both(self, asked: Asked) -> tuple[Trace, Trace]:
        """Descriptions of the images, and answers to the same words without them: one, as all are alike."""
        images = [read() for read in asked.images.values()] or [asked.subjects[0].image]
        turns, new = [_turn(asked.prompt, image) for image in images], asked.max_new_tokens
        seen = [self._trace(self._inputs(some), new, UNTOUCHED, trace=True) for some in self._batches(turns)]
        return joined(seen), self._trace(self._inputs([_turn(asked.prompt)]), new, UNTOUCHED, trace=True)

    def _batches(self, turns: list[Any]) -> list[list[Any]]:
        return [turns[start : start + self.batch_size] for start in range(0, len(turns), self.batch_size)]

    def _inputs(self, turns: Sequence[Any]) -> Any:
        try:
            return self.loaded.inputs([[turn] for turn in turns])
        except ValueError as error:
            raise UsageError(f"model {self.loaded.name} does not take this prompt: {error}") from error

    def _processor(self, strategy: Any, **settings: Any) -> MutationLogitsProcessor:
        try:
            return MutationLogitsProcessor(self.loaded.model, strategy, **settings)
        except ValueError as error:
            raise UsageError(f"model {self.loaded.name}: {error}") from error

    def _trace(
        self,
        inputs: Any,
        max_new_tokens: int,
        strategy: Any,
        *,
        generate: Mapping[str, Any] | None = None,
        beside: Sequence[MutationLogitsProcessor] = (),
        detector: Detector | None = None,
        **settings: Any,
    ) -> Trace:
        """The named trace of one greedy call."""
        tokenizer = self.loaded.processor.tokenizer
        arguments = {"max_new_tokens": max_new_tokens, "do_sample": False, **(generate or {})}
        with warnings.catch_warnings(), self._processor(strategy, detector=detector, **settings) as processor:
            # That a method never acted is told in the caption.
            warnings.filterwarnings("ignore", ".* never acted in this generate", UserWarning)
            try:
                self.loaded.model.generate(
                    **inputs,
                    pad_token_id=tokenizer.pad_token_id,
                    logits_processor=[processor, *beside],
                    **arguments,
                )
            except ValueError as error:
                raise UsageError(f"model {self.loaded.name}: {error}") from error
            assert processor.trace is not None
            return processor.trace.named(tokenizer)


def _turn(prompt: str, *images: Any) -> dict[str, Any]:
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": prompt}]
    return {"role": "user", "content": content}


def _first_token(trace: Trace) -> Trace:
    tensors: dict[str, Any] = {name: value[:, :1] for name, value in trace.tensors().items()}
    return replace(trace, texts=tuple(row[:1] for row in trace.texts or ()), **tensors)


def joined(traces: Sequence[Trace]) -> Trace:
    """The rows of several calls as one trace; shorter rows are filled up with what is not generated."""
    longest = max(trace.tokens.shape[1] for trace in traces)
    tensors: dict[str, Any] = {
        name: torch.cat([_longer(trace.tensors()[name], longest) for trace in traces])
        for name in traces[0].tensors()
    }
    texts = tuple(row for trace in traces for row in trace.texts or ())
    names = {id_: text for trace in traces for id_, text in (trace.names or {}).items()}
    return replace(traces[0], texts=texts, names=names, **tensors)


def _longer(tensor: Tensor, tokens: int) -> Tensor:
    filler = tensor.new_zeros((len(tensor), tokens - tensor.shape[1], *tensor.shape[2:]))
    return torch.cat([tensor, filler], dim=1)


def _words(trace: Trace, subject: Subject) -> list[dict[str, Any]]:
    """Which tokens the figure words shows, each with its rival: see `_shown` and `_rival`."""
    assert trace.texts is not None
    kinds = subject.kinds(trace.texts[0])
    return [
        {"token": token, "kind": kinds[token], **_rival(trace, token, subject)}
        for token in _shown(trace, kinds)
    ]


def _shown(trace: Trace, kinds: Sequence[str]) -> list[int]:
    """The first token of each hallucinated word; without one, the words of the largest late change."""
    begins = [at for at, kind in enumerate(kinds) if kind == "hallucinated" and kinds[at - 1 : at] != [kind]]
    if begins:
        return begins[:MOST_WORDS]
    said = [at for at, text in enumerate((trace.texts or ((),))[0]) if text.strip()]
    return sorted(sorted(said, key=lambda at: -float(trace.risk[0, at]))[:MOST_WORDS])


def _rival(trace: Trace, token: int, subject: Subject) -> dict[str, Any]:
    """At the pre-mutation readout the likeliest other token that names an object of the image, if one does;
    else the likeliest other token.
    """
    assert trace.top_ids is not None
    assert trace.names is not None
    said, names = int(trace.tokens[0, token]), trace.names
    others = [id_ for id_ in trace.top_ids[0, token, trace.pre_mutation[0, token]].tolist() if id_ != said]
    shown = [id_ for id_ in others if subject.kind(names[id_]) == "correct"]
    chosen = (shown or [plot.rival_of(trace, token)])[0]
    return {"rival": chosen, "rival kind": subject.kind(names[chosen])}
