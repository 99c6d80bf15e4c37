"""Finds the parts of a model that a logit lens needs, by watching one forward; no code per model family.

    embeddings -> blocks[0] ... blocks[L-1] -> tail (final norm, ...) -> head -> what the owner does to the
    logits

The parts are read off the order in which modules ran, then checked: the tail applied to the last block's
output has to be what entered the head. A model that does not pass is refused, never guessed at.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .agreement import tolerance
from .states import ONE_STATE, States, Tail, first_tensor, more_than_one
from .uncompiled import uncompiled

BY_HAND = (
    "Pass the parts by hand: anatomy=Anatomy(blocks=..., tail=..., head=..., owner=...), "
    "or example inputs for the traced forward: Anatomy.of(model, inputs)."
)


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """The parts of a model between its embeddings and its logits.

    Attributes:
        blocks: the decoder blocks, in order; L of them.
        tail: the modules (or other functions of states) between the last block and the head, applied one
            after the other.
        head: the unembedding.
        owner: the model that calls the head, and returns the logits.
        scale: a factor between the tail and the head (1 in nearly every model).
        states: how what passes between the blocks is read, where that is more than one state a position.
    """

    blocks: tuple[nn.Module, ...]
    tail: Tail
    head: nn.Module
    owner: nn.Module
    scale: float = 1.0
    states: States = ONE_STATE

    @property
    def depth(self) -> int:
        """L, the number of blocks."""
        return len(self.blocks)

    def finish(self, states: Tensor) -> Tensor:
        """What the head would be given for these block outputs `[rows, positions, ...]`."""
        for module in self.tail:
            states = first_tensor(module(states))
        return states if self.scale == 1.0 else states * self.scale

    @classmethod
    def of(cls, model: nn.Module, inputs: Mapping[str, Any] | None = None) -> Self:
        """Finds and checks the parts of a model with one forward on a few tokens of text.

        Args:
            model: a transformers model with a language-modelling head.
            inputs: arguments for that forward, for models that cannot run on text alone.

        Raises:
            ValueError: if a part is not found or does not verify; the message says by how much, and the way
                out.
        """
        name = type(model).__name__
        head, owner = _head_and_owner(model)
        steps = _watch(owner, probe_inputs(owner) if inputs is None else inputs)
        at_head = next((i for i, step in enumerate(steps) if step.module is head and step.enters), None)
        if at_head is None:
            raise ValueError(f"{name}: its output embeddings did not run in a forward. {BY_HAND}")
        blocks, last = _blocks(owner, steps[:at_head])
        states, tail = more_than_one(owner, blocks) or (ONE_STATE, _tail(head, steps[last + 1 : at_head]))
        found = cls(blocks=blocks, tail=tail, head=head, owner=owner, states=states)
        return replace(found, scale=_fit(found, steps[last], steps[at_head].value, name))


def refuse_more_than_one_state(parts: Anatomy) -> None:
    """For what leaves blocks out.

    Raises:
        ValueError: if more passes between blocks than one state a position.
    """
    if parts.states is not ONE_STATE:
        raise ValueError(
            f"{type(parts.owner).__name__}: more than one state a position passes between its blocks, and "
            f"Skip follows only one, so it cannot leave any out. Use Contrast."
        )


def probe_inputs(owner: nn.Module) -> dict[str, Tensor]:
    """Four ordinary tokens of text: no id that the configuration reserves for images, padding or the like."""
    config = getattr(owner, "config", None)
    reserved = set(_reserved_ids(config.to_dict())) if config is not None else set()
    table = owner.get_input_embeddings()  # type: ignore[operator]
    # A quantised table has no parameter, and not every table that has one counts its rows.
    vocab = getattr(table, "num_embeddings", None) or first_parameter(table).shape[0]
    ids = [token for token in range(vocab) if token not in reserved][:4]
    device = first_parameter(owner).device
    tokens = torch.tensor([ids], device="cpu" if device.type == "meta" else device)
    decoder = {"decoder_input_ids": tokens} if getattr(config, "is_encoder_decoder", False) else {}
    return {"input_ids": tokens, **decoder}


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """A forward of ours leaves no gradient, does not move the random state and is not a compiled one."""
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    gpus = sorted(i for i in devices if i is not None)
    with uncompiled(model), torch.no_grad(), torch.random.fork_rng(devices=gpus):
        yield


def works(steps: Callable[[], object], model: nn.Module) -> bool:
    """Whether forwards of a model run to their end."""
    try:
        with undisturbed(model):
            steps()
    except Exception:
        return False
    return True


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)


def first_parameter(module: nn.Module) -> Tensor:
    """Any parameter of a module, to learn where it lives and how large it is."""
    return next(module.parameters())


@dataclass(frozen=True, slots=True)
class _Step:
    module: nn.Module
    enters: bool
    value: Tensor | None
    call: tuple[tuple[Any, ...], dict[str, Any], Any]


def _watch(owner: nn.Module, inputs: Mapping[str, Any]) -> list[_Step]:
    """Every entry into and return from a module during one forward, with the tensor that passed."""
    steps: list[_Step] = []

    def note(module: nn.Module, args: Any, kwargs: Any, *output: Any) -> None:
        try:
            value = first_tensor(output[0] if output else (*args, *kwargs.values())).clone()
        except TypeError:
            value = None
        steps.append(_Step(module, not output, value, (args, kwargs, output[0] if output else None)))

    handles = [
        handle
        for module in owner.modules()
        for handle in (
            module.register_forward_pre_hook(note, with_kwargs=True),
            module.register_forward_hook(note, with_kwargs=True),
        )
    ]
    try:
        with undisturbed(owner):
            owner(**inputs)
    except Exception as error:
        raise ValueError(
            f"{type(owner).__name__}: the forward that looks for its parts failed "
            f"({type(error).__name__}: {error}). {BY_HAND}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return steps


def _head_and_owner(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    candidates = list(model.modules())
    heads = (m.get_output_embeddings() for m in candidates if isinstance(m, PreTrainedModel))
    head = next((head for head in heads if isinstance(head, nn.Module)), None)
    if head is None:
        raise ValueError(
            f"{type(model).__name__} has no language-modelling head to read layers with. {BY_HAND}"
        )
    # Modules are listed from the outside in, so the last ancestor is the nearest.
    owners = [
        m for m in model.modules() if isinstance(m, PreTrainedModel) and any(x is head for x in m.modules())
    ]
    if not owners:
        raise ValueError(f"{type(model).__name__}: no transformers model calls its head. {BY_HAND}")
    return head, owners[-1]


def _blocks(owner: nn.Module, steps: list[_Step]) -> tuple[tuple[nn.Module, ...], int]:
    """The list whose element returned last before the head, and the step at which it did."""
    assert isinstance(owner, PreTrainedModel)
    config = owner.config.get_text_config(decoder=True)
    expected = getattr(config, "num_hidden_layers", None) or 1
    lists = [m for m in owner.modules() if isinstance(m, nn.ModuleList) and len(m) >= expected]
    home = {id(block): blocks for blocks in lists for block in blocks}
    for at, step in reversed(list(enumerate(steps))):
        if not step.enters and id(step.module) in home:
            blocks = tuple(home[id(step.module)])
            runs = [sum(1 for s in steps if s.enters and s.module is block) for block in blocks]
            if max(runs) > 1:
                raise ValueError(
                    f"{type(owner).__name__} runs a block more than once in a forward. {BY_HAND}"
                )
            return blocks, at
    raise ValueError(
        f"{type(owner).__name__}: no list of at least {expected} blocks ran before its head. {BY_HAND}"
    )


def _tail(head: nn.Module, steps: list[_Step]) -> tuple[nn.Module, ...]:
    """The outermost modules that ran between the last block and the head, less those around the head."""
    tail: list[nn.Module] = []
    inside: set[int] = set()
    for step in steps:
        if (
            step.enters
            and id(step.module) not in inside
            and not any(m is head for m in step.module.modules())
        ):
            tail.append(step.module)
            inside.update(id(m) for m in step.module.modules())
    return tuple(tail)


def _fit(found: Anatomy, last: _Step, wanted: Tensor | None, name: str) -> float:
    """The factor (nearly always 1) that makes the finished last state what entered the head, or refuses."""
    if last.value is None or wanted is None:
        raise ValueError(f"{name}: its last block or its head passes no tensor. {BY_HAND}")
    with undisturbed(found.owner):
        try:
            state = found.states.left(found.depth - 1, *last.call)
            mine = found.finish(state[:, -1:])[:, -1].to(wanted.device)
        except Exception as error:
            raise ValueError(
                f"{name}: the modules between its last block and its head "
                f"({', '.join(type(m).__name__ for m in found.tail)}) do not follow one after the other "
                f"({type(error).__name__}: {error}). {BY_HAND}"
            ) from error
    wanted = wanted[:, -1]
    if mine.shape != wanted.shape:
        raise ValueError(
            f"{name}: its last block, finished, has shape {tuple(mine.shape)}, but {tuple(wanted.shape)} "
            f"entered the head. {BY_HAND}"
        )
    if float((mine - wanted).abs().max()) <= tolerance(wanted):
        return 1.0
    scale = float((mine.double() * wanted.double()).sum() / mine.double().square().sum())
    off = float((mine * scale - wanted).abs().max())
    if not off <= tolerance(wanted):
        raise ValueError(
            f"{name}: its last block, finished by "
            f"{', '.join(type(m).__name__ for m in found.tail) or 'nothing'}, misses what entered the head "
            f"by {off:.3g} (allowed {tolerance(wanted):.3g}). {BY_HAND}"
        )
    return scale


def _reserved_ids(config: Mapping[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _reserved_ids(value)
        elif str(key).endswith(("token_id", "token_index")) and isinstance(value, int):
            yield value
