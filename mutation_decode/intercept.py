"""Tells processors when a generate call of their model uses them, and when it ends.

transformers calls a processor only after the prefill, so by itself it can neither be ready for the first
token nor know the last. While a model has processors, an object stands in for its `generate`: calls that use
none of them go straight through. It is on the instance only, and leaves with the last processor.
"""

import inspect
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from typing import Any, Protocol

from torch import nn
from transformers import GenerationMixin, PreTrainedModel

from .stand_in import standing_in


class GenerateCall:
    """One call of generate: its arguments under their names, however they were passed.

    Attributes:
        model: whose generate it is.
        arguments: everything passed, `**kwargs` included.
    """

    def __init__(
        self, model: nn.Module, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ):
        self.model = model
        self._function = function
        signature = _signature(model, function)
        bound = signature.bind(*args, **kwargs)
        rest = [p.name for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
        extra = {key: value for name in rest for key, value in bound.arguments.pop(name, {}).items()}
        self.arguments: dict[str, Any] = {**bound.arguments, **extra}

    @property
    def processors(self) -> list[Any]:
        """The logits processors that the caller passed, in order."""
        given = self.arguments.get("logits_processor")
        return list(given) if isinstance(given, Iterable) else []

    def setting(self, name: str) -> Any:
        """A setting as generate will see it: from the arguments, generation_config, or the model's own."""
        if name in self.arguments:
            return self.arguments[name]  # None too: generate takes it for a wish
        for source in (
            self.arguments.get("generation_config"),
            getattr(self.model, "generation_config", None),
        ):
            value = source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)
            if value is not None:
                return value
        return None

    def run(self) -> Any:
        """Does what was called, with the arguments as they are now."""
        # Janus takes logits processors by name and does not hand them on: they are put where they belong.
        inside, place = generating(self.model), "_get_logits_processor"
        kept = standing_in(inside, self._keep, place) if hasattr(inside, place) else nullcontext()
        with kept:
            return self._function(**self.arguments)

    def _keep(self, prepare: Callable[..., Any]) -> Callable[..., Any]:
        missing = list(self.processors)

        def prepared(*args: Any, **kwargs: Any) -> Any:
            found = prepare(*args, **kwargs)
            if not any(one is other for one in found for other in missing):
                found.extend(missing)
            missing.clear()  # another call of generate, inside of this one, has its own
            return found

        return prepared


class Listener(Protocol):
    """What takes part in the generate calls that name it among their logits processors."""

    def during(self, call: GenerateCall) -> AbstractContextManager[None]:
        """Entered around a call that uses the listener; may change its arguments, and refuse it."""
        ...

    def aside(self) -> AbstractContextManager[None]:
        """Entered around a call that does not use it."""
        ...

    def completed(self, call: GenerateCall, output: Any) -> Any:
        """Called with what generate returned; returns what the caller gets."""
        ...


class Interceptor:
    """Stands in for one method of a model instance; `attach` and `detach` are the way to use it."""

    def __init__(self, model: nn.Module, name: str) -> None:
        self._model = weakref.ref(model)
        self._name = name
        self._before = model.__dict__.get(name)
        self._listeners: list[weakref.ref[Listener]] = []
        method = getattr(model, name)
        self.__doc__ = method.__doc__
        self.__signature__ = inspect.signature(method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model = self._model()
        assert model is not None, "the method is an attribute of the model, so the model is alive"
        function = self._original(model)
        listeners = [listener for ref in self._listeners if (listener := ref()) is not None]
        try:
            call = GenerateCall(model, function, args, kwargs)
        except TypeError:  # not the right arguments: the method itself says so best
            return function(*args, **kwargs)
        used = [p for p in call.processors if any(p is listener for listener in listeners)]
        if used and self._name != "generate":
            raise ValueError(
                f"{self._name} (continuous batching) ignores logits processors, so the method would not be "
                f"in effect; use generate."
            )
        with ExitStack() as stack:
            for listener in listeners:
                taking_part = any(listener is p for p in used)
                stack.enter_context(listener.during(call) if taking_part else listener.aside())
            if not used:
                return function(*args, **kwargs)
            output = call.run()
            for listener in reversed([x for x in listeners if any(x is p for p in used)]):
                output = listener.completed(call, output)
            return output

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied or saved model gets the plain method, bound to the copy."""
        return _plain, (self._model(), self._name)

    def _original(self, model: nn.Module) -> Callable[..., Any]:
        return self._before if self._before is not None else _plain(model, self._name)


def generating(model: nn.Module) -> nn.Module:
    """The model whose generate runs in the end: a wrapper such as peft's hands the call to the one inside."""
    candidates = () if isinstance(model, PreTrainedModel) else model.modules()
    inside: nn.Module = next((m for m in candidates if isinstance(m, GenerationMixin)), model)
    return inside


def _signature(model: nn.Module, function: Callable[..., Any]) -> inspect.Signature:
    """The names of the arguments; those of a function that hands on all it is given are the model's."""
    signature = inspect.signature(function)
    hands_on = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in signature.parameters.values())
    inside = generating(model)
    known = hands_on and isinstance(inside, GenerationMixin)
    return inspect.signature(_plain(inside, "generate")) if known else signature


def _plain(model: nn.Module, name: str) -> Callable[..., Any]:
    """The method as the model's class has it."""
    return types.MethodType(getattr(type(model), name), model)


NAMES = ("generate", "generate_batch")
_CHANGING = threading.RLock()
"""Held while listeners come and go; one that is collected as garbage meanwhile detaches in their midst."""


def attach(model: nn.Module, listener: Listener) -> None:
    """Lets a listener know of the model's generate calls; held weakly."""
    known = weakref.ref(listener)
    with _CHANGING:
        for name in NAMES:
            while hasattr(model, name) and known not in _listeners(model, name):
                interceptor = model.__dict__.get(name)
                if not isinstance(interceptor, Interceptor):
                    interceptor = Interceptor(model, name)
                interceptor._listeners.append(known)
                model.__dict__[name] = interceptor


def detach(model: nn.Module, listener: Listener | None) -> None:
    """Undoes `attach` (with None: for listeners that are gone); the last one restores the model."""
    with _CHANGING:
        for name in NAMES:
            for known in [r for r in _listeners(model, name) if r() is None or r() is listener]:
                with suppress(ValueError):
                    _listeners(model, name).remove(known)
            interceptor = model.__dict__.get(name)
            if not isinstance(interceptor, Interceptor) or interceptor._listeners:
                continue
            if interceptor._before is None:
                del model.__dict__[name]
            else:
                model.__dict__[name] = interceptor._before


def _listeners(model: nn.Module, name: str) -> "list[weakref.ref[Listener]]":
    interceptor = model.__dict__.get(name)
    return interceptor._listeners if isinstance(interceptor, Interceptor) else []
