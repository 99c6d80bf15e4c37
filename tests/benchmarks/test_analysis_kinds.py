"""The figures of a model of another kind than the miniatures, which takes no prompt without an image."""

from pathlib import Path

import tiny_models
from PIL import Image

from benchmarks.analysis import __main__ as analysis
from benchmarks.analysis.kept import load


def test_what_a_model_does_not_take_is_left_out_unless_it_was_named(command, tmp_path: Path) -> None:
    path = tiny_models.write("instructblip", tmp_path / "instructblip")
    Image.new("RGB", (60, 40), (200, 10, 10)).save(tmp_path / "some.png")
    model = ["model=[llava-1.5-7b]", f"model.llava-1_5-7b.path={path}", "model.llava-1_5-7b.dtype=float32"]
    own = [*model, f"image={tmp_path / 'some.png'}", "max_new_tokens=4", f"folder={tmp_path / 'out'}"]
    code, printed, error = command(analysis, *own)
    assert code == 0, error
    assert "5 figures" in printed
    captions = (tmp_path / "out" / "captions.md").read_text("utf-8")
    assert "`llava-1_5-7b/no-image` (sec. 6) is left out: model llava-1_5-7b does not take this" in captions
    assert "`llava-1_5-7b/questions` (fig. 7) is left out: it is about many images" in captions
    about = load(tmp_path / "out" / "llava-1_5-7b" / "traces").about
    assert about["prompt"] == "Please describe this image in detail."
    assert about["figures"] == ["probabilities", "words", "js", "texts", "states"]
    code, _, error = command(analysis, *own, "figure=[no-image]")
    assert (code, len(error.splitlines())) == (2, 1)
    assert "does not take this prompt: this model takes one image" in error
