"""Hugging Face data sets, by the real library on data sets that lie on this disk."""

import json

import pytest

from chronosae.config import SourceConfig, UserError
from chronosae.corpora import HubSource, open_source


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data set"
    folder.mkdir()
    for split in ("train", "test"):
        rows = ({"text": f"{split} {i}", "id": i} for i in range(5))
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.mark.parametrize("start", [0, 3, 5])
def test_a_split_is_streamed_from_any_row(data_set, start):
    source = HubSource(data_set, name="x", split="test")
    assert list(source.documents(start)) == [f"test {i}" for i in range(start, 5)]


def test_the_fingerprint_tells_splits_apart(data_set):
    train, test = (HubSource(data_set, name="x", split=split) for split in ("train", "test"))
    assert train.fingerprint != test.fingerprint == HubSource(data_set, name="y", split="test").fingerprint


def test_an_unknown_split_names_the_key_and_the_legal_ones(data_set):
    with pytest.raises(UserError, match=r"corpus\.split 'trian'.*train.*test"):
        HubSource(data_set, name="x", split="trian")


def test_an_unknown_subset_names_the_key(data_set):
    with pytest.raises(UserError, match=r"corpus\.subset 'nope'"):
        HubSource(data_set, name="x", subset="nope")


def test_a_missing_field_lists_the_fields_there_are(data_set):
    with pytest.raises(UserError, match="no field 'body'; fields here: text, id"):
        list(HubSource(data_set, name="x", text_field="body").documents())


@pytest.mark.parametrize("name", ["some-owner/some-set", "wikitext"])
def test_a_name_that_is_out_of_reach_says_what_to_do(name):
    with pytest.raises(UserError) as caught:
        open_source(SourceConfig(path=name), key="corpus.sources.1.path")
    assert str(caught.value).startswith(
        f"corpus.sources.1.path: '{name}' is neither a local path nor reachable on the Hugging Face Hub"
    )
    assert str(caught.value).endswith("give a local file or folder with --set corpus.sources.1.path=PATH")
