"""One tiny subject of each family, built once."""

import pytest
from subject_families import FAMILY_CONFIGS, tiny_model

from chronosae.subject import Subject


@pytest.fixture(params=list(FAMILY_CONFIGS), scope="session")
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject(tiny_model(request.param), tokenizer=None, name=request.param)
