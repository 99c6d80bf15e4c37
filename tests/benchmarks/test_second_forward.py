"""The second forward on real models: what it reads, and that the first one does not notice it."""

import copy
import inspect
from contextlib import nullcontext
from pathlib import Path

import families
import pytest
import tiny_models
import torch
import transformers
from tiny_models import ASKED

from benchmarks.batch import Asking
from benchmarks.methods import build
from benchmarks.models import Checkpoint
from benchmarks.second_forward import ICD, M3ID, PAI, VCD, SecondForward
from benchmarks.second_forward.apart import Apart
from benchmarks.usage import UsageError

NEW, SEED = 8, 5
METHODS = {
    "vcd": VCD(beta=0.0),
    "icd": ICD(beta=0.0, instruction="Is the cat on the window?"),
    "m3id": M3ID(decay=0.2, confident=1.0),
    "pai": PAI(gamma=2.0, beta=0.0),
}
WORDS = ("describe this image .", "is there a dog ?", "what is the colour of the kite ?")

pytestmark = pytest.mark.filterwarnings("ignore:.*never acted")


def miniature():
    from benchmarks.miniature import world

    path = Path(__file__).parents[2] / "benchmarks/miniature/models/miniature-late-prior"
    checkpoint = Checkpoint(path=str(path), device="cpu", dtype="float32")
    scenes = world.scenes("shifted", 3, seed=3)
    asked = [[tiny_models.user(w, s.image())] for w, s in zip(WORDS, scenes, strict=True)]
    return checkpoint.load("miniature-late-prior"), asked


@pytest.fixture(scope="module", params=["miniature", "qwen2_5_vl", "gemma3", "instructblip"])
def case(request, tmp_path_factory):
    """A model, and three conversations whose prompts differ in length."""
    if request.param == "miniature":
        loaded, asked = miniature()
    else:
        folder = tmp_path_factory.mktemp("second") / request.param
        loaded = tiny_models.checkpoint(tiny_models.write(request.param, folder)).load(request.param)
        asked = ASKED
    loaded.model.generation_config.eos_token_id = None
    return loaded, asked


@pytest.fixture(params=METHODS)
def method(request, case):
    if request.param in ("m3id", "pai") and case[0].name == "instructblip":
        pytest.skip("its generate asks for a picture")
    return METHODS[request.param]


class Recording:
    """Keeps the second logits of every step, `[rows, vocab]` each."""

    def __init__(self, combine):
        self.combine, self.seen = combine, []

    def __call__(self, scores, other, step):
        assert step == len(self.seen)
        self.seen.append(other)
        return self.combine(scores, other, step)


def same(scores, other, step):
    return scores


def run(loaded, asked, method, combine, **arguments):
    inputs = loaded.inputs(asked)
    other = method.other(loaded, asked, inputs, SEED)
    second = SecondForward(loaded.model, other, combine, max_new_tokens=NEW)
    return generate(loaded, inputs, logits_processor=[second], **arguments)


def generate(loaded, inputs, **arguments):
    settings = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, **arguments}
    return loaded.model.generate(
        **inputs, return_dict_in_generate=True, output_logits=True, output_scores=True, **settings
    )


def from_scratch(loaded, inputs, tokens):
    """Logits after the prompt and after each of ``tokens`` but the last, in one forward without a cache."""
    grown = dict(inputs)
    for name, fill in (("input_ids", tokens), ("attention_mask", torch.ones_like(tokens))):
        grown[name] = torch.cat([inputs[name], fill], dim=1)
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            grown[name] = torch.cat([inputs[name], torch.zeros_like(tokens)], dim=1)
    known = inspect.signature(loaded.model.forward).parameters
    with torch.no_grad():
        logits = loaded.model(**{k: v for k, v in grown.items() if k in known}, use_cache=False).logits
    return logits[0, -NEW - 1 : -1]


def test_it_reads_the_other_prompt_and_the_chosen_tokens(case, method):
    loaded, asked = case
    lengths = loaded.lengths(method.other(loaded, asked, loaded.inputs(asked), SEED))
    assert len(set(lengths)) == 3, "the prompts are padded"
    recording = Recording(method.combine)
    output = run(loaded, asked, method, recording)
    assert len(recording.seen) == NEW
    seen, tokens = torch.stack(recording.seen, dim=1), output.sequences[:, -NEW:]
    plain = generate(loaded, loaded.inputs(asked))
    assert not all(map(torch.equal, plain.scores, output.scores)), "the method matters"
    for row, conversation in enumerate(asked):
        alone = method.other(loaded, [conversation], loaded.inputs([conversation]), SEED + row)
        expected = from_scratch(loaded, alone, tokens[row : row + 1])
        torch.testing.assert_close(seen[row], expected, atol=1e-3, rtol=1e-4)
        own = from_scratch(loaded, loaded.inputs([conversation]), tokens[row : row + 1])
        assert (own - expected).abs().max() > 0.05, "the two forwards differ"


