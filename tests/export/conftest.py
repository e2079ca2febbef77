"""The toy encoder as it is exported today."""

import pytest

from relsdk_export.encoder import export_encoder


@pytest.fixture(scope="session")
def toy_bundle(toy_checkpoint, tmp_path_factory):
    """An exported toy encoder; shared by tests, so nobody may change it."""
    return export_encoder(toy_checkpoint, tmp_path_factory.mktemp("bundles") / "toy").path
