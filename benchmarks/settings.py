"""Values of the configuration that no class of their own checks."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from transformers import GenerationConfig, GenerationMixin

from benchmarks.sentences import UNFINISHED
from benchmarks.usage import UsageError, nearest

SECTIONS = {
    "generation": ("batch_size", "seed"),
    "bootstrap": ("resamples", "level", "seed"),
    "pictures": ("captions", "worst"),
    "tuning": ("budget", "below", "task"),
}
"""Section of the configuration -> its keys."""


def check_values(config: Mapping[str, Any]) -> None:
    """What the YAMLs hold beside models, methods and tasks. Raises: UsageError."""
    for section, keys in SECTIONS.items():
        found = config[section] if isinstance(config[section], Mapping) else {}
        wrong = set(keys) ^ set(found)
        if wrong:
            raise UsageError(
                f"{section} must hold {', '.join(keys)}; wrong or missing: {', '.join(sorted(wrong))}"
            )
    for key in ("overwrite", "retry", "tune"):
        if not isinstance(config[key], bool):
            raise UsageError(f"{key}={config[key]}; expected true or false")
    bootstrap, generation = config["bootstrap"], config["generation"]
    counts = {
        "generation.batch_size": (generation["batch_size"], 1),
        "generation.seed": (generation["seed"], 0),
        "bootstrap.resamples": (bootstrap["resamples"], 1),
        "bootstrap.seed": (bootstrap["seed"], 0),
        "pictures.captions": (config["pictures"]["captions"], 0),
        "pictures.worst": (config["pictures"]["worst"], 0),
        "processes": (config["processes"], 1),
        "tuning.budget": (config["tuning"]["budget"], 1),
    }
    for key, (value, least) in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"{key}={value}; expected a whole number, at least {least}")
    below = config["tuning"]["below"]
    if not isinstance(below, int | float) or isinstance(below, bool) or not 0 < below <= 100:
        raise UsageError(f"tuning.below={below}; expected a percent of the tokens, such as 50")
    if config["unfinished"] not in UNFINISHED:
        raise UsageError(f"unfinished={config['unfinished']}; expected {' or '.join(UNFINISHED)}")
    if not isinstance(bootstrap["level"], float) or not 0 < bootstrap["level"] < 1:
        raise UsageError(
            f"bootstrap.level={bootstrap['level']}; expected a share between 0 and 1, such as 0.95"
        )


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """What a method hands to generate. Raises: UsageError on an unknown name and on a value out of range."""
    known = {*GenerationConfig().to_dict(), *signature(GenerationMixin.generate).parameters}
    for key in arguments.keys() - known:
        raise UsageError(f"method {name}: generate takes no {key}; {nearest(key, known)}")
    for key in ("num_beams", "max_new_tokens"):
        value = arguments.get(key, 1)
        if not isinstance(value, int) or value < 1:
            raise UsageError(f"method {name}: {key}={value}; expected a whole number, at least 1")
    try:
        GenerationConfig(**arguments).validate()
    except (ValueError, TypeError) as error:
        told = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"method {name}, generate: {told}") from error
