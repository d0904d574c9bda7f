import pytest


@pytest.fixture(scope="session", autouse=True)
def warm_stages(warm):
    """Stages under DVC start with the warm interpreter, unless a test asks for the real one."""
