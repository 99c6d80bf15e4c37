"""A miniature model of a type, built with random weights, and prompts for it."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from benchmarks.conformance.kinds import Kind
from benchmarks.conformance.shrink import TEXT_IDS, VOCAB, shrink

LARGEST = 20_000_000
"""Parameters; a miniature with more was not shrunk."""

KEPT = ("vision", "visual", "vq", "conv", "norm", "qformer", "sam_model", "A_log", "dt_bias")
"""Parts of names of weights that stay as their class makes them."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, its prompts, and what it is given beside their ids."""

    name: str
    model: Any
    kind: Kind

    @property
    def encodes(self) -> bool:
        """Whether an encoder reads the prompt, and the answer begins with one start token."""
        return bool(self.model.config.is_encoder_decoder)

    def batch(self, *rows: int, suffix: Tensor | None = None) -> dict[str, Tensor]:
        """Left-padded inputs for these prompts, each followed by its row of ``suffix`` ``[rows, tokens]``."""
        prompts = self.kind.prompts()
        tails = [[]] * len(rows) if suffix is None or self.encodes else suffix.tolist()
        texts = [prompts[row] + tail for row, tail in zip(rows, tails, strict=True)]
        width = max(map(len, texts))
        ids = torch.tensor([[0] * (width - len(text)) + text for text in texts])
        mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts])
        inputs = {"input_ids": ids, "attention_mask": mask} | self.kind.inputs(rows, ids)
        if suffix is not None and self.encodes:
            start = torch.full((len(rows), 1), self.model.generation_config.decoder_start_token_id)
            inputs["decoder_input_ids"] = torch.cat([start, suffix], dim=1)
        return {name: value for name, value in inputs.items() if value is not None}

    def generate(self, *rows: int, **kwargs: Any) -> Any:
        """What generate returns, logits included; greedy, six tokens unless told otherwise."""
        arguments = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, **kwargs}
        with torch.no_grad():
            return self.model.generate(**self.batch(*rows), return_dict_in_generate=True, **arguments)


def class_name(name: str) -> str:
    """The class that transformers loads for a model type; of text, that of causal language models."""
    names = {**MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, **MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}[name]
    return names if isinstance(names, str) else names[0]


def build(name: str, kind: Kind) -> Subject:
    """A miniature of a model type; the same one every time.

    Raises:
        ValueError: if it is not small.
    """
    config, made = shrink(CONFIG_MAPPING[name], kind.config), getattr(transformers, class_name(name))
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in made(config).parameters())
    if size > LARGEST:
        raise ValueError(f"its miniature has {size / 1e6:.0f} million parameters; name what is still large")
    torch.manual_seed(0)
    model = made(config).eval()
    kind.prepare(model)
    _weigh(model)
    for part in model.modules():  # the generate that counts may be that of a model inside
        settings = getattr(part, "generation_config", None)
        if settings is not None:
            settings.eos_token_id, settings.pad_token_id = None, 0
            settings.suppress_tokens = [i for i in range(VOCAB) if i not in TEXT_IDS]
            settings.forced_bos_token_id = settings.forced_eos_token_id = None
            if config.is_encoder_decoder:
                settings.decoder_start_token_id = 2
    return Subject(name, model, kind)


def _embeddings(model: Any) -> Any:
    """Those of the model, or of the first one inside that transformers knows the embeddings of."""
    for part in model.modules():
        if isinstance(part, transformers.PreTrainedModel):
            with suppress(NotImplementedError):
                return part.get_input_embeddings()
    raise ValueError(f"{type(model).__name__} has no embeddings")


def _weigh(model: Any) -> None:
    """Weights under which blocks matter and logits stay small enough that 1e-5 is a meaningful error."""
    embeddings, head = _embeddings(model), model.get_output_embeddings()
    ends = [part.weight for part in (embeddings, head) if hasattr(part, "weight")]
    tied = len(ends) == 2 and ends[0] is ends[1]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(weight is end for end in ends):
                weight.normal_(std=0.1 if tied else 0.2)
            elif weight.dim() > 1 and weight.is_floating_point() and not any(part in name for part in KEPT):
                weight.normal_(std=0.14 if tied else 0.08)
