"""All tokens of watched answers, side by side: their kind, and what every layer had to say of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from .observe import Observation
from .words import Answer

Verdict = Literal["late", "early", "none"]
LATE = 18 / 32
"""Where late blocks begin when nothing is known yet: the paper's critical layer."""

Begins = Mapping[str, set[int]]
"""An object -> the tokens with which a word for it begins."""


def begins_of(observed: Sequence[Observation], answers: Sequence[Answer], tokenizer: Any) -> Begins:
    """The tokens that decided for an object in any of the answers, and those that its name begins with."""
    begins: dict[str, set[int]] = {}
    for one, answer in zip(observed, answers, strict=True):
        for name, at in zip(answer.named, answer.deciding, strict=True):
            begins.setdefault(name, set()).add(int(one.tokens[at]))
        for name in answer.truth:
            begins.setdefault(name, set())
    for name, found in begins.items():
        for text in (name, f" {name}"):
            ids = tokenizer.encode(text, add_special_tokens=False)
            found.update(_first_word(ids, tokenizer))
    return begins


def _first_word(ids: Iterable[int], tokenizer: Any) -> list[int]:
    """The first token that is more than a blank, and none that stands for an unknown word."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    return [int(token) for token in ids if tokenizer.decode([token]).strip() and token != unknown][:1]


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """All tokens of all answers, N of them.

    Attributes:
        kind: `[N]` hallucinated or correct, where the token decided for an object word, or other.
        image: `[N]` the number of its image.
        js: `[N, L]` nats.
        leads: `[N, L+1]` bool, whether the emitted token is the first choice of each readout.
        shown_leads: `[N, L+1]` bool, whether that first choice begins a word for an object of the image.
        entropy: `[N]` nats.
        max_prob: `[N]`.
    """

    kind: np.ndarray
    image: np.ndarray
    js: np.ndarray
    leads: np.ndarray
    shown_leads: np.ndarray
    entropy: np.ndarray
    max_prob: np.ndarray

    @classmethod
    def of(cls, observed: Sequence[Observation], answers: Sequence[Answer], begins: Begins) -> Self:
        """Joins what was watched to what was read, answer by answer.

        Args:
            begins: see `begins_of`.
        """
        lengths = [len(one.tokens) for one in observed]
        join = np.concatenate
        return cls(
            kind=join([np.array(answer.kinds(), dtype="<U12") for answer in answers]),
            image=np.repeat(np.arange(len(observed)), lengths),
            js=join([one.js for one in observed]).astype(float),
            leads=join([one.leaders == one.tokens[:, None] for one in observed]),
            shown_leads=join(
                [
                    np.isin(one.leaders, [t for name in answer.truth for t in begins.get(name, ())])
                    for one, answer in zip(observed, answers, strict=True)
                ]
            ),
            entropy=join([one.entropy for one in observed]).astype(float),
            max_prob=join([one.max_prob for one in observed]).astype(float),
        )

    @property
    def leads_from(self) -> np.ndarray:
        """`[N]` the first readout from which the emitted word leads to the end; L+1 where it never does."""
        first: np.ndarray = self.leads.shape[1] - np.cumprod(self.leads[:, ::-1], axis=1).sum(axis=1)
        return first
