"""The model that overhead.py measures on, and prompts for it."""

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

from benchmarks.models import first_line, resolve_device
from benchmarks.usage import UsageError
from mutation_decode import Anatomy


def load(config: Mapping[str, Any]) -> tuple[Any, Anatomy]:
    """The model that the configuration names, on its device, and its parts.

    Raises: UsageError on a device that is not there, or a checkpoint that the library cannot read.
    """
    path = config["checkpoint"]
    device = resolve_device(config["device"], path or "of random weights")
    torch.manual_seed(config["seed"])
    try:
        model = _random(config) if path is None else _pretrained(path)
        model.to(device, getattr(torch, config["dtype"])).eval()
        model.generation_config = GenerationConfig(do_sample=False)  # no end token: all rows of one length
        anatomy = Anatomy.of(model)
    except (OSError, ValueError) as error:
        raise UsageError(f"checkpoint {path}: {first_line(error)}") from error
    if anatomy.depth < 4:
        raise UsageError(f"checkpoint {path} has {anatomy.depth} blocks; at least 4 are needed")
    return model, anatomy


def _random(config: Mapping[str, Any]) -> Any:
    """A decoder in the proportions of Llama 2, its weights large enough for every block to move the js."""
    hidden, length = config["hidden"], config["prompt"] + config["new_tokens"]
    sizes = {"hidden_size": hidden, "intermediate_size": hidden * 43 // 16, "max_position_embeddings": length}
    sizes |= {"num_hidden_layers": config["blocks"], "num_attention_heads": config["heads"]}
    shape = LlamaConfig(**sizes, vocab_size=config["vocabulary"], initializer_range=hidden**-0.5)
    return LlamaForCausalLM(shape)


def _pretrained(path: str) -> Any:
    """A checkpoint, by the class that its config names."""
    name = (AutoConfig.from_pretrained(path).architectures or ["no class"])[0]
    if not hasattr(transformers, name):
        raise ValueError(f"its config names {name}, which transformers does not have")
    transformers.utils.logging.disable_progress_bar()
    return getattr(transformers, name).from_pretrained(path)


def prompts(model: Any, rows: int, length: int) -> Tensor:
    """Random ids `[rows, length]`, none of which has a role of its own, such as an image's."""
    config = model.config
    named = [*config.to_dict().items(), *config.get_text_config().to_dict().items()]
    roles = {value for key, value in named if "_token_i" in key and isinstance(value, int)}
    plain = torch.tensor([i for i in range(config.get_text_config().vocab_size) if i not in roles])
    return plain[torch.randint(len(plain), (rows, length))].to(model.device)
