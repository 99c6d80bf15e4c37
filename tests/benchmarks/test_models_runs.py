"""Whole runs on tiny models of nine classes, each under the YAML of a real checkpoint of its class."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import tiny_models
import yaml
from hydra import compose, initialize_config_dir
from layouts import benchmarks_data
from omegaconf import OmegaConf

from benchmarks.models import Checkpoint

CONF = Path(__file__).parents[2] / "conf"
UNDER = {
    "llava": "llava-1.5-7b",
    "llava_next": "llava-next-vicuna-7b",
    "llava_onevision": "llava-onevision-7b",
    "instructblip": "instructblip-vicuna-7b",
    "qwen2_5_vl": "qwen2.5-vl-7b",
    "qwen3_vl": "qwen3-vl-8b",
    "internvl": "internvl3-8b",
    "idefics3": "idefics3-8b",
    "gemma3": "gemma-3-4b",
}
TASKS = {
    "chair": {"CHAIR_s", "CHAIR_i", "recall"},
    "amber-generative": {"CHAIR", "Cover", "Hal", "Cog"},
    "amber-discriminative": {"accuracy", "F1", "F1_existence"},
    "pope-adversarial": {"accuracy", "precision", "recall", "F1", "yes"},
}
MODELS = sorted((CONF / "model").glob("*.yaml"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    tiny_models.picture("red").save(folder / "wide.png")
    tiny_models.picture("blue", 30, 50).save(folder / "high.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return benchmarks_data(tmp_path_factory.mktemp("data"), n=4)


@pytest.mark.parametrize("kind", UNDER)
def test_a_run_of_each_kind_ends_with_a_table(kind, harness, data, tmp_path, capsys):
    folder, name = tmp_path / "run", UNDER[kind].replace(".", "_")
    assert (
        harness(
            f"model=[{UNDER[kind]}]",
            f"model.{name}.path={tiny_models.write(kind, tmp_path / kind)}",
            f"model.{name}.dtype=float32",
            f"task=[{','.join(TASKS)}]",
            *(f"task.{task}.max_new_tokens=5" for task in TASKS),
            "task.chair.n=4",
            "task.amber-generative.nouns=table",
            f"data={data}",
            "method=[greedy,contrast]",
            "method.contrast.detector.threshold=0.0",
            "bootstrap.resamples=20",
            f"folder={folder}",
        )
        == 0
    )
    shown = capsys.readouterr().out
    rows = json.loads((folder / "scores.json").read_text())["rows"]
    figures = {(row["method"], row["task"]): row["figures"] for row in rows}
    for task, expected in TASKS.items():
        assert f"{name}, {task}, n = 4 images" in shown
        assert expected <= set(figures["greedy", task])
        assert figures["greedy", task]["fired"]["value"] == 0
        assert figures["contrast", task]["fired"]["value"] == 100
        for method in ("greedy", "contrast"):
            path = folder / "predictions" / name / method / f"{task}.jsonl"
            lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            assert len({line["image_id"] for line in lines}) == 4
            for line in lines:
                assert "error" not in line
                assert 1 <= line["tokens"] <= 5
                answer = next(line[key] for key in ("caption", "response", "answer", "text") if key in line)
                assert "Is there" not in answer, "the prompt is no part of the answer"
                assert "escribe this" not in answer


@pytest.mark.parametrize("path", MODELS, ids=[path.stem for path in MODELS])
def test_a_model_takes_one_yaml_of_at_most_ten_lines_that_has_every_key(path):
    assert len(path.read_text("utf-8").splitlines()) <= 10
    with initialize_config_dir(str(CONF), version_base="1.3"):
        (node,) = compose("config", [f"model=[{path.stem}]"]).model.values()
    keys = {field.name for field in fields(Checkpoint)}
    assert set(OmegaConf.to_container(node)) == keys | {"_target_", "_recursive_"}


def test_an_eleventh_model_under_a_name_of_its_own(harness, images, tmp_path, capsys):
    """Any checkpoint under any YAML; keys that are null take a mapping on the command line."""
    folder = tiny_models.write("idefics3", tmp_path / "idefics3")
    words = [
        "model=[smolvlm2-2.2b]",
        f"model.smolvlm2-2_2b.path={folder}",
        "model.smolvlm2-2_2b.processor={do_image_splitting:false}",
        'model.smolvlm2-2_2b.template="Q: {images} {prompt}\nA:"',
        "task=[describe]",
        f"task.describe.images={images}",
        "task.describe.max_new_tokens=3",
        "method=[greedy]",
        "bootstrap.resamples=20",
        "pictures.captions=1",
        f"folder={tmp_path / 'run'}",
    ]
    assert harness(*words) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text("utf-8"))
    assert config["model"]["smolvlm2-2_2b"]["template"] == "Q: {images} {prompt}\nA:"
    assert harness(*(word.replace("splitting", "spliting") for word in words)) == 2
    assert "did you mean 'do_image_splitting'" in capsys.readouterr().err.splitlines()[-1]
