"""One tiny subject and one set of sequences for the whole room."""

import pytest
from evals_tiny import CONTEXT, likely_tokens, make_batch, random_mask, tiny_subject

from chronosae.activations import SequenceBatch
from chronosae.subject import Subject


@pytest.fixture(scope="session")
def subject() -> Subject:
    return tiny_subject()


@pytest.fixture(scope="session")
def batch(subject: Subject) -> SequenceBatch:
    tokens = likely_tokens(subject, 10)
    return make_batch(subject, tokens, random_mask((10, CONTEXT), seed=1))
