"""The checks that one model type has to pass, each against the model itself without the library."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.conformance.between import still
from benchmarks.conformance.kinds import ROWS
from benchmarks.conformance.reference import cache_error, reference
from benchmarks.conformance.rounding import rounded_otherwise
from benchmarks.conformance.shrink import TEXT_IDS
from benchmarks.conformance.subject import Subject
from mutation_decode import Anatomy, Contrast, Detector, LogitLens, Mutations, Readout
from mutation_decode import MutationLogitsProcessor as Processor

NOISE = 1e-5
"""How far logits up to about 5 may be apart: the models' own noise between a prompt and single steps."""

UNEVEN = 1e-3
"""Where a model's own results differ by more, as prompts against steps, they are no measure of ours."""

TOKENS = 6
ALL = tuple(range(ROWS))


class CheckError(Exception):
    """What differs, and by how much."""


class AtRandom:
    """Leaves random blocks out of random rows and tokens."""

    always = True

    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(5)
        self.asked: list[Tensor] = []

    def readouts(self, depth: int) -> tuple[int, ...]:
        """It needs none of the layers."""
        return ()

    def skips(self, readout: Readout, mutations: Mutations) -> Tensor:
        """``[rows, L]`` three blocks in ten at three quarters of the tokens, and never all of them."""
        rows = readout.logits.shape[0]
        skips = torch.rand(rows, readout.depth, generator=self.random) < 0.3
        skips &= torch.rand(rows, 1, generator=self.random) < 0.75
        skips[:, 0] &= ~skips.all(dim=-1)
        self.asked.append(skips)
        return skips


def find_parts(subject: Subject) -> tuple[Anatomy, str]:
    """The parts of the model, and what they were found with. Raises: ValueError if they are refused."""
    try:
        return Anatomy.of(subject.model), ""
    except ValueError:
        return Anatomy.of(subject.model, subject.batch(0)), "parts found with an example input"


