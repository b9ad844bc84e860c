"""Set up for all tests: no network, and property tests that a slow machine doesn't fail."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile("fute", deadline=None, max_examples=60)
settings.load_profile("fute")


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    """A folder for property tests, which can't have a fresh one for each example."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="session")
def features():
    """Features of MiniLM-L6 in float32, loaded once for all tests."""
    from fute.surrogates.base import Surrogate
    from fute.surrogates.features import Features

    return Features(Surrogate(dtype="float32"))


@pytest.fixture
def public_folder():
    """A folder that other users can read too, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
