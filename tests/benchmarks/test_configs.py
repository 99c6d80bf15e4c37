"""Every YAML composes, stands under its own name, and makes what it says."""

from dataclasses import fields
from pathlib import Path

import layouts
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmarks.methods import build, candidates, create, with_knobs
from benchmarks.models import Checkpoint
from benchmarks.plan import CALIBRATED
from benchmarks.run import checked

CONF = Path(__file__).parents[2] / "conf"


def choices(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def listed(node):
    """What a method tries that is not read off the model."""
    return [] if node.get("tune") == CALIBRATED else candidates(node)


@pytest.mark.parametrize("name", choices("method"))
def test_methods(name):
    node = OmegaConf.to_container(composed(f"method=[{name}]").method)[name]
    assert build(name, node).name == name
    tried = [with_knobs(node, knobs) for knobs in listed(node)]
    assert len({repr(build(name, one)) for one in tried}) == len(tried), "no candidate is tried twice"


def test_every_tunable_method_has_the_same_budget():
    config = OmegaConf.to_container(composed(f"method=[{','.join(choices('method'))}]"), resolve=False)
    sizes = {len(tried) for node in config["method"].values() if (tried := listed(node))}
    assert sizes == {config["tuning"]["budget"]}


@pytest.mark.parametrize("name", choices("model"))
def test_models(name):
    node = composed(f"model=[{name}]").model[name.replace(".", "_")]
    assert isinstance(create(name, OmegaConf.to_container(node)), Checkpoint)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Everything that a task can ask for."""
    folder = layouts.benchmarks_data(tmp_path_factory.mktemp("data"))
    layouts.draw(folder / "a.png")
    layouts.conversations(folder / "conversations.jsonl", ["a.png"])
    return folder


SMALL = {
    "describe": ["task.describe.images={folder}"],
    "conversations": ["task.conversations.file={folder}/conversations.jsonl"],
    "chair": ["data={folder}", "task.chair.n=4"],
    "amber-generative": ["data={folder}", "task.amber-generative.nouns=table"],
}


@pytest.mark.parametrize("name", choices("task"))
def test_tasks(name, folder):
    given = [word.format(folder=folder) for word in SMALL.get(name, ["data={folder}"])]
    node = OmegaConf.to_container(composed(f"task=[{name}]", *given).task[name], resolve=True)
    task = create(name, node)
    items = task.items()
    assert items
    assert all(item.image_id for item in items)
    assert len({next(iter(item.record.values())) for item in items}) == len(items)
    assert task.answer
    assert task.max_new_tokens > 0
    assert all(path.is_file() for path in task.files())
    known = {"_target_", *(field.name for field in fields(task))}
    assert set(node) == known, "the YAML spells out every field"


@pytest.mark.parametrize("name", choices("tuning"))
def test_tuning(name, folder):
    config = composed(f"tuning={name}", f"data={folder}", "tuning.task.n=2", "task=[chair]", "task.chair.n=2")
    node = OmegaConf.to_container(config.tuning.task, resolve=True)
    task = create(name, {**node, **({"after": 2} if "after" in node else {})})
    assert set(node) == {"_target_", *(field.name for field in fields(task))}, "it spells out every field"
    chair = OmegaConf.to_container(config.task.chair, resolve=True)
    assert not {i.image_id for i in task.items()} & {i.image_id for i in create("chair", chair).items()}
    assert {"CHAIR_i", "recall"} <= set(task.score([{**task.items()[0].record, task.answer: ""}]))


def test_coco_is_tuned_on_other_images_than_it_is_tested_on():
    config = composed("tuning=coco", "task=[chair]")
    assert config.tuning.task.seed == config.task.chair.seed
    assert config.tuning.task.after == config.task.chair.n


@pytest.mark.parametrize("name", choices("generation"))
def test_generation(name):
    assert composed(f"generation={name}").generation.batch_size > 0


@pytest.mark.parametrize("name", choices("experiment"))
def test_experiments(name):
    config = composed(f"experiment={name}")
    ours = {"evidence": "runs/evidence/training-0"}  # where `make evidence` looks for it
    assert config.folder == ours.get(name, config.folder)
    assert config.folder in (f"runs/{name}", f"runs/evidence/{name}", *ours.values())


@pytest.mark.parametrize("name", ["main", "evidence", "alpha-layer", "detectors"])
def test_what_the_commands_of_the_makefile_run_fits_the_models(name):
    config = OmegaConf.to_container(composed(f"experiment={name}"), resolve=True)
    planned = checked(config)
    assert planned.validation is not None
    tried = [candidate.method for found in planned.candidates.values() for candidate in found]
    assert len(tried) > 11


def test_the_main_experiment_is_what_the_project_promises():
    config = composed("experiment=main")
    assert list(config.model) == ["miniature-late-prior", "miniature-natural"]
    assert list(config.method) == [
        *("greedy", "contrast", "skip", "skip1", "skip2", "skip3", "skip-always", "dola"),
    ]
    assert list(config.task) == ["miniature-chair", "miniature-amber", "miniature-yesno"]
    assert all(task.n >= 500 and task.split == "shifted" for task in config.task.values())
    assert config.tuning.task.split == "validation"


@pytest.mark.parametrize("name", choices("method"))
def test_a_methods_own_knobs_are_among_those_tried(name):
    node = OmegaConf.to_container(composed(f"method=[{name}]").method)[name]
    tried = [repr(build(name, with_knobs(node, knobs))) for knobs in listed(node)]
    assert not tried or repr(build(name, node)) in tried


@pytest.mark.parametrize("name", choices("method"))
def test_no_two_candidates_read_the_same_on_the_miniatures(name):
    """Fractions of the depth may round to one readout, which would leave fewer settings than the budget."""
    node = OmegaConf.to_container(composed(f"method=[{name}]").method)[name]
    layers = {"layer", "first", "last", "window", "onset"}
    read = []
    for knobs in listed(node):
        method = build(name, with_knobs(node, knobs))
        if method.strategy is not None:
            others = {key: value for key, value in knobs.items() if key not in layers}
            read.append((method.strategy.readouts(12), method.norm, repr(others)))
    assert len(set(read)) == len(read)
