"""Florence-2: an encoder reads the prompt, whose image and ends the processor puts in itself."""

import json

import pytest
import tiny_models
import torch
import transformers
from tiny_models import ASKED, checkpoint, picture, user

ENDS = {2, 80}
COLORS = {"a.png": ("red", 56, 28), "b.png": ("blue", 30, 50), "c.png": ("green", 28, 28)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tiny_models.write("florence2", tmp_path_factory.mktemp("tiny") / "florence2")
    path = made / "generation_config.json"
    settings = {**json.loads(path.read_text("utf-8")), "eos_token_id": sorted(ENDS)}
    path.write_text(json.dumps(settings), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def stock(folder):
    """What transformers makes of the folder, without a line of ours."""
    return (
        transformers.Florence2ForConditionalGeneration.from_pretrained(folder).eval(),
        transformers.AutoProcessor.from_pretrained(folder),
    )


def test_prompts_are_the_processor_s_own(folder, stock):
    made = checkpoint(folder)
    assert made.check("florence2") == 8  # of the decoder; its encoder has two
    loaded, processor = made.load("florence2"), stock[1]
    assert (loaded.prompting, loaded.asked.token, loaded.context) == ("plain", "", None)
    theirs = processor(
        text=[turn["content"][1]["text"] for (turn,) in ASKED],
        images=[turn["content"][0]["image"] for (turn,) in ASKED],
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    ours = loaded.inputs(ASKED)
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert processor.tokenizer.decode(ours["input_ids"][2][:8]) == "<image>" * 5 + "<s>Describe</s>"


def test_one_image_and_words_without_its_token(folder):
    loaded = checkpoint(folder).load("florence2")
    with pytest.raises(ValueError, match=r"takes one image.*has 2"):
        loaded.inputs([[user("Compare", picture("red"), picture("blue"))]])
    with pytest.raises(ValueError, match="its words have <image>"):
        loaded.inputs([[user("What is <image>?", picture("red"))]])


def test_answers_of_a_run_are_those_of_the_model_alone(folder, stock, harness, tmp_path):
    (tmp_path / "images").mkdir()
    for name, (color, *size) in COLORS.items():
        picture(color, *size).save(tmp_path / "images" / name)
    assert (
        harness(
            "model=[llava-1.5-7b]",
            f"model.llava-1_5-7b.path={folder}",
            "model.llava-1_5-7b.dtype=float32",
            "model.llava-1_5-7b.device=cpu",
            "task=[describe]",
            f"task.describe.images={tmp_path / 'images'}",
            "task.describe.max_new_tokens=8",
            "method=[greedy,contrast]",
            "method.contrast.detector.threshold=0.0",
            "bootstrap.resamples=20",
            "generation.batch_size=3",
            f"folder={tmp_path / 'run'}",
        )
        == 0
    )
    (row, *_) = json.loads((tmp_path / "run" / "scores.json").read_text("utf-8"))["rows"]
    prompt = row["stands_for"]["prompt"]
    assert row["stands_for"]["prompting"] == "plain"
    model, processor = stock
    cut = []
    for method in ("greedy", "contrast"):
        path = tmp_path / "run" / "predictions" / "llava-1_5-7b" / method / "describe.jsonl"
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        assert len(lines) == 3
        for line in lines:
            assert line["fired"] == (line["tokens"] if method == "contrast" else 0)
            if method == "contrast":
                continue
            color, *size = COLORS[line["image_id"]]
            batch = processor(text=[prompt], images=[picture(color, *size)], return_tensors="pt")
            # One more, as the last that there may be is forced to be an end.
            (ids,) = model.generate(**batch, max_new_tokens=9, do_sample=False)[:, 1:9].tolist()
            ended = next((at + 1 for at, token in enumerate(ids) if token in ENDS), None)
            cut.append(ended is None)
            assert line["caption"] == processor.decode(ids[:ended], skip_special_tokens=True).strip()
            assert (line["tokens"], line["truncated"]) == (ended or 8, int(ended is None))
    assert {True, False} == set(cut), "some end, others are cut off"
