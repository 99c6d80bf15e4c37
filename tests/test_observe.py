"""Answers that are watched while they are made: against forwards of the lens on the same prefixes."""

import numpy as np
import pytest
import torch
from families import Family, llava
from scipy.stats import entropy

from mutation_decode import LogitLens
from mutation_decode.observe import Observation, observe


def check(family: Family, rows: tuple[int, ...], seen: list[Observation]) -> None:
    """Everything noted is what a lens reads in a forward of the prompt and what was emitted so far."""
    tokens = torch.tensor([one.tokens.tolist() for one in seen])
    with torch.no_grad(), LogitLens(family.model) as lens:
        for t in range(tokens.shape[1]):
            family.model(**family.batch(*rows, suffix=tokens[:, :t]))
            readout = lens.take()
            js = readout.js()
            for row, one in enumerate(seen):
                told = torch.stack([readout.log_probs(index)[row] for index in readout.indices])
                assert one.leaders[t].tolist() == told.argmax(-1).tolist()
                said = told[:, tokens[row, t]]
                assert torch.allclose(torch.from_numpy(one.log_probs[t]), said, atol=1e-3, rtol=1e-3)
                assert torch.allclose(torch.from_numpy(one.js[t]), js[row], atol=1e-4)
                final = told[-1].double().exp()
                assert one.entropy[t] == pytest.approx(entropy(final / final.sum()), abs=1e-3)
                assert one.max_prob[t] == pytest.approx(float(final.max()), abs=1e-3)


def test_greedy_answers_are_those_of_plain_generate_and_what_is_noted_is_what_the_lens_reads(
    plain_family: Family,
) -> None:
    seen = observe(plain_family.model, plain_family.batch(0, 1, 2), max_new_tokens=6)
    plain = plain_family.answers(0, 1, 2, max_new_tokens=6)
    assert [one.tokens.tolist() for one in seen] == plain.tolist()
    assert {one.depth for one in seen} == {8}
    never = plain_family.model.generation_config.suppress_tokens
    assert all(
        ((one.leaders[:, -1] == one.tokens) | np.isin(one.leaders[:, -1], never)).all() for one in seen
    )
    check(plain_family, (0, 1, 2), seen)


def test_captions_are_forced_and_measured_as_they_stand(one: Family) -> None:
    captions = [[50, 51, 52, 53], [60, 61, 62, 63]]
    seen = observe(one.model, one.batch(2, 0), captions=captions, max_new_tokens=1)
    assert [each.tokens.tolist() for each in seen] == captions
    assert not any((each.leaders[:, -1] == each.tokens).all() for each in seen)
    check(one, (2, 0), seen)


def test_shorter_captions_end_where_they_end_and_disturb_no_other_row(one: Family) -> None:
    alone = observe(one.model, one.batch(1), captions=[[60, 61, 62, 63]])[0]
    short, beside = observe(one.model, one.batch(0, 1), captions=[[50], [60, 61, 62, 63]])
    assert short.tokens.tolist() == [50]
    assert short.js.shape == (1, 8)
    assert beside.tokens.tolist() == alone.tokens.tolist()
    assert torch.allclose(torch.from_numpy(beside.js), torch.from_numpy(alone.js), atol=1e-5)


def test_a_row_ends_with_its_end_token() -> None:
    family = llava()
    torch.manual_seed(0)
    plain = family.answers(0, 1, 2)
    end = int(plain[0, 3])
    family.model.generation_config.eos_token_id = end
    family.model.generation_config.pad_token_id = 0
    seen = observe(family.model, family.batch(0, 1, 2), max_new_tokens=10)
    for row, one in enumerate(seen):
        answer = plain[row].tolist()
        assert one.tokens.tolist() == (answer[: answer.index(end) + 1] if end in answer else answer)
        assert len(one.js) == len(one.entropy) == len(one.leaders) == len(one.tokens)


def test_captions_that_do_not_fit_are_refused(one: Family) -> None:
    with pytest.raises(ValueError, match="an empty caption cannot be measured; leave it out"):
        observe(one.model, one.batch(0), captions=[[]])
    with pytest.raises(ValueError, match="a caption for each row: 2 rows, 1 captions"):
        observe(one.model, one.batch(0, 1), captions=[[5]])


@pytest.mark.parametrize("end", [50, [7, 50]])
def test_a_caption_goes_no_further_than_an_end_token(end: int | list[int]) -> None:
    family = llava()
    family.model.generation_config.eos_token_id = end
    family.model.generation_config.pad_token_id = 0
    with pytest.raises(ValueError, match=r"the token 50, which ends an answer, before its end.* Take it out"):
        observe(family.model, family.batch(0, 1), captions=[[62, 50, 63], [60, 61, 64]])
    ended, beside = observe(family.model, family.batch(0, 1), captions=[[62, 50], [60, 61, 64]])
    assert (ended.tokens.tolist(), beside.tokens.tolist()) == ([62, 50], [60, 61, 64])
