"""MiniLM and its data, or the reason why they are not here."""

import os

import pytest

from missviz import networks


@pytest.fixture(scope="session")
def packages():
    if reason := networks.missing():
        if os.environ.get("MISSVIZ_REQUIRE_NETWORKS"):
            pytest.fail(f"CI needs the pretrained network, but {reason}")
        pytest.skip(f"tests with a pretrained network did not run: {reason}")


@pytest.fixture(scope="session")
def minilm(packages):
    return networks.minilm()
