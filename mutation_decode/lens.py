"""The logit lens: every layer's logits out of the same product that makes the model's own.

Hooks keep the last position of the blocks that are read; before the head runs, these states are put in front
of its real input, so one product yields all logits and the head's weights are read once; when the owner has
done to them what it does to logits (soft cap, scale), the extra rows are cut off again. Hooks are on the
model only between `__enter__` and `__exit__`, and nothing outlives a forward but the readout that `take`
hands out.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from numbers import Integral
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .agreement import apart
from .anatomy import BY_HAND, Anatomy
from .hooks import Heard
from .in_place import places, refuse_if_exchanged
from .probe import probe_inputs, undisturbed, works
from .readout import Readout
from .side_by_side import by_row
from .uncompiled import uncompiled


class LogitLens:
    """Reads what a model would predict after each of its blocks, at the last position of every forward.

    Args:
        model: a transformers model with a language-modelling head.
        readouts: which readouts to read, each in 0..L (0: the embeddings, L: the model's own); None for all.
            Readout L is always there.
        exact: compute the layers' logits in a product of their own, so that the model's are those of the
            model without a lens to the last bit; otherwise they differ by the rounding of a larger product
            (about 2e-6 in fp32) and cost less. A head that says another thing of a state beside others, as
            torch's dynamic int8 does (one scale for all it is given), is found by trying it: each layer then
            has a product of its own in either mode, in which it stands where the model's own state stood.
        norm: pass the blocks' states through the final norm (all that the model has between its last block
            and its head), as the model does with the last one; without it they go to the head as they are.
            Readout L is the model's own either way.
        anatomy: the parts of the model, if they cannot be found.
        inputs: arguments for the forward that looks for the parts, for models that cannot run on text alone.
        states: hand out the states too, as `Readout.states`.

    Raises:
        ValueError: if the parts are not found, or if the last block read through the lens is not what the
            model itself predicts; this is checked here, and again in the first forward after this. Without
            the norm too: then the check alone goes through it.
        RuntimeError: on entering, if parts of the model were exchanged since (wrapped, merged, quantised).

    Example:
        with LogitLens(model) as lens:
            model(**inputs)
        lens.take().js()        # [rows, L], nats

    Several lenses may be on one model at the same time. Only forwards of the thread that entered are read.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        readouts: Iterable[int] | None = None,
        exact: bool = False,
        norm: bool = True,
        anatomy: Anatomy | None = None,
        inputs: Mapping[str, Any] | None = None,
        states: bool = False,
    ) -> None:
        self.anatomy = Anatomy.of(model, inputs) if anatomy is None else anatomy
        depth = self.anatomy.depth
        self.readouts = tuple(sorted({*(range(depth) if readouts is None else readouts), depth}))
        if not all(isinstance(j, Integral) and 0 <= j <= depth for j in self.readouts):
            raise ValueError(f"readouts of a model of {depth} blocks are 0..{depth}, got {self.readouts}.")
        if not norm and not self.anatomy.tail:
            raise ValueError(
                f"norm=False: {type(self.anatomy.owner).__name__} has nothing between its last block and its "
                f"head that could be left out; leave norm out."
            )
        self.exact = exact
        self.norm = norm
        self.with_states = states
        self.paused = False
        self.apart = (float("nan"), float("nan"))  # of the last check, and what would be allowed
        self._places = places(self.anatomy)
        self.dtype: torch.dtype | None = None  # in which the head computes, once it was seen
        self._by_row = True  # until the head is seen to do otherwise
        self._model = model
        self._for_a_while = ExitStack()
        self._handles: list[RemovableHandle] = []
        self._thread = 0
        self._verify = True
        self._readout: Readout | None = None
        self._clear()
        self._check(probe_inputs(self.anatomy.owner, inputs))

    def __enter__(self) -> Self:
        if self._handles:
            raise RuntimeError("this LogitLens is already on its model; use a second one.")
        refuse_if_exchanged(self.anatomy.owner, self._places)
        self._for_a_while.enter_context(uncompiled(self._model))
        self._thread = threading.get_ident()
        self.paused = False
        self._clear()
        parts = self.anatomy
        put = self._handles.append

        def during(hook: Any) -> Any:
            return Heard(hook, lambda: self._running and self.listening)

        put(parts.owner.register_forward_pre_hook(Heard(self._begin, lambda: self.listening)))
        if self.readouts[0] == 0:
            put(parts.blocks[0].register_forward_pre_hook(during(self._keep_input), with_kwargs=True))
        for number, block in enumerate(parts.blocks, start=1):
            if number in self.readouts:
                put(block.register_forward_hook(during(self._keep_output(number)), with_kwargs=True))
        put(parts.head.register_forward_pre_hook(during(self._stack)))
        put(parts.head.register_forward_hook(during(self._append_products)))
        # Rows are cut off in the opposite order of putting them on, before any lens looks at the model's own.
        put(parts.owner.register_forward_hook(during(self._strip), prepend=True))
        put(parts.owner.register_forward_hook(during(self._finish)))
        return self

    def __exit__(self, *_: object) -> None:
        handles, self._handles = self._handles, []  # no longer listening while they are taken away
        for handle in handles:
            handle.remove()
        self._for_a_while.close()
        self._states.clear()
        self._running = False

    def __reduce__(self) -> Any:
        """Refuses to be copied or pickled, with a model that it is on."""
        raise TypeError(
            f"a {type(self).__name__} belongs to its model and cannot be copied or saved; copy a model while "
            f"nothing reads its layers."
        )

    def take(self) -> Readout:
        """Hands out the readout of the last forward, once.

        Raises:
            RuntimeError: if there was no forward since the last `take`.
        """
        readout, self._readout = self._readout, None
        if readout is None:
            raise RuntimeError(
                "no forward of the model passed through the lens since the last readout was taken: each "
                "readout belongs to one forward and one token. Where several are made from one forward, as "
                "by block diffusion or drafts, layers say nothing of single tokens and cannot be used."
            )
        return readout

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """Leaves unread the forwards made inside by the thread that entered the lens; no other thread's
        forwards are read anyway, nor do they disturb."""
        before = self.paused
        if threading.get_ident() == self._thread:
            self.paused = True
        try:
            yield
        finally:
            if threading.get_ident() == self._thread:
                self.paused = before

    def _check(self, inputs: Mapping[str, Any]) -> None:
        """Compares on a probe if the model can run it, so that most misfits show before any real input."""
        owner = self.anatomy.owner
        try:
            with self, undisturbed(owner):
                owner(**inputs)
        except BlockDidNotRunError:
            pass  # on text alone; the first real forward will tell
        except Exception as error:
            if not self._verify:
                raise  # it was compared, and does not match
            if works(lambda: owner(**inputs), owner):
                way_out = BY_HAND if self.norm else "It may need what norm=False leaves out; leave out norm."
                raise ValueError(
                    f"{type(owner).__name__}: its layers cannot be read with its own head "
                    f"({type(error).__name__}: {error}). {way_out}"
                ) from error
        self._clear()
        self._verify = True  # and once more with real inputs, which may be images

    def _clear(self) -> None:
        self._running = False
        self._states: dict[int, Tensor] = {}
        self._rows = 0
        self._lens_logits: Tensor | None = None
        self._readout = None

    @property
    def listening(self) -> bool:
        """Whether a forward made now, by this thread, is read."""
        return bool(self._handles) and not self.paused and threading.get_ident() == self._thread

    # The hooks, in the order in which a forward meets them.

    def _begin(self, _module: nn.Module, _args: Any) -> None:
        self._clear()
        self._running = True

    def _keep_input(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._states[0] = self.anatomy.states.entered(args, kwargs)[:, -1].clone()

    def _keep_output(self, number: int) -> Any:
        def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            # Of the last block's output, readout L, the model itself makes logits.
            if number < self.anatomy.depth or self._verify or self.with_states:
                state = self.anatomy.states.left(number - 1, args, kwargs, output)
                self._states[number] = state[:, -1].clone()

        return keep

    def _stack(self, head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        self.dtype = args[0].dtype
        if self._verify:
            self._by_row = by_row(head, args[0])
        if self._aside:
            return None
        rows = self._finished_states(args[0])
        return (torch.cat([rows, args[0]], dim=1), *args[1:])

    def _append_products(self, head: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not self._aside:
            return None
        rows = self._finished_states(args[0])
        # forward, not call: no lens may stack its rows into these products.
        if self._by_row:
            return torch.cat([output, head.forward(rows)], dim=1)
        before = args[0][:, :-1]
        products = [head.forward(torch.cat([before, row[:, None]], dim=1))[:, -1:] for row in rows.unbind(1)]
        return torch.cat([output, *products], dim=1)

    @property
    def _aside(self) -> bool:
        """Whether the layers stay out of the product that makes the model's own logits."""
        return self.exact or not self._by_row

    def _strip(self, _owner: nn.Module, _args: Any, output: Any) -> Any:
        if self._rows == 0:
            return None
        logits = logits_of(output)
        cut, own = (
            (slice(-self._rows, None), slice(None, -self._rows))
            if self._aside
            else (slice(None, self._rows), slice(self._rows, None))
        )
        self._lens_logits = logits[:, cut]
        return with_logits(output, logits, logits[:, own])

    def _finish(self, owner: nn.Module, _args: Any, output: Any) -> None:
        own = logits_of(output)[:, -1:]
        lens = own[:, :0] if self._lens_logits is None else self._lens_logits
        if self._verify and self.anatomy.depth in self._states:
            self._compare(type(owner).__name__, lens[:, -1], own[:, -1])
            lens = lens[:, :-1]
        kept = self._kept(self.readouts) if self.with_states else []
        # Of a model that is spread out, the states lie on several devices.
        states = torch.stack([state.to(own.device) for state in kept], dim=1) if kept else None
        self._clear()
        self._readout = Readout(torch.cat([lens, own], dim=1), self.readouts, self.anatomy.depth, states)

    def _finished_states(self, like: Tensor) -> Tensor:
        """The kept states `[rows, K, ...]` through the tail, as the head wants them."""
        compared = [self.anatomy.depth] if self._verify and self.anatomy.depth in self._states else []
        states = self._kept([*self.readouts[:-1], *compared])
        self._rows = len(states)
        if not states:
            return like[:, :0]
        # In half precision, some models add up their states in fp32, and round them before their last norm.
        stacked = torch.stack([state.to(like) for state in states], dim=1)
        if self.norm:
            return self.anatomy.finish(stacked)
        early = len(self.readouts) - 1
        raw = stacked[:, :early] * self.anatomy.scale
        if len(states) == early:
            return raw
        return torch.cat([raw, self.anatomy.finish(stacked[:, early:])], dim=1)  # the one to be compared

    def _kept(self, readouts: Iterable[int]) -> list[Tensor]:
        """The states `[rows, ...]` at some readouts, in ascending order."""
        states: list[Tensor] = []
        for number in readouts:
            if number in self._states:
                states.append(self._states[number])
            elif states:
                states.append(states[-1])  # a block that did not run changed nothing
            else:
                raise BlockDidNotRunError(
                    f"block {number - 1} did not run in this forward, so readout {number} cannot be read. "
                    f"{BY_HAND}"
                )
        return states

    def _compare(self, name: str, read: Tensor, own: Tensor) -> None:
        self._verify = False
        self.apart = off, allowed = apart(read, own, self.dtype)
        if not off <= allowed:
            raise ValueError(
                f"{name}: the last block read through the lens differs from the model's own logits by "
                f"{off:.3g} (allowed {allowed:.3g}), so no layer can be trusted. {BY_HAND}"
            )


class BlockDidNotRunError(RuntimeError):
    """A block that is to be read took no part in a forward, as cross-attention blocks do without an image."""


def logits_of(output: Any) -> Tensor:
    """The logits in what a model returned, `[rows, positions, vocab]`."""
    logits: Tensor = output.logits if hasattr(output, "logits") else output[0]
    return logits


def with_logits(output: Any, old: Tensor, new: Tensor) -> Any:
    """What a model returned, with other logits in place of `old`."""
    if isinstance(output, tuple):
        return tuple(new if item is old else item for item in output)
    output.logits = new
    return output
