"""What a method with a second forward consists of, and where there can be none."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from transformers.generation.configuration_utils import GenerationMode

from benchmarks.models import Loaded
from benchmarks.prompting import Messages
from benchmarks.usage import UsageError

OTHER_LOOPS = (
    "assistant_model",
    "assistant_early_exit",
    "prompt_lookup_num_tokens",
    "use_mtp",
    "custom_generate",
    "constraints",
    "force_words_ids",
    "penalty_alpha",
    "dola_layers",
)
"""Arguments of generate under which a row is not its prompt and one chosen token after the other."""


@runtime_checkable
class Second(Protocol):
    """The inputs of the second forward, and what is made of both."""

    def other(self, loaded: Loaded, conversations: Sequence[Messages], inputs: Any, seed: int) -> Any:
        """What the second forward gets, a row for each conversation, padded on the left as the first is.

        Args:
            inputs: what the first forward gets.
            seed: of the first conversation, if chance is involved; one more for each next one.

        Raises: ValueError when the method or the model does not take one of the conversations.
        """
        ...

    def combine(self, scores: Tensor, other: Tensor, step: int) -> Tensor:
        """New scores `[rows, vocab]`; -inf stays -inf.

        Args:
            scores: as generate hands them over: logits, after generate's own processors.
            other: the logits of the second forward, fp32.
            step: how many tokens were chosen before.
        """
        ...


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Raises: UsageError on arguments of generate that a second forward cannot follow."""
    beams = arguments.get("num_beams", 1)
    if beams not in (1, None):
        raise UsageError(
            f"method {name} runs the model a second time, whose rows cannot follow beams; got "
            f"num_beams={beams}; set it to 1, or leave {name} out"
        )
    for key in OTHER_LOOPS:
        if arguments.get(key):
            raise UsageError(
                f"method {name} runs the model a second time, one token after the other, and cannot follow "
                f"{key}; leave {key} or {name} out"
            )


def check_model(name: str, model: Any, arguments: Mapping[str, Any]) -> None:
    """Raises: UsageError where the model has an encoder, or its own settings ask for another search."""
    if model.config.is_encoder_decoder:
        raise UsageError(
            f"method {name} feeds a second prompt to a decoder, and {type(model).__name__} reads prompts "
            f"with an encoder; leave {name} or this model out"
        )
    settings = copy.deepcopy(model.generation_config)
    settings.update(**arguments)
    mode = settings.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise UsageError(
            f"method {name} runs the model a second time, which cannot follow the {mode.value} of its "
            f"generation_config.json; change that file, or +method.{name}.generate.num_beams=1"
        )
