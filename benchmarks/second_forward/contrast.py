"""Away from what the model says of disturbed inputs: a noised picture (VCD), another instruction (ICD)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.models import Loaded
from benchmarks.prompting import Messages, images_of
from benchmarks.second_forward.noise import STEPS, generator, noised
from benchmarks.second_forward.plausible import check_beta, plausible


@dataclass(frozen=True, slots=True)
class VCD:
    """Visual contrastive decoding: ``(1 + alpha) z - alpha z'``, z' with noise on the picture.

    The noise is that of a diffusion process on the pixels as the image processor makes them. Two deliberate
    differences to the published code: it is drawn for each conversation from the batch's seed and the
    pictures, so that a run can be stopped and resumed; and what the checkpoint or the user has processors of
    generate do (a repetition penalty) was done to z before.

    Attributes:
        alpha: how far away from the disturbed logits, at least 0.
        beta: share of the best probability from which on a token is plausible, in [0, 1]; others go to -inf.
        noise_step: how far the diffusion goes, 0..999.

    Raises: ValueError when a knob is out of range.

    Source: Leng et al., CVPR 2024, eq. 3-5; DAMO-NLP-SG/VCD, vcd_utils/vcd_sample.py at 039af55.
    """

    alpha: float = 1.0
    beta: float = 0.1
    noise_step: int = 500

    def __post_init__(self) -> None:
        _check_alpha(self.alpha)
        check_beta(self.beta)
        if not 0 <= self.noise_step < STEPS:
            raise ValueError(
                f"noise_step is a step of the diffusion, 0..{STEPS - 1}; got {self.noise_step!r}"
            )

    def other(
        self, loaded: Loaded, conversations: Sequence[Messages], inputs: Any, seed: int
    ) -> dict[str, Any]:
        """The same inputs with noise on the pixels. Raises: ValueError when a conversation has no image."""
        if any(not images_of(messages) for messages in conversations):
            raise ValueError("noise is to be added to its images, and it has none")
        alone = [inputs] if len(conversations) == 1 else [loaded.asked.inputs([c]) for c in conversations]
        generators = [generator(each, seed + number) for number, each in enumerate(conversations)]
        return noised(inputs, alone, generators, self.noise_step)

    def combine(self, scores: Tensor, other: Tensor, step: int) -> Tensor:
        """`[rows, vocab]`; a constant added to a row's scores comes back 1 + alpha times."""
        return _away(scores, other, self.alpha, self.beta)


@dataclass(frozen=True, slots=True)
class ICD:
    """Instruction contrastive decoding: ``(1 + alpha) z - alpha z'``, z' under a disturbed instruction.

    The instruction goes before the words of the last turn, the user's; the published code writes it there
    for InstructBLIP and in place of the system prompt for LLaVA, which many chat templates do not have. The
    miniatures know ``a``, ``of``, ``the``, ``image`` and the stop of its words; each other one becomes a
    padding token that is read, which disturbs too.

    Attributes:
        alpha: how far away from the disturbed logits, at least 0.
        beta: share of the best probability from which on a token is plausible, in [0, 1]; others go to -inf.
        instruction: the disturbing words; one of the five of the published code.

    Raises: ValueError when a knob is out of range.

    Source: Wang et al., Findings of ACL 2024, arXiv:2403.18715; p1k0pan/ICD at 91ed22f,
    icd_utils/icd_sample_llava.py and experiments/gen_scripts.
    """

    alpha: float = 1.0
    beta: float = 0.1
    instruction: str = (
        "You are a confused objects detector to provide a fuzzy overview or impression of the image."
    )

    def __post_init__(self) -> None:
        _check_alpha(self.alpha)
        check_beta(self.beta)
        if not self.instruction.strip():
            raise ValueError("instruction is what disturbs the prompt; got none")

    def other(self, loaded: Loaded, conversations: Sequence[Messages], inputs: Any, seed: int) -> Any:
        """The inputs of the disturbed conversations."""
        return loaded.inputs([self.disturbed(messages) for messages in conversations])

    def disturbed(self, messages: Messages) -> Messages:
        """The conversation with the instruction before the words of its last turn, the user's."""
        *earlier, last = messages
        images = [part for part in last["content"] if part["type"] != "text"]
        words = [part["text"] for part in last["content"] if part["type"] == "text"]
        text = {"type": "text", "text": " ".join([self.instruction, *words])}
        return [*earlier, {**last, "content": [*images, text]}]

    def combine(self, scores: Tensor, other: Tensor, step: int) -> Tensor:
        """`[rows, vocab]`; a constant added to a row's scores comes back 1 + alpha times."""
        return _away(scores, other, self.alpha, self.beta)


def _away(scores: Tensor, other: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.where(plausible(scores, beta), (1 + alpha) * scores - alpha * other, -math.inf)


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha is a finite number, at least 0; got {alpha!r}")
