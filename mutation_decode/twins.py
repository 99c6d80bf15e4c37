"""Twins: the same prompts without their images, as more rows of the same batch.

What a model would say of the same words, had it not seen the image, comes out of the same forwards. The
image is not taken out of the inputs, whose layout differs from model to model, but out of sight: in a twin's
attention mask its tokens are masked. The rows come first and their twins after them, so that everything can
be doubled as it is, pictures that are cut into patches and strung together included.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import FloatTensor, LongTensor, Tensor, nn
from transformers import Cache, EncoderDecoderCache, GenerationConfig, GenerationMixin, LogitsProcessor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation.streamers import BaseStreamer
from transformers.utils import ModelOutput

from .agreement import apart

BY_HAND = "or give the twins yourself with twins=: the same prompts with a blank picture, for example"


def with_twins(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    image_tokens: int | Sequence[int] | None = None,
    twins: Mapping[str, Any] | None = None,
    check: bool = True,
) -> dict[str, Any]:
    """Inputs of generate for B prompts and their twins: rows 0..B-1, and then row B + r, the twin of row r.

    In a twin the tokens of images and videos are masked out of `attention_mask`: nothing sees them, nor what
    stands in their place, and text counts its positions as if they were not there.

    Args:
        model: the transformers model that will be given the inputs.
        inputs: what its processor or tokenizer returns, `input_ids` and a 2-D `attention_mask` among it, left
            padded. Settings of generate may stand beside; they stay as they are.
        image_tokens: the ids that stand for images in `input_ids`; None for those that the model's
            configuration names.
        twins: the twins themselves, instead: inputs of as many rows, `input_ids` and `attention_mask` of the
            same shape, such as `{**inputs, "pixel_values": blank}`. What they leave out they do not have.
        check: try whether the twins see the image all the same, as where it comes in by cross-attention: one
            forward of them, and of them with a negative of the image.

    Raises:
        ValueError: if the image cannot be masked, or `check` finds that it is seen all the same.

    Example:
        both = with_twins(model, inputs)
        logits = model(**both).logits[:, -1]
        js_divergence(*logits.chunk(2))       # [B], how much each next token owes to the image, nats
    """
    if twins is None:
        twins = _unseen(model, inputs, image_tokens)
        if check:
            _refuse_if_seen(model, twins)
    else:
        _refuse_if_unlike(inputs, twins)
    return _doubled(inputs, twins)


def _unseen(
    model: nn.Module, inputs: Mapping[str, Any], image_tokens: int | Sequence[int] | None
) -> dict[str, Any]:
    """The inputs with their images masked."""
    name, config = type(model).__name__, getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{name} reads its image with an encoder, where no mask of the text hides it; give the twins "
            f"yourself with twins=, the same prompts with a blank picture, for example."
        )
    ids, mask = _ids(inputs), inputs.get("attention_mask")
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.dtype.is_floating_point:
        raise ValueError(
            f"the image is found by its tokens in input_ids [rows, tokens], and there are none; pass them, "
            f"{BY_HAND}."
        )
    if not isinstance(mask, Tensor) or mask.shape != ids.shape:
        got = f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else "none"
        raise ValueError(
            f"twins mask the image in attention_mask, of the shape of input_ids, {tuple(ids.shape)}; got "
            f"{got}. Pass the one that the processor or tokenizer returns."
        )
    tokens = _image_tokens(config) if image_tokens is None else torch.as_tensor(image_tokens).reshape(-1)
    image = torch.isin(ids, tokens.to(ids.device))
    blind = (~image.any(dim=1)).nonzero().flatten().tolist()
    if blind:
        raise ValueError(
            f"row {blind[0]} of input_ids holds none of the image tokens {tokens.tolist()} of {name}, so "
            f"there is no twin without the image; say with image_tokens= which they are, {BY_HAND}."
        )
    if bool(image[:, -1].any()):
        raise ValueError(
            f"a prompt that ends in its image leaves its twin nothing to go on from; put text after it, "
            f"{BY_HAND}."
        )
    return {**inputs, "attention_mask": mask.masked_fill(image.to(mask.device), 0)}


def _ids(inputs: Mapping[str, Any]) -> Any:
    return inputs.get("input_ids", inputs.get("inputs"))


def _image_tokens(config: Any) -> Tensor:
    names = [f"{kind}_token_{end}" for kind in ("image", "video") for end in ("id", "index")]
    found = {getattr(config, name, None) for name in names}
    return torch.tensor(sorted(token for token in found if isinstance(token, int)), dtype=torch.long)


def _refuse_if_unlike(inputs: Mapping[str, Any], twins: Mapping[str, Any]) -> None:
    for name, one, other in (
        ("input_ids", _ids(inputs), _ids(twins)),
        ("attention_mask", inputs.get("attention_mask"), twins.get("attention_mask")),
    ):
        shapes = [tuple(each.shape) if isinstance(each, Tensor) else None for each in (one, other)]
        if shapes[0] is None or shapes[0] != shapes[1]:
            raise ValueError(
                f"rows and twins need {name} of one shape, got {shapes[0]} and {shapes[1]}; pad the shorter "
                f"ones on the left."
            )


def _doubled(rows: Mapping[str, Any], twins: Mapping[str, Any]) -> dict[str, Any]:
    settings = _settings()
    both = dict(rows)
    for name, value in rows.items():
        if isinstance(value, Cache | ModelOutput):
            raise ValueError(
                f"{name} holds what was computed for the rows and not for their twins; leave it out."
            )
        other = twins.get(name)
        if name in settings or other is None:
            continue
        if isinstance(value, Tensor) and value.dim() > 0:
            # Positions of several axes are [axes, rows, tokens].
            both[name] = torch.cat([value, other], dim=int(name == "position_ids" and value.dim() == 3))
        elif isinstance(value, list | tuple):
            both[name] = [*value, *other]
    return both


def _settings() -> set[str]:
    """Names of what generate takes beside inputs."""
    return {*vars(GenerationConfig()), *inspect.signature(GenerationMixin.generate).parameters} - {"inputs"}


def _refuse_if_seen(model: nn.Module, twins: Mapping[str, Any]) -> None:
    settings = _settings()
    inputs = {name: value for name, value in twins.items() if name not in settings}
    negative = {name: value if "mask" in name else _negative(value) for name, value in inputs.items()}
    with torch.no_grad():
        output = model.generate(  # type: ignore[operator]
            **_doubled(inputs, negative),
            max_new_tokens=1,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
    off, allowed = apart(*output.logits[0].chunk(2))
    if not off <= allowed:
        raise ValueError(
            f"{type(model).__name__}: where the image tokens are masked, its logits depend on the image all "
            f"the same, by {off:.3g} (allowed {allowed:.3g}), as where it comes in by cross-attention; name "
            f"other tokens with image_tokens=, {BY_HAND}."
        )


def _negative(value: Any) -> Any:
    if isinstance(value, Tensor):
        return -value if value.dtype.is_floating_point else value
    return [_negative(item) for item in value] if isinstance(value, list | tuple) else value


# Inside a generate call.


def add_twins(arguments: dict[str, Any], model: nn.Module, *, check: bool) -> int:
    """Puts twins beside the rows of a generate call, and the rows' scores into their place at every token.

    Args:
        arguments: of the call; changed in place. `twins` among them are the ones to use.
        check: see `with_twins`.

    Returns:
        How many rows there were.

    Raises:
        ValueError: see `with_twins`.
    """
    twins = arguments.pop("twins", None)
    arguments.update(with_twins(model, arguments, twins=twins, check=check))
    rows = len(_ids(arguments)) // 2
    arguments["logits_processor"] = [*(arguments.get("logits_processor") or ()), _HandsOn(rows)]
    if (streamer := arguments.get("streamer")) is not None:
        arguments["streamer"] = _OfTheRows(streamer, rows)
    if (allowed := arguments.get("prefix_allowed_tokens_fn")) is not None:
        arguments["prefix_allowed_tokens_fn"] = lambda row, ids: allowed(row % rows, ids)
    return rows


def first_rows(output: Any, rows: int) -> Any:
    """What generate returned, without the rows of the twins: a tensor, or an object that holds some.

    A cache that does not come apart by rows, such as a static one, is left out: None.
    """
    if isinstance(output, Cache):
        if not _comes_apart(output):
            return None
        output.batch_select_indices(torch.arange(rows))
        return output
    if isinstance(output, Tensor):
        return output[:rows] if output.dim() > 0 else output
    if isinstance(output, Mapping):
        return type(output)(**{name: first_rows(value, rows) for name, value in output.items()})
    if isinstance(output, tuple | list):
        return type(output)(first_rows(item, rows) for item in output)
    return output


def _comes_apart(cache: Cache) -> bool:
    """Whether its layers hold nothing but keys and values of rows: quantised ones and states keep more."""
    both = isinstance(cache, EncoderDecoderCache)
    parts = (cache.self_attention_cache, cache.cross_attention_cache) if both else (cache,)
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return all(type(layer) in plain for part in parts for layer in part.layers)


class _HandsOn(LogitsProcessor):
    """Stands last: a twin is handed the scores of its row, and so takes the same token."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        return torch.cat([scores[: self._rows]] * 2)  # type: ignore[return-value]


class _OfTheRows(BaseStreamer):
    """Hands on to a streamer what becomes of the rows."""

    def __init__(self, streamer: BaseStreamer, rows: int) -> None:
        self._streamer, self._rows = streamer, rows

    def put(self, value: Tensor) -> None:
        self._streamer.put(value[: self._rows])

    def end(self) -> None:
        self._streamer.end()