def test_the_first_forward_does_not_notice(case, method):
    loaded, asked = case
    plain = generate(loaded, loaded.inputs(asked))
    twice = run(loaded, asked, method, same)
    assert torch.equal(plain.sequences, twice.sequences)
    assert all(map(torch.equal, plain.logits, twice.logits))
    after = generate(loaded, loaded.inputs(asked))
    assert all(map(torch.equal, plain.logits, after.logits))


def second_alone(scores, other, step):
    return torch.where(scores > -torch.inf, other, scores)  # but for what the checkpoint suppresses


def test_the_second_by_itself_is_plain_generate_on_its_inputs(case, method):
    loaded, asked = case
    other = method.other(loaded, asked, loaded.inputs(asked), SEED)
    expected = generate(loaded, other)
    found = run(loaded, asked, method, second_alone)
    assert torch.equal(found.sequences[:, -NEW:], expected.sequences[:, -NEW:])
    assert all(map(torch.equal, found.scores, expected.scores))
    assert not all(map(torch.equal, found.logits, expected.logits)), "the first reads its own prompt"


class Turns(torch.nn.Module):
    """Says 1 and 0 by turns."""

    def forward(self):
        self.said = 1 - getattr(self, "said", 0)
        self.built = True
        return self.said


def test_two_uses_take_turns_of_their_own():
    model = Turns()
    apart, said = Apart(model), []
    for second in (True, False, True, True, True, False, True, False):
        assert getattr(model, "built", not said), "what is set up once stays"
        with apart.on() if second else nullcontext():
            said.append((second, model()))
    assert [turn for second, turn in said if second] == [1, 0, 1, 0, 1]
    assert [turn for second, turn in said if not second] == [1, 0, 1]


