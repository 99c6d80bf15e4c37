"""Fixtures of the library's tests: model families, and a check that they are left as they were."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from typing import Any

import pytest
import torch
import transformers
from families import FAMILIES, Family, build, llama, llava, ours_on

transformers.utils.logging.set_verbosity_error()
torch.set_num_threads(1)


@pytest.fixture(scope="session", params=FAMILIES, ids=lambda make: make.__name__)
def family(request: pytest.FixtureRequest) -> Family:
    """Each model family in turn."""
    return build(request.param)


@pytest.fixture(scope="session")
def one() -> Family:
    """One family with images, for what does not depend on the family."""
    return build(llava)


@pytest.fixture(scope="session")
def other() -> Family:
    """Another model, of the same kind as `one`."""
    return build(llama)


@pytest.fixture(autouse=True)
def _models_are_left_as_they_were(request: pytest.FixtureRequest) -> Any:
    """No test leaves a hook or a stand-in method on a shared model."""
    yield
    for name in {"family", "one", "other"} & set(request.fixturenames):
        model = request.getfixturevalue(name).model
        assert "generate" not in model.__dict__, f"{name}: generate is still intercepted"
        assert ours_on(model) == [], f"{name}: hooks left"
