"""The engines that stores are tested with."""

import pytest

from tests.scale.engines import Engine, HashEncoder, fast_folder


@pytest.fixture(scope="session")
def _fast_folder():
    with fast_folder() as folder:
        yield folder


@pytest.fixture
def engine(request, _fast_folder):
    """An engine by its name, as the tests' parameter; what it opened is closed after the test."""
    made = Engine(request.param, _fast_folder)
    yield made
    made.close()


@pytest.fixture
def encoder():
    return HashEncoder()
