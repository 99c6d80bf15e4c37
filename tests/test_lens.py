"""Anatomy and LogitLens: what is read is what layers would say; what does not verify is refused (law 4)."""

import threading
from typing import Any

import pytest
import torch
import transformers
from families import Family
from torch import Tensor

from mutation_decode import Anatomy, LogitLens


def by_hand(family: Family, inputs: dict[str, Tensor], *, normed: bool = True) -> Tensor:
    """`[rows, L + 1, vocab]` from output_hidden_states, through the final norm, the head and the soft cap."""
    model = family.model
    base = model.get_decoder() if hasattr(model, "get_decoder") else model.transformer
    norm = base.ln_f if hasattr(base, "ln_f") else base.norm
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
        early = [norm(state[:, -1]) if normed else state[:, -1] for state in states[:-1]]
        rows = [*early, states[-1][:, -1]]  # the last one is normed
        logits = model.get_output_embeddings()(torch.stack(rows, dim=1))
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@pytest.mark.parametrize("exact", [False, True])
def test_law_4_every_readout_is_the_layers_own_prediction(family: Family, exact: bool) -> None:
    inputs = family.batch(0, 1, 2)
    with torch.no_grad():
        plain = family.model(**inputs).logits
        with LogitLens(family.model, exact=exact) as lens:
            watched = family.model(**inputs).logits
            readout = lens.take()
    assert readout.indices == tuple(range(9))
    torch.testing.assert_close(readout.logits, by_hand(family, inputs), atol=2e-4, rtol=1e-4)
    assert watched.shape == plain.shape
    assert torch.equal(readout.logits[:, -1], watched[:, -1])
    if exact:
        assert torch.equal(watched, plain)
    torch.testing.assert_close(watched, plain, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_without_the_norm_the_states_go_to_the_head_as_they_are(family: Family, exact: bool) -> None:
    inputs = family.batch(0, 1, 2)
    expected = by_hand(family, inputs, normed=False)
    assert not torch.allclose(expected[:, :-1], by_hand(family, inputs)[:, :-1], atol=0.1)
    with torch.no_grad():
        plain = family.model(**inputs).logits
        for readouts in (None, (2, 5), ()):
            with LogitLens(family.model, readouts=readouts, exact=exact, norm=False) as lens:
                for _ in range(2):  # the first forward is compared with the model's own logits
                    watched = family.model(**inputs).logits
                    readout = lens.take()
                    torch.testing.assert_close(
                        readout.logits, expected[:, list(readout.indices)], atol=2e-4, rtol=1e-4
                    )
                    assert torch.equal(readout.logits[:, -1], watched[:, -1])
    if exact:
        assert torch.equal(watched, plain)


def test_without_the_norm_the_tail_is_still_checked(one: Family) -> None:
    right = Anatomy.of(one.model)
    wrong = Anatomy(blocks=right.blocks, tail=(torch.nn.Tanh(),), head=right.head, owner=right.owner)
    with pytest.raises(ValueError, match=r"differs from the model's own logits by [\d.]+"):
        LogitLens(one.model, anatomy=wrong, norm=False)


def test_without_the_norm_a_model_keeps_its_scale() -> None:
    model = _tampered(lambda states: 0.125 * states)
    ids = torch.tensor([[3, 4]])
    with torch.no_grad(), LogitLens(model, norm=False) as lens:
        states = model(ids, output_hidden_states=True).hidden_states
        expected = model.lm_head(0.125 * states[1][:, -1])
        torch.testing.assert_close(lens.take().logits_at(1), expected, atol=1e-4, rtol=0)


def test_where_no_norm_can_be_left_out_that_is_said() -> None:
    torch.manual_seed(0)
    config = transformers.OPTConfig(
        vocab_size=50,
        hidden_size=16,
        word_embed_proj_dim=8,
        ffn_dim=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    projected = transformers.OPTForCausalLM(config).eval()
    LogitLens(projected)
    with pytest.raises(
        ValueError,
        match=r"OPTForCausalLM: its layers cannot be read .*It may need what norm=False leaves out",
    ):
        LogitLens(projected, norm=False)
    bare = transformers.OPTForCausalLM(
        transformers.OPTConfig(
            **{**config.to_diff_dict(), "word_embed_proj_dim": 16, "_remove_final_layer_norm": True}
        )
    ).eval()
    assert Anatomy.of(bare).tail == ()
    with pytest.raises(ValueError, match=r"norm=False: OPTForCausalLM has nothing between its last block"):
        LogitLens(bare, norm=False)


def test_the_parts(family: Family) -> None:
    anatomy = Anatomy.of(family.model)
    assert anatomy.depth == 8
    assert anatomy.head is family.model.get_output_embeddings()
    assert anatomy.owner is family.model
    assert len(anatomy.tail) == 1
    assert "Norm" in type(anatomy.tail[0]).__name__
    assert anatomy.scale == 1.0


@pytest.mark.parametrize("exact", [False, True])
def test_only_what_is_asked_for_is_read(one: Family, exact: bool) -> None:
    inputs = one.batch(0, 1)
    with torch.no_grad(), LogitLens(one.model, readouts=(2, 5), exact=exact) as lens:
        one.model(**inputs)
        readout = lens.take()
    assert readout.indices == (2, 5, 8)
    torch.testing.assert_close(readout.logits, by_hand(one, inputs)[:, [2, 5, 8]], atol=2e-4, rtol=1e-4)
    with torch.no_grad(), LogitLens(one.model, readouts=(), exact=exact) as lens:
        one.model(**inputs)
        assert lens.take().indices == (8,)


@pytest.mark.parametrize(
    "kinds", [(False, False), (True, True), (False, True), (True, False), (True, False, True)]
)
def test_several_lenses_on_one_model(one: Family, kinds: tuple[bool, ...]) -> None:
    inputs = one.batch(0, 1)
    expected = by_hand(one, inputs)
    lenses = [LogitLens(one.model, readouts=(i, i + 3), exact=exact) for i, exact in enumerate(kinds)]
    for lens in lenses:
        lens.__enter__()
    for at, gone in enumerate(lenses):
        with torch.no_grad():
            logits = one.model(**inputs).logits
        assert logits.shape[1] == inputs["input_ids"].shape[1]
        for i, lens in enumerate(lenses[at:], start=at):
            got = lens.take()
            torch.testing.assert_close(got.logits, expected[:, [i, i + 3, 8]], atol=2e-4, rtol=1e-4)
        gone.__exit__()


def test_tuple_outputs_and_half_precision(other: Family) -> None:
    inputs = other.batch(0)
    with torch.no_grad(), LogitLens(other.model) as lens:
        logits = other.model(**inputs, return_dict=False)[0]
        assert logits.shape == (1, 7, 120)
        fp32 = lens.take()
    config = other.model.config
    half = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    half.load_state_dict(other.model.state_dict())
    with torch.no_grad(), LogitLens(half) as lens:
        half(**inputs)
        readout = lens.take()
    assert readout.logits.dtype == torch.bfloat16
    assert readout.log_probs(3).dtype == readout.js().dtype == torch.float32
    torch.testing.assert_close(readout.js(), fp32.js(), atol=0.15, rtol=0)


def test_a_readout_is_handed_out_once(one: Family) -> None:
    with torch.no_grad(), LogitLens(one.model) as lens:
        one.model(**one.batch(0))
        lens.take()
        with pytest.raises(RuntimeError, match="no forward of the model passed through the lens"):
            lens.take()
        with pytest.raises(RuntimeError, match="already on its model"):
            lens.__enter__()


def test_other_threads_forwards_are_left_alone(one: Family) -> None:
    inputs = one.batch(0)
    seen: list[Tensor] = []

    def forward() -> None:
        with torch.no_grad():
            seen.append(one.model(**inputs).logits)

    forward()
    with LogitLens(one.model) as lens:
        thread = threading.Thread(target=forward)
        thread.start()
        thread.join()
        with pytest.raises(RuntimeError, match="no forward"):
            lens.take()
    assert torch.equal(seen[0], seen[1])


def test_law_4_a_wrong_tail_is_refused_with_the_distance(one: Family) -> None:
    right = Anatomy.of(one.model)
    wrong = Anatomy(blocks=right.blocks, tail=(), head=right.head, owner=right.owner)
    with pytest.raises(ValueError, match=r"differs from the model's own logits by [\d.]+ .*Anatomy\(blocks="):
        LogitLens(one.model, anatomy=wrong)
    # Where no probe can be run, the first real forward tells, and the hooks are gone again.
    lens = LogitLens(one.model, anatomy=wrong, inputs={"input_ids": "no tensor"})
    with pytest.raises(ValueError, match=r"differs from the model's own logits by [\d.]+"), lens:
        one.model(**one.batch(0))


def _tampered(change: Any) -> Any:
    """A llama whose final states are changed by code that is no module."""

    class Tampered(transformers.LlamaModel):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.last_hidden_state = change(output.last_hidden_state)
            return output

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config).eval()
    model.model = Tampered(config).eval()
    return model


def test_a_scale_before_the_head_is_found() -> None:
    model = _tampered(lambda states: 0.125 * states)
    anatomy = Anatomy.of(model)
    assert anatomy.scale == pytest.approx(0.125)
    with torch.no_grad(), LogitLens(model) as lens:
        own = model(torch.tensor([[3, 4]])).logits[:, -1]
        torch.testing.assert_close(lens.take().logits_at(3), own, atol=1e-4, rtol=0)


def test_what_no_module_explains_is_refused_with_the_distance() -> None:
    wanted = (
        r"last block, finished, misses what entered the head by [\d.]+ .*tail=\(model.norm\), head=lm_head"
    )
    with pytest.raises(ValueError, match=wanted):
        Anatomy.of(_tampered(lambda states: states.flip(-1)))


def test_models_without_head_blocks_or_text_are_refused(one: Family) -> None:
    with pytest.raises(ValueError, match="no language-modelling head"):
        Anatomy.of(one.model.get_decoder())
    with pytest.raises(ValueError, match="the forward that looks for its parts failed"):
        Anatomy.of(one.model, {"input_ids": "no tensor"})


def test_the_encoder_decoder_kind() -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=3, num_heads=2, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    anatomy = Anatomy.of(model)
    assert anatomy.blocks == tuple(model.decoder.block)
    with torch.no_grad(), LogitLens(model) as lens:
        model(input_ids=torch.tensor([[3, 4]]), decoder_input_ids=torch.tensor([[0, 5]]))
        assert lens.take().js().shape == (1, 3)


def test_looking_for_parts_moves_no_random_state(one: Family) -> None:
    one.model.train()
    state = torch.get_rng_state()
    try:
        LogitLens(one.model)
    finally:
        one.model.eval()
    assert torch.equal(state, torch.get_rng_state())


def test_readouts_beyond_the_model_are_refused(one: Family) -> None:
    with pytest.raises(ValueError, match=r"readouts of a model of 8 blocks are 0..8, got \(3, 8, 9\)"):
        LogitLens(one.model, readouts=(3, 9))
