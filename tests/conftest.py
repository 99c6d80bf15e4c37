"""Fixtures of the library's tests: model families, left as they were by every test; and what is skipped."""

import os
import re

os.environ.setdefault("OMP_NUM_THREADS", "1")

from typing import Any

import pytest
import torch
import transformers
from families import FAMILIES, Family, build, llama, llava, ours_on
from packaging.version import Version

transformers.utils.logging.set_verbosity_error()
torch.set_num_threads(1)

SINCE = (
    ("5.12", r"test_without_trust_it_is", "doubts about folders of generate functions"),
    ("5.13", r"\[static-(qwen3_next|bamba|lfm2)\]", "static caches with recurrent states"),
    ("5.14", r"\[static-falcon_h1\]|\[LinearAttentionAndStatic", "static caches with both kinds in a block"),
    ("5.14", r"test_what_is_refused_wherever.*use_mtp", "a prediction of several tokens by the model itself"),
    ("5.13", r"[\[-]zaya\]|test_what_blocks_hand_on_beside_their_states", "the model type zaya"),
    ("5.17", r"test_where_generate_stops_a_step_late", "a loop that stops a step late"),
    ("5.18", r"\[static-mllama\]", "static caches for mllama"),
    (
        "5.18",
        r"[\[-]idefics3\]|test_an_eleventh_model|another_package|test_settings_of_the_processor",
        "idefics3's images without torchvision",
    ),
    (
        "5.18",
        r"test_(a_batch_gives|the_text_holds|words_that_are_taken).*\[gemma3\]",
        "gemma3's images counted by its processor as those of others are",
    ),
    ("5.18", r"test_a_hub_that_answers", "a look for adapters at the revision that is asked for"),
    ("5.23", r"test_a_chat_template_that_knows_of_no_images", "a check that a prompt has its images"),
    ("5.23", r"\[inkling2\]", "the model type inkling2"),
    ("5.23", r"test_every_cache_that_generate_makes\[quantized\]", "a quantised cache of its own"),
)
"""What older transformers cannot do without this library either: since when they can, and its tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what this transformers cannot do."""
    for since, tests, what in SINCE:
        if Version(transformers.__version__) < Version(since):
            for item in items:
                if re.search(tests, item.nodeid):
                    item.add_marker(pytest.mark.skip(f"transformers has {what} since {since}"))


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


@pytest.fixture(params=["one", "other"], ids=["llava", "llama"])
def plain_family(request: pytest.FixtureRequest) -> Family:
    """A model with pictures and one without, in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def _models_are_left_as_they_were(request: pytest.FixtureRequest) -> Any:
    """No test leaves a hook or a stand-in method on a shared model."""
    yield
    for name in {"family", "one", "other"} & set(request.fixturenames):
        model = request.getfixturevalue(name).model
        assert "generate" not in model.__dict__, f"{name}: generate is still intercepted"
        assert ours_on(model) == [], f"{name}: hooks left"
