"""A decoding method as its YAML gives it: a strategy or a second forward, arguments of generate."""

import itertools
import pkgutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from benchmarks import second_forward
from benchmarks.second_forward import Second
from benchmarks.typed import mistyped, shown
from benchmarks.usage import UsageError
from mutation_decode import Detector, ForwardStrategy, Gate, MutationLogitsProcessor, Strategy

SETTINGS = ("generate", "detector", "gate", "norm", "tune")
"""Keys of a method's YAML beside ``_target_`` and the knobs of the strategy that it names."""


@dataclass(frozen=True, slots=True)
class Method:
    """A strategy, or a second forward, and arguments of model.generate; without both, plain generate."""

    name: str
    strategy: Strategy | ForwardStrategy | None
    detector: Detector | None
    generate: Mapping[str, Any]
    gate: Gate | None = None
    norm: bool = True
    """Whether the layers are read through the final norm."""
    second: Second | None = None
    """In place of a strategy: what a second forward gets, and what is made of both; for every token."""

    @property
    def gated(self) -> bool:
        """Whether a detector decides which tokens it acts on."""
        return self.strategy is not None and not self.strategy.always

    def check(self, depth: int) -> None:
        """Raises: UsageError when a layer does not exist in a model of ``depth`` blocks."""
        try:
            if self.strategy is not None:
                list(self.strategy.readouts(depth))
            if self.detector is not None:
                self.detector.blocks(depth)
        except ValueError as error:
            raise UsageError(f"method {self.name}: {error}") from error

    @contextmanager
    def on(self, model: Any) -> Iterator[MutationLogitsProcessor | None]:
        """The strategy's processor, traced, for the time of the context; None without a strategy.

        Raises: UsageError when the model does not take the method's second forward.
        """
        if self.second is not None:
            second_forward.check_model(self.name, model, self.generate)
        if self.strategy is None:
            yield None
            return
        with MutationLogitsProcessor(
            model, self.strategy, detector=self.detector, gate=self.gate, norm=self.norm, trace="watched"
        ) as processor:
            yield processor


def build(name: str, config: Mapping[str, Any]) -> Method:
    """A method from its YAML. Raises: UsageError when a knob is unknown or out of range."""
    _must_be_mapping(f"method {name}", config)
    stray = sorted(set(config) - {"generate", "tune"})
    if stray and "_target_" not in config:
        raise UsageError(
            f"method {name} has {', '.join(stray)} and no strategy to go with it; put it into method=[...], "
            f"or give it a _target_"
        )
    knobs = {key: value for key, value in config.items() if key not in SETTINGS}
    strategy = create(f"method {name}", knobs) if "_target_" in knobs else None
    if isinstance(strategy, Second):
        return _build_second(name, strategy, config)
    detector = create(f"method {name}, detector", config["detector"]) if config.get("detector") else None
    if strategy is not None and not strategy.always and detector is None:
        raise UsageError(
            f"method {name} acts where its detector fires, and has none; give it one or always=true"
        )
    gate = create(f"method {name}, gate", config["gate"]) if config.get("gate") else None
    if strategy is not None and strategy.always and gate not in (None, Gate()):
        raise UsageError(
            f"method {name}: a gate chooses among the tokens at which a detector fires, and it acts at every "
            f"one; set always=false, or leave the gate at null"
        )
    norm = config.get("norm", True)
    if not isinstance(norm, bool):
        raise UsageError(f"method {name}: norm={norm}; expected true or false")
    return Method(name, strategy, detector, _arguments(name, config), gate, norm)


def _build_second(name: str, second: Second, config: Mapping[str, Any]) -> Method:
    arguments = _arguments(name, config)
    second_forward.check_arguments(name, arguments)
    if stray := [key for key in ("detector", "gate", "norm") if key in config]:
        raise UsageError(
            f"method {name} has {', '.join(stray)}, and acts on every token by a second forward; leave them "
            f"out"
        )
    return Method(name, None, None, arguments, second=second)


def _arguments(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    generate = config.get("generate") or {}
    _must_be_mapping(f"method {name}: generate", generate)
    if generate.get("num_return_sequences", 1) != 1:
        raise UsageError(f"method {name}: num_return_sequences must be 1; every item has one answer")
    return dict(generate)


def create(what: str, config: Mapping[str, Any]) -> Any:
    """Instantiates a ``_target_`` node; a value or a name that its target refuses is the user's mistake.

    Our own classes need not look at the types of what they get: that is done here, before and for all of
    them. The library's say themselves what is wrong with a value, and where they do not, it is said here.
    """
    _must_be_mapping(what, config)
    target = config.get("_target_")
    try:
        kind = pkgutil.resolve_name(target) if isinstance(target, str) else None
    except (ImportError, AttributeError, ValueError):
        kind = None
    if kind is None:
        raise UsageError(f"{what}: _target_={target}; expected a class that can be imported")
    wrong = mistyped(kind, config)
    if wrong and str(getattr(kind, "__module__", "")).startswith("benchmarks."):
        raise UsageError(f"{what}: {wrong}")
    try:
        made = instantiate(config, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError | TypeError):
            raise UsageError(f"{what}: {error.__cause__}") from error
        raise
    if wrong:
        raise UsageError(f"{what}: {wrong}")
    return made


def _must_be_mapping(what: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise UsageError(f"{what} must be a mapping, such as {{key: value}}, got {shown(value)}")


def candidates(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each combination of the lists under ``tune``: ``[{"alpha": 1, "detector": {"threshold": 0}}, ...]``."""
    tune = config.get("tune") or {}
    _must_be_mapping("tune", tune)
    axes = list(_axes(tune))
    if not axes:
        return []
    combined = itertools.product(*(values for _, values in axes))
    return [_nest({path: value for (path, _), value in zip(axes, c, strict=True)}) for c in combined]


def without_given(config: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
    """The configuration, less what is to be tuned of the knobs that are ``given`` (``method.NAME.KNOB``)."""

    def pruned(tune: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        kept = {key: value for key, value in tune.items() if f"{prefix}.{key}" not in given}
        return {k: pruned(v, f"{prefix}.{k}") if isinstance(v, Mapping) else v for k, v in kept.items()}

    def settled(name: str, node: Any) -> Any:
        tune = node.get("tune") if isinstance(node, Mapping) else None
        if isinstance(tune, Mapping):
            return {**node, "tune": pruned(tune, f"method.{name}")}
        own = [key for key in given if key.startswith(f"method.{name}.")]
        # What is calibrated belongs together: one knob that is given leaves the others as they are.
        return {**node, "tune": {}} if tune and any(key != f"method.{name}.tune" for key in own) else node

    methods = {name: settled(name, node) for name, node in (config.get("method") or {}).items()}
    return {**config, "method": methods}


def with_knobs(config: Mapping[str, Any], knobs: Mapping[str, Any]) -> dict[str, Any]:
    """The method's YAML with some knobs set; nested knobs are merged into their node."""
    merged = dict(config)
    for key, value in knobs.items():
        merged[key] = with_knobs(merged.get(key) or {}, value) if isinstance(value, Mapping) else value
    return merged


def _axes(
    tune: Mapping[str, Any], prefix: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    for key, value in tune.items():
        if isinstance(value, Mapping):
            yield from _axes(value, (*prefix, key))
        elif isinstance(value, list):
            yield (*prefix, key), value
        else:
            raise UsageError(
                f"tune.{'.'.join((*prefix, key))} must be a list of values to try, got {value!r}"
            )


def _nest(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        node = nested
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return nested
