"""The sweeps of conf/experiment: every value works, moves what it says, and stands beside plain decoding."""

import itertools
import json

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from benchmarks.methods import build, create
from benchmarks.mistakes import CONF

SWEEPS = {"alpha-threshold": 16, "critical": 6, "divergence": 15, "gates": 12, "norm": 6, "windows": 9}


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def runs(name):
    """The overrides of every run of a sweep, as Hydra's own sweeper makes them."""
    params = composed(f"experiment={name}").hydra.sweeper.params
    words = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    values = itertools.product(*(list(word.sweep_string_iterator()) for word in words))
    return [[f"{key}={value}" for key, value in zip(params, combined, strict=True)] for combined in values]


@pytest.mark.parametrize("name", SWEEPS)
def test_every_run_of_a_sweep_is_another_one_that_works(name):
    assert f" {SWEEPS[name]} runs." in (CONF / "experiment" / f"{name}.yaml").read_text()
    seen = set()
    for words in runs(name):
        nodes = OmegaConf.to_container(composed(f"experiment={name}", *words).method, resolve=True)
        methods = {method: build(method, node) for method, node in nodes.items()}
        assert methods["greedy"].strategy is None
        for depth in (12, 32):
            for method in methods.values():
                method.check(depth)
        contrast = methods["contrast"]
        seen.add(repr(contrast))
        if "skip" in methods:
            assert methods["skip"].detector == contrast.detector
            assert methods["skip"].gate == contrast.gate
        assert {m.norm for m in methods.values() if m.strategy} == {contrast.norm}
    assert len(seen) == SWEEPS[name]


@pytest.mark.parametrize("name", SWEEPS)
def test_they_are_measured_on_validation_images(name):
    config = composed(f"experiment={name}")
    assert config.tune is False
    tasks = OmegaConf.to_container(config.task)
    assert [task["split"] for task in tasks.values()] == ["validation"]
    asked = {item.image_id for task in tasks.values() for item in create("task", task).items()}
    final = OmegaConf.to_container(composed("experiment=main").task)
    assert not asked & {item.image_id for task in final.values() for item in create("task", task).items()}


@pytest.mark.filterwarnings("ignore:.* never acted")
def test_a_sweep_runs_and_values_on_the_command_line_go_first(harness, checkpoint, tmp_path):
    small = ("task.miniature-chair.n=4", "task.miniature-chair.max_new_tokens=4", "bootstrap.resamples=100")
    code = harness(
        *("-m", "experiment=windows", "model=[miniature-late-prior]"),
        *(f"model.miniature-late-prior.path={checkpoint}", f"folder={tmp_path}", *small),
        *("method.contrast.detector.critical=0.5", "method.contrast.detector.until=0.8,1.0"),
    )
    assert code == 0
    ends = []
    for path in sorted(tmp_path.glob("*/scores.json")):
        rows = json.loads(path.read_text())["rows"]
        assert [row["method"] for row in rows] == ["greedy", "contrast", "skip"]
        config = OmegaConf.to_container(OmegaConf.load(path.parent / "config.yaml"))
        ends += [config["method"][method]["detector"]["until"] for method in ("contrast", "skip")]
    assert ends == [0.8, 0.8, 1.0, 1.0]
    assert "detector.until=0.8" in (tmp_path / "table.md").read_text()
