"""What cannot work is refused before a token is made, with the reason and the way out."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .anatomy import Anatomy
from .detection import Detector
from .gate import Gate
from .intercept import GenerateCall


def refuse_if_impossible(call: GenerateCall, *, for_tokens: bool, with_twins: bool) -> None:
    """Looks at the arguments of a generate call that uses a processor.

    Args:
        for_tokens: whether blocks are to be left out of the forwards of single tokens.
        with_twins: whether the same prompts without their images are to be decoded beside them.

    Raises:
        ValueError: if layers could not be read, scores would not be asked for, blocks could not be left out,
            or twins would go their own ways, in a call of this kind.
    """
    reasons = REASONS | (REASONS_AGAINST_SKIP if for_tokens else {})
    for reason, holds in (reasons | (REASONS_AGAINST_TWINS if with_twins else {})).items():
        if holds(call):
            raise ValueError(reason)


def refuse_other_types(**given: Any) -> None:
    """Raises: TypeError, naming the first argument that is not what its name says."""
    strategy = given["strategy"]
    lacking = [name for name in ("always", "readouts") if not hasattr(strategy, name)]
    if isinstance(strategy, type) or lacking or not (callable(strategy) or hasattr(strategy, "skips")):
        raise TypeError(
            f"expected a strategy, such as Contrast() or Skip(), or an object with always, readouts(depth) "
            f"and a call; got {strategy!r}."
        )
    for name, kind in (("detector", Detector), ("gate", Gate), ("anatomy", Anatomy)):
        if given[name] is not None and not isinstance(given[name], kind):
            raise TypeError(f"{name}: expected {kind.__name__} or None, got {type(given[name]).__name__}.")


def _given(*names: str) -> Callable[[GenerateCall], bool]:
    return lambda call: any(call.setting(name) is not None for name in names)


def _paged(call: GenerateCall) -> bool:
    return bool(call.setting("cache_implementation") == "paged")


def _several(call: GenerateCall) -> bool:
    # As generate has it: 0 is a number of tokens, or a layer.
    return bool(call.setting("use_mtp")) or _given(
        "assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit"
    )(call)


def _elsewhere(call: GenerateCall) -> bool:
    searching = (call.setting("penalty_alpha") or 0) > 0 and not call.setting("do_sample")
    return searching or (call.setting("num_beam_groups") or 1) > 1 or call.setting("dola_layers") is not None


def _guided(call: GenerateCall) -> bool:
    return call.setting("guidance_scale") not in (None, 1)


def _drawn_or_searched(call: GenerateCall) -> bool:
    several = (call.setting(name) or 1 for name in ("num_beams", "num_return_sequences"))
    return bool(call.setting("do_sample")) or any(number > 1 for number in several)


def _without_cache(call: GenerateCall) -> bool:
    return call.setting("use_cache") is False


def _offloaded(call: GenerateCall) -> bool:
    return str(call.setting("cache_implementation")).startswith("offloaded")


def _right_padded(call: GenerateCall) -> bool:
    if getattr(getattr(call.model, "config", None), "is_encoder_decoder", False):
        return False  # the mask is the encoder's; the decoder starts from one token
    mask = call.arguments.get("attention_mask")
    if isinstance(mask, Tensor):
        return mask.dim() == 2 and bool((mask[:, -1] == 0).any())
    # Without a mask generate masks padding tokens, unless they are end tokens too.
    ids: Any = call.arguments.get("input_ids", call.arguments.get("inputs"))
    pad, ends = call.setting("pad_token_id"), end_tokens(call)
    if pad is None or not isinstance(ids, Tensor) or ids.dim() != 2 or ids.dtype.is_floating_point:
        return False
    return int(pad) not in ends.tolist() and bool((ids[:, -1] == int(pad)).any())


def end_tokens(call: GenerateCall) -> Tensor:
    """The ids that end a row, `[any]`, on the CPU."""
    end = call.setting("eos_token_id")
    return torch.as_tensor([] if end is None else end, dtype=torch.long).cpu().reshape(-1)


REASONS: dict[str, Callable[[GenerateCall], bool]] = {
    "continuous batching (cache_implementation='paged') ignores logits processors, so the method would not "
    "be in effect; leave cache_implementation out.": _paged,
    "assisted and prompt-lookup decoding make several tokens from one forward, and the layers of one "
    "position only are read; leave out assistant_model, prompt_lookup_num_tokens, assistant_early_exit and "
    "use_mtp.": _several,
    "contrastive search, DoLa and groups of beams, no longer transformers' own (it loads them from the hub), "
    "ask several times about one forward or mix layers themselves; leave out penalty_alpha, dola_layers and "
    "num_beam_groups.": _elsewhere,
    "classifier-free guidance (guidance_scale) mixes in a second forward before any logits processor is "
    "asked, so the layers no longer explain the scores; leave guidance_scale out.": _guided,
    "a row of attention_mask ends in padding: the last position of that row predicts nothing. Pad on the "
    "left (tokenizer.padding_side = 'left').": _right_padded,
}

REASONS_AGAINST_SKIP: dict[str, Callable[[GenerateCall], bool]] = {
    "without a KV cache (use_cache=False) every later forward would read the token anew, and not skip there; "
    "pass use_cache=True, or use Contrast.": _without_cache,
    "an offloaded cache moves a block's keys away when it has run, and Skip may run it a second time; "
    "leave cache_implementation out, or use Contrast.": _offloaded,
    "prompts in pieces (prefill_chunk_size) end in positions that predict nothing, and Skip would act "
    "there; leave prefill_chunk_size out, or use Contrast.": _given("prefill_chunk_size"),
}

REASONS_AGAINST_TWINS: dict[str, Callable[[GenerateCall], bool]] = {
    "a gate with toward= decodes every prompt with its image and without, and both have to take the same "
    "tokens, which only greedy decoding does; pass do_sample=False, num_beams=1 and num_return_sequences=1, "
    "or leave toward out.": _drawn_or_searched,
    "a gate with toward= decodes every prompt with its image and without, and past_key_values begins without "
    "the second; leave past_key_values out, or toward.": _given("past_key_values"),
}
