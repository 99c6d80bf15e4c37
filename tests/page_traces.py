"""Traces and pages for the tests of pages: real answers, and made-up ones of any length."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from families import Family

from mutation_decode import Contrast, MutationLogitsProcessor, Record, Skip, Trace

UNTOUCHED = Contrast(alpha=0.0, layer=0, always=True)
ODD = "<b onclick=\"x('y')\">&amp;</script><script>alert(1)</script>"


class Words:
    """A tokenizer of words, one of which is all that a page must not read as HTML."""

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return " ".join(ODD if each % 7 == 0 else f"w{each}" for each in ids)


def traced(family: Family, strategy: Any, detector: Any, record: Any = None) -> Trace:
    """Ten real tokens of the first prompt."""
    record = Record(top=5) if record is None else record
    with MutationLogitsProcessor(family.model, strategy, detector=detector, trace=record) as processor:
        family.generate(0, logits_processor=[processor])
        assert processor.trace is not None
        return processor.trace.named(Words())


def real_answers(one: Family) -> Mapping[str, Trace]:
    """Three answers to one prompt of a random model: as it is, contrasted, and with blocks left out."""
    answers = {"greedy": traced(one, UNTOUCHED, None)}
    for name, strategy in (("contrast", Contrast(alpha=1.5, beta=0.02)), ("skip", Skip())):
        answers[name] = traced(one, strategy, one.detector)
    assert answers["contrast"].fired.any()
    assert answers["skip"].skipped.any()
    return answers


def made_up(tokens: int, *, texts: tuple[str, ...] = (), depth: int = 32, top: int = 5) -> Trace:
    """An answer of any length, of numbers that a large model could have given; or these texts."""
    random = torch.Generator().manual_seed(tokens)
    ids = torch.randint(0, 3000, (1, tokens), generator=random)
    if texts:
        ids = torch.arange(tokens)[None]
    probs = torch.rand(1, tokens, depth + 1, top, generator=random).softmax(-1).sort(-1, True).values
    likeliest = torch.randint(0, 3000, (1, tokens, depth + 1, top), generator=random)
    likeliest[..., 1] = ids[..., None]
    mutated = torch.zeros(1, tokens, depth, dtype=torch.bool)
    mutated[:, ::5, depth - 4] = True
    names = {i: texts[i] if i < len(texts) else f" {i:x}" for i in range(3000)}
    return Trace(
        tokens=ids,
        generated=torch.ones(1, tokens, dtype=torch.bool),
        js=0.69 * torch.rand(1, tokens, depth, generator=random) ** 8,
        critical=torch.full((1, tokens), 18),
        pre_mutation=torch.where(mutated.any(-1), depth - 4, depth),
        mutated=mutated,
        skipped=torch.zeros_like(mutated),
        fired=mutated.any(-1),
        acted=mutated.any(-1),
        watched=(18, depth - 1),
        prob=probs[..., 1].clone(),
        top_ids=likeliest,
        top_probs=probs,
        after_ids=likeliest[:, :, -1].clone(),
        after_probs=probs[:, :, -1].clone(),
        texts=(tuple(names[i] for i in ids[0].tolist()),),
        names=names,
    )


def written(folder: Path, answers: Mapping[str, Trace], **options: Any) -> Path:
    from mutation_decode import page  # where the page cannot be written, its tests are skipped

    path = folder / "page.html"
    page.write(path, answers, **{"prompt": "What is there?", **options})
    return path