def picture_matters(subject: Subject) -> None:
    """The miniature itself: a model that does not look at its picture would test nothing with it."""
    inputs = subject.batch(0)
    ids = inputs.get("input_ids", torch.zeros(1, 1))
    if not subject.kind.inputs((0,), ids):
        return
    other = subject.batch(0) | subject.kind.inputs((1,), ids)
    settings = {
        "max_new_tokens": 1,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    with torch.no_grad():
        one, two = (subject.model.generate(**x, **settings).logits[0] for x in (inputs, other))
    if not (one - two).abs().max() > 1e-4:
        raise CheckError("its miniature gives the same logits for another picture")


def last_block(subject: Subject, parts: Anatomy) -> None:
    """The last block, finished, gives the model's own logits: for the prompt and three tokens after it."""
    states: list[Tensor] = []
    found: list[float] = []

    def keep(_block: Any, args: Any, kwargs: Any, output: Any) -> None:
        states.append(parts.states.left(parts.depth - 1, args, kwargs, output))

    def compare(_head: Any, _args: Any, output: Tensor) -> None:
        own = parts.head.forward(parts.finish(states[-1][:, -1:]))[:, -1]
        found.append(float((own - output[:, -1]).abs().max()))

    handles = [
        parts.blocks[-1].register_forward_hook(keep, with_kwargs=True),
        parts.head.register_forward_hook(compare),
    ]
    try:
        subject.generate(*ALL, max_new_tokens=4)
    finally:
        for handle in handles:
            handle.remove()
    if len(found) != 4:
        raise CheckError(
            f"generate runs {len(found)} forwards for 4 tokens: it makes no token after the other"
        )
    if not max(found) <= NOISE:
        raise CheckError(f"the last block read with the head is {max(found):.1g} off its own logits")


def readouts(subject: Subject, parts: Anatomy) -> None:
    """A readout is what the model itself says when all that comes after it is the identity.

    For the prompt and three tokens after it, where steps of the model agree with one forward at all.
    """
    numbers, own = (parts.depth // 2, parts.depth - 1), steps_error(subject, parts)
    lens = LogitLens(subject.model, readouts=numbers, anatomy=parts)
    with torch.no_grad(), lens, reading(parts, lens) as read:
        answers = subject.generate(*ALL, max_new_tokens=4).sequences[:, -4:]
    for at, number in enumerate(numbers):
        found = torch.stack([readout.logits[:, at] for readout in read], dim=1).float()
        after = (torch.arange(parts.depth) >= number).expand(*answers.shape, -1)
        with still(parts, number - 1):
            want = reference(subject, parts, ALL, answers, after).logits
        compared = 1 if own > UNEVEN else 4
        off = float((found - want)[:, :compared].abs().max())
        if not off <= NOISE + 2 * (own if own <= UNEVEN else 0):
            raise CheckError(f"readout {number} is {off:.1g} off what the model says without later blocks")


@contextmanager
def reading(parts: Anatomy, lens: LogitLens) -> Iterator[list[Readout]]:
    """The readouts of the forwards inside."""
    read: list[Readout] = []
    handle = parts.owner.register_forward_hook(lambda *_: read.append(lens.take()))
    try:
        yield read
    finally:
        handle.remove()


def hooked(subject: Subject, parts: Anatomy) -> None:
    """A processor that reads every layer and never acts leaves tokens and logits as they are."""
    plain = subject.generate(*ALL)
    for exact in (False, True):
        with Processor(
            subject.model,
            Contrast(alpha=0),
            detector=Detector(threshold=0.0),
            trace=True,
            exact=exact,
            anatomy=parts,
        ) as processor:
            out = subject.generate(*ALL, logits_processor=[processor])
        same(plain, out, "contrast with alpha 0", 0.0 if exact else NOISE)


def acts(subject: Subject, parts: Anatomy) -> None:
    """Contrast moves the scores of the tokens at which something fires, and of no others.

    That it moves them as its formula says is tested on families elsewhere.
    """
    with Processor(
        subject.model, Contrast(alpha=0), detector=Detector(threshold=0.0), trace=True, anatomy=parts
    ) as processor:
        subject.generate(*ALL, logits_processor=[processor])
    assert processor.trace is not None
    first = processor.trace.js[:, 0, list(Detector().blocks(parts.depth))].amax(dim=-1)
    half = Detector(threshold=float(first.median()))  # at the first token, one of the three rows is above it
    with Processor(
        subject.model, Contrast(alpha=5.0, beta=0.0), detector=half, trace=True, anatomy=parts
    ) as processor:
        out = subject.generate(*ALL, logits_processor=[processor], output_scores=True)
    assert processor.trace is not None
    fired = processor.trace.fired
    allowed = [token for token in TEXT_IDS if token < out.scores[0].shape[-1]]
    scores, logits = (torch.stack(each, dim=1)[..., allowed].float() for each in (out.scores, out.logits))
    moved = (scores != logits).any(dim=-1)
    if fired.all() or not fired.any():
        raise CheckError("a threshold between the rows fires for all tokens or for none")
    if not torch.equal(moved, fired):
        raise CheckError("contrast moves other scores than those of the tokens at which something fires")


def same(one: Any, other: Any, what: str, allowed: float) -> None:
    """Two results of generate. Raises: CheckError if they differ."""
    if not torch.equal(one.sequences, other.sequences):
        raise CheckError(f"{what} changes tokens")
    off = max(float((x - y).abs().max()) for x, y in zip(one.logits, other.logits, strict=True))
    if not off <= allowed:
        raise CheckError(f"{what} moves logits by {off:.1g}")


def alone(subject: Subject, parts: Anatomy) -> str:
    """A row decodes the same alone and in a left-padded batch.

    Returns: a note where plain generate itself does not; there it was not compared.
    """
    batch = subject.generate(*ALL)
    plain = [_beside_others(subject, row, batch) for row in ALL]
    if max(plain) > UNEVEN:
        row = plain.index(max(plain))
        return (
            f"rows alone were not compared with a batch: plain generate itself gives row {row} other logits "
            f"there (by {plain[row]:.1g})"
        )
    with Processor(subject.model, Contrast(), detector=Detector(threshold=0.0), anatomy=parts) as processor:
        batch = subject.generate(*ALL, logits_processor=[processor])
        for row in ALL:
            off = _beside_others(subject, row, batch, logits_processor=[processor])
            if off <= NOISE + 2 * max(plain):
                continue
            # Of the model itself, on these other tokens.
            answers = batch.sequences[:, -TOKENS:]
            none = torch.zeros(*answers.shape, parts.depth, dtype=torch.bool)
            one = reference(subject, parts, (row,), answers[row : row + 1], none[row : row + 1]).logits[0]
            own = float((reference(subject, parts, ALL, answers, none).logits[row] - one).abs().max())
            if own > UNEVEN or not off <= NOISE + 10 * own:
                raise CheckError(f"row {row} has other logits in a batch than alone (by {off:.1g})")
    return ""


def _beside_others(subject: Subject, row: int, batch: Any, **arguments: Any) -> float:
    """How far the logits of a row alone are from those that it has in a batch."""
    single = subject.generate(row, **arguments)
    return max(float((x[row] - y[0]).abs().max()) for x, y in zip(batch.logits, single.logits, strict=True))


def skip(subject: Subject, parts: Anatomy) -> str:
    """Random blocks left out of random rows and tokens, against one forward from scratch.

    Returns: notes where the first token is left alone, and where the rows had to be.
    """
    notes = []
    try:
        at_first = [_skip(subject, parts, ALL)]
    except CheckError:
        own = steps_error(subject, parts)
        if own <= UNEVEN:
            raise
        notes.append(
            f"plain steps themselves are {own:.1g} off one forward in a padded batch; alone, rows skip"
        )
        at_first = [_skip(subject, parts, (row,)) for row in ALL]
    if not any(at_first):
        notes.append("skip leaves the first token alone")
    return "; ".join(notes)


def steps_error(subject: Subject, parts: Anatomy) -> float:
    """How far the logits of plain steps in a padded batch are from those of one forward."""
    out = subject.generate(*ALL)
    answers = out.sequences[:, -TOKENS:]
    none = torch.zeros(*answers.shape, parts.depth, dtype=torch.bool)
    whole = reference(subject, parts, ALL, answers, none).logits
    return float((torch.stack(out.logits, dim=1).float() - whole).abs().max())


def _skip(subject: Subject, parts: Anatomy, rows: Sequence[int]) -> bool:
    """Whether the first token has blocks left out too. Raises: CheckError if something is wrong."""
    asks = AtRandom()
    with Processor(subject.model, asks, detector=None, trace=True, anatomy=parts) as processor:
        out = subject.generate(*rows, logits_processor=[processor])
    assert processor.trace is not None
    answers, skipped = processor.trace.tokens, processor.trace.skipped
    asked = torch.stack(asks.asked[-TOKENS:], dim=1)
    if not torch.equal(skipped[:, 1:], asked[:, 1:]) or not asked[:, 1:].any():
        raise CheckError("other blocks are left out than the strategy asks for")
    want = reference(subject, parts, rows, answers, skipped)
    plain = reference(subject, parts, rows, answers, torch.zeros_like(skipped))
    logits = torch.stack(out.logits, dim=1).float()
    off, moved = (logits - want.logits).abs().max(), (plain.logits - want.logits).abs().max()
    noise = [(torch.stack(subject.generate(*rows).logits, dim=1)[:, 0] - plain.logits[:, 0]).abs().max()]
    in_cache = [0.0]
    for seed in range(3):
        with rounded_otherwise(parts, seed):
            other = reference(subject, parts, rows, answers, skipped)
        noise.append((other.logits - want.logits).abs().max())
        in_cache.append(cache_error(other.held, want))
    allowed = NOISE + float(max(noise))
    if not off <= allowed:
        raise CheckError(f"skip is {off:.1g} off a forward from scratch without those blocks")
    if not moved > max(1e-3, 100 * allowed):
        raise CheckError(
            f"leaving blocks out moves logits by {moved:.1g} at most and rounding by {allowed:.1g}, so that "
            f"nothing was tested"
        )
    wrong = cache_error(out.past_key_values, want)
    if not wrong <= NOISE + max(in_cache):
        raise CheckError(f"after skip the cache is {wrong:.1g} off that of a forward without those blocks")
    return bool(skipped[:, 0].any())


def closed(subject: Subject, before: Any) -> None:
    """Afterwards generate is that of the untouched model, bit for bit, and no hook is left."""
    same(before, subject.generate(*ALL), "a processor that was closed", 0.0)
    left = [
        name
        for name, module in subject.model.named_modules()
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        if hook.__module__.startswith("mutation_decode")
    ]
    if left or "generate" in vars(subject.model):
        raise CheckError(f"something is left on the model: {', '.join(left) or 'generate'}")
