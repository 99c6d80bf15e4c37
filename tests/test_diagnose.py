"""Where a prior enters, without labels: by hand on made-up tokens, and against forwards made one by one."""

import json
from typing import Any

import more_families as more
import pytest
import torch
from families import IMAGE, Family, build, gemma3, llava, ours_on, qwen2_5_vl
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from mutation_decode import Diagnosis, LogitLens, diagnose
from mutation_decode.diagnose import _concluded


def words(family: Family, *rows: int, suffix: Tensor) -> dict[str, Tensor]:
    """The prompts without their image, and what was answered so far."""
    text = [[token for token in prompt if token != IMAGE] for prompt in family.prompts]
    return Family(family.name, family.model, text).batch(*rows, suffix=suffix)


def conclusion(curve: list[float], *, answers: int = 20, noise: float = 0.0) -> Diagnosis:
    """From three tokens an answer with this dependence at every readout."""
    spread = (
        noise
        * torch.linspace(-1, 1, 3 * answers)[
            torch.randperm(3 * answers, generator=torch.Generator().manual_seed(0))
        ]
    )
    found = torch.tensor(curve).repeat(3 * answers, 1)
    found[:, -1] += spread
    answer = torch.arange(answers).repeat_interleave(3)
    return _concluded(found, torch.zeros_like(found), answer, answers, threshold=0.05, margin=0.02)


@pytest.mark.parametrize(
    ("curve", "noise", "verdict", "peak", "turn", "fall"),
    [
        ([0.0, 0.1, 0.5, 0.4], 0.0, "late", 2, 2, 0.1),
        ([0.0, 0.5, 0.3, 0.4], 0.0, "late", 1, 1, 0.1),
        ([0.0, 0.1, 0.2, 0.4], 0.0, "early", 3, 2, -0.2),
        ([0.0, 0.1, 0.41, 0.4], 0.0, "early", 2, 2, 0.01),  # less than the margin
        ([0.0, 0.1, 0.43, 0.4], 0.5, "none", 2, 2, 0.03),  # it cannot be told
        ([0.0, 0.01, 0.04, 0.01], 0.0, "none", 0, 0, 0.0),  # no token depends on the image
    ],
)
def test_verdicts_by_hand(
    curve: list[float], noise: float, verdict: str, peak: int, turn: int, fall: float
) -> None:
    found = conclusion(curve, noise=noise)
    assert (found.verdict, found.peak, found.turn) == (verdict, peak, turn)
    assert found.fall == pytest.approx(fall, abs=1e-6)
    assert found.interval[0] - 1e-6 <= found.fall <= found.interval[1] + 1e-6
    assert str(found).startswith(verdict)
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_few_answers_conclude_nothing() -> None:
    assert conclusion([0.0, 0.1, 0.5, 0.4], answers=9).verdict == "none"
    assert conclusion([0.0, 0.1, 0.5, 0.4], answers=10).verdict == "late"


def test_shares_and_counts_by_hand() -> None:
    found = torch.tensor([[0.0, 0.5, 0.1], [0.0, 0.3, 0.29], [0.0, 0.4, 0.6], [0.0, 0.01, 0.02]])
    text = torch.tensor([[0.6, 0.5, 0.1], [0.6, 0.2, 0.29], [0.6, 0.6, 0.59], [0.6, 0.5, 0.0]])
    told = _concluded(found, text, torch.tensor([0, 0, 1, 1]), 2, threshold=0.05, margin=0.02)
    assert (told.tokens, told.dependent, told.answers) == (4, 3, 2)
    assert told.dependence == pytest.approx((0.0, 0.4, 0.33))
    assert told.falling == pytest.approx(1 / 3)  # the second one falls by less than the margin
    assert told.toward_text == pytest.approx(1 / 3)
    assert told.toward_image == pytest.approx(1 / 3)
    assert told.fall == pytest.approx(0.07)
    # the mean of one answer or of both, each with its tokens
    assert told.interval == pytest.approx((-0.2, 0.205), abs=1e-6)


