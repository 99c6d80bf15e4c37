"""Traces with a Record: what every readout says of the tokens that were returned."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import Family
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, LogitsProcessor

from mutation_decode import Contrast, Detector, LogitLens, MutationLogitsProcessor, Record, Skip, Trace
from mutation_decode.pieces import Pieces
from mutation_decode.pieces import pieces as pieces_of
from mutation_decode.record import late

WATCH = Contrast(alpha=0.0, layer=0, always=True)
MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 1.5},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "drawing beams": {"num_beams": 2, "do_sample": True},
}


def recorded(family: Family, *rows: int, strategy: Any = WATCH, **kwargs: Any) -> tuple[Tensor, Trace]:
    record = kwargs.pop("record", Record(top=3, states=True))
    detector = family.detector if strategy is not WATCH else None
    with MutationLogitsProcessor(family.model, strategy, detector=detector, trace=record) as processor:
        answers = family.answers(*rows, logits_processor=[processor], **kwargs)
        assert processor.trace is not None
        return answers, processor.trace


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_it_is_what_forwards_on_the_returned_tokens_say(family: Family, mode: dict[str, Any]) -> None:
    torch.manual_seed(0)
    answers, trace = recorded(family, 0, 1, **mode)
    each = mode.get("num_return_sequences", 1)
    assert torch.equal(trace.tokens, answers)
    assert trace.prob is not None
    assert trace.top_ids is not None
    assert trace.top_probs is not None
    with torch.no_grad(), LogitLens(family.model) as lens:
        for i, row in enumerate(row for row in (0, 1) for _ in range(each)):
            for t in range(10):
                family.model(**family.batch(row, suffix=answers[i : i + 1, :t]))
                probs = torch.softmax(lens.take().logits[0].float(), dim=-1)
                emitted = probs[:, answers[i, t]]
                if mode.get("num_beams") and mode.get("do_sample") and trace.prob[i, t].isnan().all():
                    continue
                torch.testing.assert_close(trace.prob[i, t], emitted, atol=2e-4, rtol=2e-3)
                torch.testing.assert_close(trace.top_probs[i, t], probs.topk(3).values, atol=2e-4, rtol=2e-3)
                told = probs.gather(1, trace.top_ids[i, t])
                torch.testing.assert_close(told, trace.top_probs[i, t], atol=2e-4, rtol=2e-3)
    assert trace.prob.isfinite().float().mean() > 0.6


def test_states_are_those_that_transformers_returns(family: Family) -> None:
    answers, trace = recorded(family, 0)
    assert trace.states is not None
    depth = trace.depth
    for t in (0, 4, 9):
        with torch.no_grad():
            found = family.model(**family.batch(0, suffix=answers[:, :t]), output_hidden_states=True)
        for readout in range(depth):  # the last of them transformers returns with the final norm on it
            told = found.hidden_states[readout][0, -1].flatten()
            if told.shape != trace.states[0, t, readout].flatten().shape:
                continue  # several streams, of which transformers shows one
            torch.testing.assert_close(
                trace.states[0, t, readout].flatten(), told, atol=2e-4 * told.abs().max().item(), rtol=1e-3
            )
    assert trace.states.shape[:3] == (1, 10, depth + 1)


def test_after_is_what_the_strategy_handed_on(one: Family) -> None:
    class Noted(LogitsProcessor):
        def __init__(self) -> None:
            self.scores: list[Tensor] = []

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            self.scores.append(scores)
            return scores

    def likeliest(noted: Noted) -> Any:
        return torch.stack(noted.scores, dim=1).softmax(dim=-1).topk(4)

    before, after = Noted(), Noted()  # of the model less what generate itself does to scores, and in the end
    with MutationLogitsProcessor(
        one.model, Contrast(alpha=1.5, beta=0.02), detector=one.detector, trace=Record(top=4)
    ) as processor:
        one.answers(0, 1, logits_processor=[before, processor, after])
        trace = processor.trace
    assert trace is not None
    assert trace.after_probs is not None
    assert trace.states is None
    torch.testing.assert_close(trace.after_probs, likeliest(after).values)
    assert torch.equal(trace.after_ids, likeliest(after).indices)
    moved = (trace.after_probs - likeliest(before).values).abs().amax(dim=-1) > 1e-5
    assert torch.equal(moved, trace.acted), "where it acts, and only there, are the scores others"
    assert trace.moved is not None
    assert torch.equal(trace.moved, trace.acted)
    assert 0 < trace.acted.float().mean() < 1


def test_what_generate_does_to_scores_is_no_doing_of_the_strategy(one: Family) -> None:
    _, trace = recorded(
        one, 0, 1, repetition_penalty=1.3
    )  # and tokens are suppressed by the model's settings
    assert trace.acted.all(), "it is applied everywhere"
    assert trace.moved is not None
    assert not trace.moved.any()


def test_a_prompt_of_embeddings_has_no_ids(other: Family) -> None:
    batch = other.batch(0, 1)
    inputs = {
        "inputs_embeds": other.model.get_input_embeddings()(batch["input_ids"]),
        "attention_mask": batch["attention_mask"],
    }
    told = []
    for given in (batch, inputs):
        with MutationLogitsProcessor(other.model, WATCH, detector=None, trace=Record(top=2)) as processor:
            other.model.generate(**given, max_new_tokens=4, do_sample=False, logits_processor=[processor])
            assert processor.trace is not None
            told.append(processor.trace.prob)
    torch.testing.assert_close(told[0], told[1], atol=1e-5, rtol=1e-4)


def test_after_a_skip_it_is_what_the_model_says_without_the_blocks(
    one: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one.model.generation_config, "suppress_tokens", None)  # generate adds nothing itself

    class Raw(LogitsProcessor):
        logits: list[Tensor] = []  # noqa: RUF012

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            self.logits.append(scores)
            return scores

    raw = Raw()
    _, trace = recorded(one, 0, 1, strategy=Skip())
    with MutationLogitsProcessor(one.model, Skip(), detector=one.detector) as processor:
        one.answers(0, 1, logits_processor=[processor, raw])
    assert trace.after_probs is not None
    assert trace.top_probs is not None
    told = torch.stack(raw.logits, dim=1).softmax(dim=-1).topk(3)
    torch.testing.assert_close(trace.after_probs, told.values, atol=1e-4, rtol=1e-3)
    moved = (trace.after_probs - trace.top_probs[:, :, -1]).abs().amax(dim=-1) > 1e-4
    assert torch.equal(moved, trace.acted), "elsewhere the model has the last word"
    assert 0 < trace.acted.float().mean() < 1


def test_rows_that_end_early_and_the_last_token(one: Family) -> None:
    free, whole = recorded(one, 0, 1, 2)
    end = int(free[0, 2])
    _, trace = recorded(one, 0, 1, 2, eos_token_id=end)
    assert whole.prob is not None
    assert trace.prob is not None
    for row in range(3):
        kept = int(trace.generated[row].sum())
        torch.testing.assert_close(trace.prob[row, :kept], whole.prob[row, :kept], atol=1e-4, rtol=1e-3)
    _, single = recorded(one, 0, 1, 2, max_new_tokens=1)
    assert single.prob is not None
    torch.testing.assert_close(single.prob, whole.prob[:, :1], atol=1e-4, rtol=1e-3)


def test_risk_is_the_share_of_the_largest_change_that_there_can_be(one: Family) -> None:
    _, trace = recorded(one, 0, 1, strategy=Contrast(alpha=1.5, beta=0.02))
    first, stop = trace.watched
    assert range(first, stop) == one.detector.blocks(8)
    expected = trace.js[..., first:stop].amax(dim=-1) / math.log(2)
    torch.testing.assert_close(trace.risk, expected)
    assert trace.risk.max() <= 1
    _, untouched = recorded(one, 0, 1)
    assert untouched.watched == (4, 7), "14/32 of 8 blocks are 4, the last of them aside"
    for divergence in ("kl", "tv"):
        detector = Detector(divergence=divergence, threshold=0.01, critical=2)  # type: ignore[arg-type]
        with MutationLogitsProcessor(one.model, Contrast(), detector=detector, trace=True) as processor:
            one.answers(0, 1, logits_processor=[processor])
            assert processor.trace is not None
            risk = processor.trace.risk
        js = processor.trace.js[..., 2:7].amax(dim=-1)
        told = js if divergence == "tv" else (1 - (-js).exp()).sqrt()
        torch.testing.assert_close(risk, told)
        assert risk.min() >= 0
        assert risk.max() <= 1


@pytest.mark.filterwarnings("ignore:Contrast never acted")
def test_risk_is_unknown_where_nothing_was_read(one: Family) -> None:
    with MutationLogitsProcessor(
        one.model, Contrast(always=True, layer=4), detector=None, trace="watched"
    ) as unread:
        one.answers(0, logits_processor=[unread])
    assert unread.trace is not None
    assert unread.trace.risk.isnan().all()
    detector = Detector(critical=None, until=3, threshold=0.01, settle=0.6)
    with MutationLogitsProcessor(one.model, Contrast(), detector=detector, trace="watched") as early:
        one.answers(0, logits_processor=[early])
    assert early.trace is not None
    assert early.trace.watched == (0, 3), "of the late blocks it knows nothing"
    torch.testing.assert_close(early.trace.risk, early.trace.js[..., :3].amax(dim=-1) / math.log(2))


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(1, range(1)), (2, range(1)), (3, range(1, 2)), (4, range(2, 3)), (32, range(18, 31))],
)
def test_the_late_blocks_are_one_at_least(depth: int, blocks: range) -> None:
    assert late(depth) == blocks


def test_a_saved_trace_says_the_same_in_another_process(one: Family, tmp_path: Path) -> None:
    _, trace = recorded(one, 0, 1, strategy=Skip())
    path = tmp_path / "a trace.safetensors"
    trace.save(path)
    told = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import sys, json, mutation_decode as m; t = m.Trace.load(sys.argv[1]);"
            "print(json.dumps([t.prob.double().sum().item(), t.risk.tolist(), t.watched, t.states.shape]))",
            str(path),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert trace.prob is not None
    assert trace.states is not None
    total, risk, watched, shape = json.loads(told.stdout)
    assert total == trace.prob.double().sum().item()
    assert risk == trace.risk.tolist()
    assert tuple(watched) == trace.watched
    assert tuple(shape) == trace.states.shape
    again = Trace.load(path, one.model)  # warnings are errors here
    for name, value in trace.tensors().items():
        assert torch.equal(getattr(again, name), value)
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode, "who may read it, the user has said"


def test_a_trace_of_another_model_warns_or_fails(one: Family, tmp_path: Path) -> None:
    path = tmp_path / "trace.safetensors"
    _, trace = recorded(one, 0)
    trace.save(path)
    tensors = load_file(path)
    head = one.model.get_output_embeddings().weight
    with torch.no_grad():
        head.mul_(1.5)
    try:
        with pytest.warns(UserWarning, match=r"made for another model.*Record one of this model"):
            Trace.load(path, one.model)
    finally:
        with torch.no_grad():
            head.div_(1.5)
    header = {"schema": 1, "divergence": "js", "watched": [0, 1], "texts": None, "names": None, "model": {}}
    deeper = {**tensors, "js": torch.zeros(1, 10, 9)}
    save_file(deeper, path, metadata={"trace": json.dumps(header)})
    with pytest.raises(ValueError, match="a trace of 9 blocks, and this model has 8"):
        Trace.load(path, one.model)
    save_file(tensors, path, metadata={"trace": json.dumps({"schema": 1})})
    assert Trace.load(path).names is None
    tensors.pop("fired")
    save_file(tensors, path, metadata={"trace": json.dumps(header)})
    with pytest.raises(ValueError, match="a trace has fired, which this file lacks"):
        Trace.load(path)
    save_file(tensors, path, metadata={"trace": json.dumps({**header, "schema": 2})})
    with pytest.raises(ValueError, match="expected a trace of schema 1, got 2"):
        Trace.load(path)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="expected a trace of schema 1, got None"):
        Trace.load(path)
    path.write_text("nothing")
    with pytest.raises(ValueError, match="expected the file of a trace"):
        Trace.load(path)


def test_tables_have_a_line_for_each_generated_token(one: Family) -> None:
    free, _ = recorded(one, 0, 1, 2)
    _, trace = recorded(one, 0, 1, 2, strategy=Skip(), eos_token_id=int(free[0, 2]))
    frame, dataset = trace.to_pandas(), trace.to_dataset()
    assert len(frame) == len(dataset) == trace.generated.sum()
    for line, (row, token) in zip(frame.to_dict("records"), trace.generated.nonzero().tolist(), strict=True):
        assert (line["row"], line["token"]) == (row, token)
        assert line["id"] == trace.tokens[row, token]
        assert line["js_3"] == trace.js[row, token, 3]
        assert line["mutated"] == [b for b in range(8) if trace.mutated[row, token, b]]
        assert line["probability"] == line["prob_8"]
    assert trace.top_probs is not None
    assert torch.equal(torch.tensor(dataset["top_probs"]), trace.top_probs[trace.generated])
    assert torch.equal(torch.tensor(dataset["risk"]), trace.risk[trace.generated])


def test_tables_of_no_tokens_have_their_columns(one: Family) -> None:
    _, trace = recorded(one, 0)
    nothing = replace(trace, generated=torch.zeros_like(trace.generated))
    assert nothing.to_pandas()["risk"].tolist() == []
    assert nothing.to_dataset()["text"][:] == []


def test_one_row_is_cut_to_its_tokens(one: Family) -> None:
    free, _ = recorded(one, 0, 1, 2)
    _, trace = recorded(one, 0, 1, 2, eos_token_id=int(free[0, 2]))
    row = trace.row(0)
    assert row.tokens.tolist() == [free[0, :3].tolist()]
    assert row.generated.all()
    assert row.js.shape == (1, 3, 8)
    assert torch.equal(row.risk, trace.risk[:1, :3])
    with pytest.raises(IndexError, match="a trace of 3 rows has no row 3"):
        trace.row(3)


MODEL = Path(__file__).parents[1] / "benchmarks/miniature/models/miniature-late-prior"


def test_texts_of_tokens_make_up_the_answer(one: Family) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    _, trace = recorded(one, 0, 1, record=Record(top=2))
    trace = trace.named(tokenizer)
    assert trace.texts is not None
    assert trace.names is not None
    for row, pieces in enumerate(trace.texts):
        ids = trace.tokens[row].tolist()
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)
        assert len(pieces) == len(ids)
    assert trace.top_ids is not None
    assert set(trace.top_ids.flatten().tolist()) | set(trace.tokens.flatten().tolist()) <= set(trace.names)
    assert trace.names[int(trace.tokens[0, 0])] == tokenizer.decode([int(trace.tokens[0, 0])])
    assert trace.row(1).texts == (trace.texts[1],)


class Bytes:
    """A tokenizer of bytes, whose letters may be of several tokens."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")


