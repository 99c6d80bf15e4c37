"""Parts of a model that lie where they lay when they were found.

An adapter that is put on the head or taken off it, and quantisation, put another module where a part was.
Hooks on the old one then never run, or run inside the new one; either would be read wrongly without a word.
"""

from collections.abc import Mapping

from torch import nn

from .anatomy import Anatomy


def places(parts: Anatomy) -> dict[str, nn.Module]:
    """The parts under their names in the owner; a tail may lie elsewhere, or be functions."""
    names = {id(module): name for name, module in parts.owner.named_modules()}
    return {
        names[id(part)]: part
        for part in (*parts.blocks, *parts.tail, parts.head)
        if isinstance(part, nn.Module) and id(part) in names
    }


def refuse_if_exchanged(owner: nn.Module, parts: Mapping[str, nn.Module]) -> None:
    """Looks whether the parts are still in their places. Raises: RuntimeError if one is not."""
    there = dict(owner.named_modules(remove_duplicate=False))
    for name, part in parts.items():
        if there.get(name) is not part:
            raise RuntimeError(
                f"{type(owner).__name__}: {name} is another module than when this was built, as after an "
                f"adapter was added or merged, or weights were quantised; build it anew."
            )
