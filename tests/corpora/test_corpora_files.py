"""Local files and folders: what comes out, and what a person is told when it can't."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chronosae.config import CorpusConfig, SourceConfig, UserError
from chronosae.corpora import CORPORA, Corpus, local, open_source, open_sources

LINES = st.lists(st.text(alphabet="ab\n\r é", max_size=12), min_size=1, max_size=8)


def texts(path: Path, start: int = 0, **options) -> list[str]:
    return list(open_source(SourceConfig(path=str(path), **options)).documents(start))


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path, **columns: list) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


@given(
    text=st.text(alphabet="ab\n\ré", max_size=60),
    separator=st.sampled_from(["\n\n", "\n", "aba"]),
    chunk=st.integers(1, 9),
)
def test_a_text_file_is_split_the_same_however_it_is_read_in_chunks(text, separator, chunk, tmp_path_factory):
    path = tmp_path_factory.mktemp("chunks") / "a.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_CHUNK", chunk)
        assert texts(path, separator=separator) == text.replace("\r\n", "\n").split(separator)


@pytest.mark.parametrize("start", [0, 1, 4, 9])
def test_every_format_resumes_at_any_row(tmp_path, start):
    documents = [f"document {i}" for i in range(7)]
    (tmp_path / "a.txt").write_text("\n\n".join(documents))
    jsonl(tmp_path / "a.jsonl", *({"text": text} for text in documents))
    parquet(tmp_path / "a.parquet", text=documents, label=list(range(7)))
    for suffix in ("txt", "jsonl", "parquet"):
        assert texts(tmp_path / f"a.{suffix}", start) == documents[start:]


def test_a_null_separator_makes_a_file_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    assert texts(tmp_path / "a.txt", separator=None) == ["one\n\ntwo"]


def test_a_folder_reads_its_files_in_order_without_hidden_files_licences_and_readmes(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.txt").write_text("two")
    jsonl(tmp_path / "a.jsonl", {"text": "one"})
    for name in ("README.txt", "LICENSE.txt", ".hidden.txt", "notes.md"):
        (tmp_path / name).write_text("not this")
    assert texts(tmp_path) == ["one", "two"]


def test_the_fingerprint_follows_content_and_reading_but_not_the_place(tmp_path):
    def fingerprint(folder: str, text: str, **options) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "a.txt").write_text(text)
        return open_source(SourceConfig(path=str(tmp_path / folder), **options)).fingerprint

    first = fingerprint("x", "some text")
    assert fingerprint("y", "some text") == first
    assert fingerprint("x", "some texT") != first
    assert fingerprint("y", "some text", separator="\n") != first


def test_a_registered_name_wins_over_a_path_and_gets_split_and_subset():
    class Fixed(Corpus):
        name = "fixed-corpus"

        def documents(self, start: int = 0):
            return iter([f"{(self.split, self.subset)}"][start:])

    CORPORA.add(Fixed)
    source = open_source(SourceConfig(path="fixed-corpus", split="test", subset="small", name="mine"))
    assert (source.name, list(source.documents())) == ("mine", ["('test', 'small')"])


def test_a_source_is_named_after_the_last_part_of_its_path(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    assert open_source(SourceConfig(path=f"{tmp_path}/")).name == tmp_path.name


def not_utf8(folder: Path) -> Path:
    (folder / "a.txt").write_bytes(b"ab\n\ncd\xff")
    return folder / "a.txt"


def not_utf8_line(folder: Path) -> Path:
    (folder / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    return folder / "a.jsonl"


def written(name: str, content: str):
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


MISTAKES = {
    "missing file": (lambda folder: folder / "no.txt", ["corpus.path", "no.txt", "no such file"]),
    "unknown suffix": (written("a.pdf", "x"), ["corpus.path", "a.pdf", ".jsonl, .parquet, .txt"]),
    "empty folder": (lambda folder: folder, ["corpus.path", "has no .jsonl, .parquet or .txt file"]),
    "bytes that are no text": (not_utf8, ["a.txt", "byte 6", "UTF-8"]),
    "bytes that are no text in a line": (not_utf8_line, ["a.jsonl", "byte 24", "UTF-8"]),
    "broken JSON": (written("a.jsonl", '{"text": "a"}\n\n{"text": \n'), ["a.jsonl:3", "not valid JSON"]),
    "a line that is a list": (written("a.jsonl", "[1]\n"), ["a.jsonl:1", "expected an object", "list"]),
    "no text field": (
        lambda folder: jsonl(folder / "a.jsonl", {"body": "a", "id": 1}),
        ["a.jsonl:1", "'text'", "body, id", "text_field"],
    ),
    "a number for text": (lambda folder: jsonl(folder / "a.jsonl", {"text": 3}), ["a.jsonl:1", "int", "text_field"]),
    "a null for text": (lambda folder: jsonl(folder / "a.jsonl", {"text": None}), ["a.jsonl:1", "NoneType"]),
    "half a surrogate pair": (written("a.jsonl", '{"text": "\\ud800"}\n'), ["a.jsonl:1", "surrogate"]),
    "not parquet": (written("a.parquet", "hello"), ["a.parquet", "parquet"]),
    "no text column": (
        lambda folder: parquet(folder / "a.parquet", body=["x"], id=[1]),
        ["a.parquet", "'text'", "body, id", "text_field"],
    ),
    "a number column": (lambda folder: parquet(folder / "a.parquet", text=[1, 2]), ["a.parquet", "int64"]),
    "a null row": (lambda folder: parquet(folder / "a.parquet", text=["a", None]), ["a.parquet, row 1", "NoneType"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_place(mistake, tmp_path):
    make, expected = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        texts(make(tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    for part in expected:
        assert part in message


def test_an_empty_separator_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"corpus\.separator is empty"):
        texts(tmp_path / "a.txt", separator="")


def test_two_sources_of_one_name_are_told_apart_by_the_user(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.txt").write_text("text")
    sources = [{"path": str(tmp_path / folder / "train.txt")} for folder in ("x", "y")]
    with pytest.raises(UserError, match=r"corpus\.sources\.1: a source named 'train\.txt'"):
        open_sources(CorpusConfig.model_validate({"sources": sources}))
