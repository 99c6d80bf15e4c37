"""The layer-wise baselines in generate: beams, sampling, and whole runs of their YAMLs."""

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText

from benchmarks.baselines import CALRD, SLED, Confident, DeCo, DoLa, EarlyExit
from mutation_decode import MutationLogitsProcessor

METHODS = [EarlyExit(0.75), DoLa(), DeCo(), SLED(), Confident(), CALRD()]
PROMPTS = torch.tensor([[5, 6, 7], [8, 9, 10]])


@pytest.fixture(scope="module")
def model(checkpoint):
    return AutoModelForImageTextToText.from_pretrained(checkpoint).eval()


def generate(model, method, **how):
    how = {"max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None, **how}
    with MutationLogitsProcessor(model, method, detector=None) as processor:
        return model.generate(
            PROMPTS,
            logits_processor=[processor],
            return_dict_in_generate=True,
            output_scores=True,
            **how,
        )


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_under_beams_the_score_of_an_answer_is_the_sum_of_its_tokens(method, model):
    made = generate(model, method, num_beams=3, length_penalty=0.0)
    tokens = model.compute_transition_scores(
        made.sequences, made.scores, made.beam_indices, normalize_logits=False
    )
    torch.testing.assert_close(tokens.sum(dim=-1), made.sequences_scores)
    assert (made.sequences_scores < 0).all()


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_sampling_draws_from_what_the_method_makes(method, model):
    torch.manual_seed(0)
    made = generate(model, method, do_sample=True, top_k=0)
    for step, scores in enumerate(made.scores):
        torch.testing.assert_close(scores.exp().sum(dim=-1), torch.ones(2))
        assert (scores.gather(-1, made.sequences[:, 3 + step, None]) > -torch.inf).all()


NAMES = (
    "greedy",
    "sampling",
    "beam5",
    "early-exit",
    "dola-low",
    "dola-high",
    "deco",
    "sled",
    "confident",
    "calrd",
)


def test_every_yaml_answers_with_the_embedded_model(harness, tmp_path):
    size = ("task.miniature-chair.n=3", "task.miniature-chair.max_new_tokens=20", "bootstrap.resamples=20")
    quick = ("pictures.captions=1", "pictures.worst=0", "generation.batch_size=3", f"folder={tmp_path}")
    assert harness(*size, *quick, f"method=[{','.join(NAMES)}]") == 0
    rows = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["method"], row["n"]) for row in rows] == [(name, 3) for name in NAMES]
    assert json.loads((tmp_path / "problems.json").read_text(encoding="utf-8")) == []