class Lookback(Bytes):
    """One that turns two blanks into one, wherever they are."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return super().decode(ids).replace("  ", " ")


@pytest.mark.parametrize(
    ("text", "special"), [("naïve ☕ café", []), ("a  b", [300, 300]), ("", [300]), ("  x ☕", [])]
)
@pytest.mark.parametrize("tokenizer", [Bytes(), Lookback()], ids=["bytes", "lookback"])
def test_half_letters_add_nothing(tokenizer: Bytes, text: str, special: list[int]) -> None:
    ids = [*text.encode(), *special]
    pieces = pieces_of(ids, tokenizer)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    halved = pieces_of(ids[:-1], tokenizer)
    assert "".join(halved) == tokenizer.decode(ids[:-1])
    assert pieces_of([], tokenizer) == ()


def test_pieces_as_they_grow_lose_no_letter() -> None:
    class TakesBack(Bytes):
        def decode(self, ids: list[int], **_: Any) -> str:
            return super().decode(ids).replace(" '", "'")  # as clean_up_tokenization_spaces does

    growing = Pieces(TakesBack())
    told = "".join(growing.add(byte) for byte in b"She said 'small hat")
    assert told.replace(" ", "").replace("'", "") == "Shesaidsmallhat"
    half = Pieces(Bytes())
    assert [half.add(byte) for byte in "é".encode()[:1]] == [""]
    assert half.rest() == "\N{REPLACEMENT CHARACTER}"
    assert (growing.rest(), Pieces(Bytes()).rest()) == ("", "")


@pytest.mark.parametrize("top", [0, True, 2.0])
def test_a_record_of_no_tokens_is_refused(top: Any) -> None:
    with pytest.raises(ValueError, match="top is a number of tokens from 1 on"):
        Record(top=top)