@pytest.mark.parametrize("norm", [True, False], ids=["", "raw"])
@pytest.mark.parametrize("make", [llava, qwen2_5_vl], ids=lambda make: make.__name__)
def test_the_dependence_is_the_divergence_between_two_forwards(make: Any, norm: bool) -> None:
    """One with the image, one of the words alone, token by token; scipy says how far they lie apart."""
    family = build(make)
    batches = [family.batch(0, 1, 2), family.batch(1)]
    told = diagnose(family.model, batches, max_new_tokens=6, threshold=0.0, norm=norm)
    assert (told.tokens, told.answers) == (24, 4)
    total = torch.zeros(9, dtype=torch.double)
    nearer = []
    with torch.no_grad(), LogitLens(family.model, norm=norm) as lens:
        for rows in ((0, 1, 2), (1,)):
            plain = family.answers(*rows, max_new_tokens=6)
            for t in range(6):
                both = []
                for inputs in (
                    family.batch(*rows, suffix=plain[:, :t]),
                    words(family, *rows, suffix=plain[:, :t]),
                ):
                    family.model(**inputs)
                    both.append(lens.take().logits.double().softmax(-1))
                total += torch.from_numpy(jensenshannon(*both, axis=-1) ** 2).nan_to_num().sum(dim=0)
                last = jensenshannon(both[0], both[1][:, -1:].expand_as(both[1]), axis=-1) ** 2
                nearer.append(torch.from_numpy(last[:, told.turn] - last[:, -1]))
    torch.testing.assert_close(torch.tensor(told.dependence), (total / 24).float(), atol=1e-4, rtol=1e-3)
    moved = torch.cat(nearer)
    counted = round(told.dependent * told.toward_text), round(told.dependent * told.toward_image)
    assert counted == (int((moved > 0.02).sum()), int((moved < -0.02).sum()))
    assert "generate" not in family.model.__dict__
    assert ours_on(family.model) == []


def test_answers_count_across_batches(one: Family) -> None:
    """Ten times the same answer: nothing is uncertain, and ten are enough."""
    told = diagnose(one.model, [one.batch(0)] * 10, max_new_tokens=2)
    assert told.verdict != "none"
    assert told.interval == pytest.approx((told.fall, told.fall), abs=1e-5)


def test_tokens_after_an_end_do_not_count(one: Family) -> None:
    free = one.answers(0, 1, 2)
    end = int(free[0, 3])
    model = one.model
    model.generation_config.eos_token_id = end
    try:
        lengths = [(row == end).nonzero()[0].item() + 1 if end in row else 10 for row in free]
        told = diagnose(model, [one.batch(0, 1, 2)], max_new_tokens=10, threshold=0.0)
    finally:
        model.generation_config.eos_token_id = None
    assert told.tokens == sum(lengths) < 30


def test_twins_by_hand_and_what_is_refused(one: Family) -> None:
    def blank(inputs: Any) -> dict[str, Any]:
        return {**inputs, "pixel_values": torch.zeros_like(inputs["pixel_values"])}

    masked = diagnose(one.model, [one.batch(0, 1)], max_new_tokens=3)
    blanked = diagnose(one.model, [one.batch(0, 1)], max_new_tokens=3, twins=blank)
    assert masked.tokens == blanked.tokens == 6
    assert masked.dependence != blanked.dependence
    nothing = diagnose(one.model, [one.batch(0, 1)], max_new_tokens=3, twins=lambda inputs: inputs)
    assert (nothing.verdict, nothing.dependent) == ("none", 0)
    assert str(nothing).startswith("none: no token depends on the image.\n0 of 6 tokens in 2 answers")
    with pytest.raises(ValueError, match=r"there are no batches to diagnose from; pass inputs of generate"):
        diagnose(one.model, [])
    family = more.mild(more.mllama)
    with pytest.raises(ValueError, match="depend on the image all the same"):
        diagnose(family.model, [family.batch(0)])
    assert diagnose(family.model, [family.batch(0)], max_new_tokens=2, twins=blank).tokens == 2


def test_settings_of_the_batch_and_of_the_model_do_not_matter() -> None:
    family = build(gemma3)
    plain = diagnose(family.model, [family.batch(0, 1)], max_new_tokens=4)
    family.model.generation_config.do_sample = True
    family.model.generation_config.num_beams = 2
    sampled = diagnose(family.model, [{**family.batch(0, 1), "do_sample": True}], max_new_tokens=4)
    assert sampled == plain
