"""Set up for all tests: no network, and property tests that a slow machine doesn't fail."""

import os

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile("fute", deadline=None, max_examples=60)
settings.load_profile("fute")


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    """A folder for property tests, which can't have a fresh one for each example."""
    return tmp_path_factory.mktemp("scratch")
