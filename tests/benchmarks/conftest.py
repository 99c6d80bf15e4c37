import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data() -> Path:
    """Small real inputs beside the checkout, never part of it."""
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("MUTATION_DECODE_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; point MUTATION_DECODE_TEST_DATA at it")
    return folder
