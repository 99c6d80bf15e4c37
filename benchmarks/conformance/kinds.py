"""What a miniature of a model type needs beyond a shrunk configuration: changes to it, and a picture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.conformance.shrink import END, IMAGE, START

Inputs = Callable[[Sequence[int], Tensor], dict[str, Any]]
"""From the numbers of rows and their ids ``[rows, positions]`` to what the model is given beside them.

None in place of an input takes it away."""

ROWS = 3


def no_inputs(rows: Sequence[int], ids: Tensor) -> dict[str, Tensor]:
    """For a model of text."""
    return {}


@dataclass(frozen=True, slots=True)
class Kind:
    """A model type in miniature.

    Attributes:
        config: changes to what ``shrink`` makes of the type's configuration.
        image: the ids that stand for a picture in a prompt; empty where it has no place among the text.
        inputs: the pictures of rows 0..2, in the form in which the model takes them; different ones.
        text: ids of the three prompts beside the picture: those before it, and those after it.
        prepare: what is done to the new model, such as opening gates that a new one has shut.
        without_pictures: why the pictures are left out, if they are.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    image: Sequence[int] = ()
    inputs: Inputs = no_inputs
    text: tuple[tuple[Sequence[int], Sequence[int]], ...] = (
        ((1,), (5, 6, 7, 8)),
        ((1,), (40,)),
        ((1, 30), (70, 71)),
    )
    prepare: Callable[[Any], None] = lambda model: None
    without_pictures: str = ""

    def prompts(self) -> list[list[int]]:
        """The ids of the three prompts, of different lengths."""
        return [[*before, *self.image, *after] for before, after in self.text]


def pictures(*shape: int, seed: int = 1) -> Tensor:
    """``[rows, *shape]`` noise, another one for each row."""
    return torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(seed))


def a_picture(tokens: int) -> list[int]:
    """The ids of a picture of so many tokens between its start and its end."""
    return [START, *[IMAGE] * tokens, END]


def pixels(*shape: int, **beside: Sequence[int]) -> Inputs:
    """One tensor of pixels ``[rows, *shape]``, and beside it the same numbers for every row."""
    values = pictures(*shape)
    return lambda rows, ids: {
        "pixel_values": values[list(rows)],
        **{name: torch.tensor([list(numbers)] * len(rows)) for name, numbers in beside.items()},
    }


def patches(count: int, size: int, grid: tuple[int, int, int], **more: Callable[[Tensor], Tensor]) -> Inputs:
    """Flattened patches ``[rows x count, size]`` and the grid of each picture, as Qwen2-VL takes them.

    Args:
        more: further inputs, made from the ids.
    """
    values = pictures(count, size)
    return lambda rows, ids: {
        "pixel_values": values[list(rows)].flatten(0, 1),
        "image_grid_thw": torch.tensor([grid] * len(rows)),
        **{name: make(ids) for name, make in more.items()},
    }


def picture_tokens(ids: Tensor) -> Tensor:
    """1 where the prompt has a token of a picture (mm_token_type_ids, token_type_ids)."""
    return (ids == IMAGE).int()