def test_what_a_model_keeps_on_itself_is_kept_apart():
    """Frequencies of a dynamic rotary embedding follow the longest text that it saw."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
    torch.manual_seed(0)
    settings = {**families.TEXT, "max_position_embeddings": 8, "rope_parameters": rope}
    fresh = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).eval()
    families._sharpen(fresh)
    prompts = [torch.arange(length).view(1, -1) % 100 + 5 for length in (12, 40)]
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "output_logits": True}

    def logits(model, ids, **arguments):
        mask = torch.ones_like(ids)
        output = model.generate(
            ids, attention_mask=mask, return_dict_in_generate=True, **settings, **arguments
        )
        return torch.stack(output.logits)

    alone = [logits(copy.deepcopy(fresh), ids) for ids in prompts]
    for ids, other, expected, others in ((*prompts, *alone), (*prompts[::-1], *alone[::-1])):
        inputs = {"input_ids": other, "attention_mask": torch.ones_like(other)}
        model = copy.deepcopy(fresh)
        second = SecondForward(model, inputs, same, max_new_tokens=12)
        assert torch.equal(logits(model, ids, logits_processor=[second]), expected)
        model, recording = copy.deepcopy(fresh), Recording(second_alone)
        second = SecondForward(model, inputs, recording, max_new_tokens=12)
        logits(model, ids, logits_processor=[second])
        assert torch.equal(torch.stack(recording.seen), others)


@pytest.mark.parametrize("identity", [VCD(alpha=0.0), ICD(alpha=0.0), M3ID(decay=0.0), PAI(gamma=1.0)])
def test_a_method_that_is_told_to_do_nothing_is_plain_generate(case, identity):
    loaded, asked = case
    if loaded.name == "instructblip" and isinstance(identity, M3ID | PAI):
        pytest.skip("its generate asks for a picture")
    plain = generate(loaded, loaded.inputs(asked))
    assert torch.equal(run(loaded, asked, identity, identity.combine).sequences, plain.sequences)


def test_a_row_alone_is_the_row_in_its_batch(case, method):
    loaded, asked = case
    whole = run(loaded, asked, method, method.combine)
    for row, conversation in enumerate(asked):
        inputs = loaded.inputs([conversation])
        other = method.other(loaded, [conversation], inputs, SEED + row)
        second = SecondForward(loaded.model, other, method.combine, max_new_tokens=NEW)
        alone = generate(loaded, inputs, logits_processor=[second])
        assert torch.equal(alone.sequences[0, -NEW:], whole.sequences[row, -NEW:])
        for one, all_of_them in zip(alone.scores, whole.scores, strict=True):
            torch.testing.assert_close(one[0], all_of_them[row], atol=5e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["llava_next", "idefics3", "internvl", "qwen2_5_vl"])
def test_noise_lies_on_pictures_of_every_layout(kind, tmp_path):
    loaded = tiny_models.checkpoint(tiny_models.write(kind, tmp_path / kind)).load(kind)
    inputs = loaded.inputs(ASKED)
    before = inputs["pixel_values"].clone()
    other = VCD(noise_step=999).other(loaded, ASKED, inputs, SEED)
    assert torch.equal(inputs["pixel_values"], before), "the first one's stay"
    assert {n for n in inputs if inputs[n] is not other[n]} == {"pixel_values"}
    left, added = 0.285043, 0.958515
    noise, start = (other["pixel_values"] - left * before) / added, 0
    for row, conversation in enumerate(ASKED):
        own = loaded.inputs([conversation])
        alone = VCD(noise_step=999).other(loaded, [conversation], own, SEED + row)["pixel_values"]
        corner = tuple(slice(size) for size in alone.shape[1:])
        part = slice(start, start + len(alone))
        start = part.stop
        torch.testing.assert_close(other["pixel_values"][part][:, *corner[0:]], alone)
        assert noise[part][:, *corner].std() == pytest.approx(1, abs=0.15)
        noise[part][:, *corner] = 0
        again = VCD(noise_step=999).other(loaded, [conversation], own, SEED + row + 1)["pixel_values"]
        assert not torch.equal(again, alone)
    assert start == len(before)
    padding = (other["pixel_values"] == before) & (noise != 0)
    assert torch.equal(padding, noise != 0), "what is no picture stays as it was"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 3}, "3 rows and generate 9; it takes one sequence a prompt: num_beams=1"),
        ({"num_return_sequences": 2, "do_sample": True}, "3 rows and generate 6"),
    ],
)
def test_more_rows_than_prompts_are_refused(case, arguments, message):
    loaded, asked = case
    with pytest.raises(RuntimeError, match=message):
        run(loaded, asked, VCD(), same, **arguments)
    plain = generate(loaded, loaded.inputs(asked))
    assert torch.equal(run(loaded, asked, VCD(), same).sequences, plain.sequences), "the next one works"


def test_rows_that_change_are_refused(case):
    loaded, asked = case
    inputs = loaded.inputs(asked)
    ids = torch.arange(12).view(3, 4)
    for following in (ids.flip(0), torch.cat([ids, ids[:, :2]], dim=1), torch.cat([ids.flip(0), ids], dim=1)):
        second = SecondForward(loaded.model, inputs, same, max_new_tokens=NEW)
        scores = second(ids, torch.zeros(3, 5))
        with pytest.raises(RuntimeError, match="rows that grow by one token; they went from"):
            second(following, scores)


def test_a_second_generate_is_refused(case):
    loaded, asked = case
    inputs = loaded.inputs(asked)
    second = SecondForward(loaded.model, inputs, same, max_new_tokens=NEW)
    generate(loaded, inputs, logits_processor=[second])
    with pytest.raises(RuntimeError, match="give it to one greedy or sampling generate"):
        generate(loaded, inputs, logits_processor=[second])


def test_what_a_model_cannot_follow_is_refused(tmp_path):
    loaded = tiny_models.checkpoint(tiny_models.write("florence2", tmp_path / "f")).load("florence2")
    method = build("vcd", {"_target_": "benchmarks.second_forward.VCD"})
    with (
        pytest.raises(UsageError, match=r"Florence2.* reads prompts with an encoder; leave vcd"),
        method.on(loaded.model),
    ):
        pass


def test_beams_of_a_checkpoint_are_refused_unless_they_are_overridden(case, monkeypatch):
    model = case[0].model
    monkeypatch.setattr(model.generation_config, "num_beams", 5)
    node = {"_target_": "benchmarks.second_forward.PAI"}
    with (
        pytest.raises(UsageError, match=r"cannot follow the beam_search of its generation_config.json"),
        build("pai", node).on(model),
    ):
        pass
    with build("pai", {**node, "generate": {"num_beams": 1}}).on(model) as processor:
        assert processor is None


def test_a_picture_less_conversation_has_nothing_to_be_noised(case):
    loaded, asked = case
    if loaded.name == "instructblip":
        pytest.skip("it takes none")
    asking = Asking(loaded, None, {"max_new_tokens": NEW, "do_sample": False}, "text", VCD())
    from benchmarks.tasks import Item, Turn

    items = [
        Item({"image_id": str(row)}, (Turn("user", words, tuple(lambda p=p: p for p in pictures)),))
        for row, (words, pictures) in enumerate(
            [("describe this image .", [asked[0][0]["content"][0]["image"]]), ("is there a dog ?", [])]
        )
    ]
    lines, _ = asking.lines(items, SEED)
    assert lines[1]["error"].endswith("noise is to be added to its images, and it has none")
    assert lines[0]["fired"] == lines[0]["tokens"] > 0
