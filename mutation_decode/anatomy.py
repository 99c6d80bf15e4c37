"""Finds the parts of a model that a logit lens needs, by watching one forward; no code per model family.

    embeddings -> blocks[0] ... blocks[L-1] -> tail (final norm, ...) -> head -> what the owner does to the
    logits

The parts are read off the order in which modules ran, then checked: the tail applied to the last block's
output has to be what entered the head. A model that does not pass is refused, never guessed at.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor, nn
from transformers import PreTrainedModel

from .agreement import tolerance
from .hooks import of_this_thread
from .probe import probe_inputs, undisturbed
from .rollback import cache_indices
from .states import ONE_STATE, States, Tail, first_tensor, more_than_one

BY_HAND = (
    "If it needs more than text to run, such as a picture, give it the inputs of one of your generate calls: "
    "anatomy=Anatomy.of(model, inputs). Otherwise pass the parts by hand: anatomy=Anatomy(blocks=the decoder "
    "blocks in order, tail=what runs between the last of them and the head, head=the unembedding, owner=the "
    "model that calls the head); they are verified as well."
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

    def __post_init__(self) -> None:
        for name in ("blocks", "tail"):
            if not isinstance(getattr(self, name), tuple):
                raise TypeError(
                    f"Anatomy: {name} is a tuple of modules, got {type(getattr(self, name)).__name__}; "
                    f"pass {name}=tuple(...) of a list, or {name}=(module,) of one."
                )
        inside = {id(module) for module in self.owner.modules()}
        missing = [part for part in (*self.blocks, self.head) if id(part) not in inside]
        if missing or not self.blocks:
            what = f"{type(missing[0]).__name__} is not inside of it" if missing else "there is no block"
            raise ValueError(
                f"Anatomy: the owner, {type(self.owner).__name__}, calls the head and holds all blocks; "
                f"{what}. Pass the model that returns the logits."
            )

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
        steps = _watch(owner, probe_inputs(owner, inputs))
        at_head = next((i for i, step in enumerate(steps) if step.module is head and step.enters), None)
        if at_head is None:
            raise ValueError(
                f"{name}: {_path(owner, head)}, its output embeddings, did not run in a forward. {BY_HAND}"
            )
        blocks, last = _blocks(owner, steps[:at_head])
        states, tail = more_than_one(owner, blocks) or (ONE_STATE, _tail(head, steps[last + 1 : at_head]))
        found = cls(blocks=blocks, tail=tail, head=head, owner=owner, states=states)
        return replace(found, scale=_fit(found, steps[last], steps[at_head].value, name))


@dataclass(frozen=True, slots=True)
class _Step:
    module: nn.Module
    enters: bool
    value: Tensor | None
    call: tuple[tuple[Any, ...], dict[str, Any], Any]


def _watch(owner: nn.Module, inputs: Mapping[str, Any]) -> list[_Step]:
    """Every entry into and return from a module during one forward, with the tensor that passed."""
    steps: list[_Step] = []

    @of_this_thread
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
    # A block with two attentions counts as two layers, and is given two numbers (LongCat Flash).
    lists = [
        m
        for m in owner.modules()
        if isinstance(m, nn.ModuleList) and max(len(m), len(cache_indices(m))) >= expected
    ]
    home = {id(block): blocks for blocks in lists for block in blocks}
    for at, step in reversed(list(enumerate(steps))):
        if not step.enters and id(step.module) in home:
            blocks = tuple(home[id(step.module)])
            runs = [sum(1 for s in steps if s.enters and s.module is block) for block in blocks]
            if max(runs) > 1:
                raise ValueError(
                    f"{type(owner).__name__} runs a block of {_path(owner, home[id(step.module)])} more than "
                    f"once in a forward. {BY_HAND}"
                )
            return blocks, at
    raise ValueError(
        f"{type(owner).__name__}: none of its lists of at least {expected} modules (num_hidden_layers), "
        f"{', '.join(_path(owner, m) for m in lists) or 'there is no such list'}, ran before its head. "
        f"{BY_HAND}"
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
        raise ValueError(f"{name}: its last block or its head passes no tensor. {_said(found)} {BY_HAND}")
    with undisturbed(found.owner):
        try:
            state = found.states.left(found.depth - 1, *last.call)
            mine = found.finish(state[:, -1:])[:, -1].to(wanted.device)
        except Exception as error:
            raise ValueError(
                f"{name}: what runs between its last block and its head does not follow one after the other "
                f"({type(error).__name__}: {error}). {_said(found)} {BY_HAND}"
            ) from error
    wanted = wanted[:, -1]
    if mine.shape != wanted.shape:
        raise ValueError(
            f"{name}: its last block, finished, has shape {tuple(mine.shape)}, but {tuple(wanted.shape)} "
            f"entered the head. {_said(found)} {BY_HAND}"
        )
    if float((mine - wanted).abs().max()) <= tolerance(wanted):
        return 1.0
    scale = float((mine.double() * wanted.double()).sum() / mine.double().square().sum())
    off = float((mine * scale - wanted).abs().max())
    if not off <= tolerance(wanted):
        raise ValueError(
            f"{name}: its last block, finished, misses what entered the head by {off:.3g} (allowed "
            f"{tolerance(wanted):.3g}). {_said(found)} {BY_HAND}"
        )
    return scale


def _said(found: Anatomy) -> str:
    """The parts as far as they were found, where they lie in the model."""
    owner, home = found.owner, [m for m in found.owner.modules() if isinstance(m, nn.ModuleList)]
    blocks = next(m for m in home if len(m) and m[0] is found.blocks[0])
    return (
        f"Found: blocks={_path(owner, blocks)} ({found.depth}), "
        f"tail=({', '.join(_path(owner, part) for part in found.tail)}), head={_path(owner, found.head)}."
    )


def _path(owner: nn.Module, part: object) -> str:
    """Where a module lies in the owner, as one would write it down."""
    return next((name for name, m in owner.named_modules() if m is part), type(part).__name__)
