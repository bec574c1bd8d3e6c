"""The cache holds what the subject says, survives a stop at any shard, and never hands out damaged or stale data."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chronosae.activations import (
    Ahead,
    CacheBuilder,
    CachedStream,
    build_cache,
    cache_bytes,
    open_stream,
    store,
)
from chronosae.activations import cache as cache_module
from chronosae.activations import cached as cached_module
from chronosae.activations.cached import PinnedSlots
from chronosae.config import UserError

DTYPES = ["float32", "bfloat16", "int8"]
SITE = "blocks.0.hook_resid_post"


@pytest.fixture
def cached(run_config, monkeypatch):
    """A run with a cache of several small shards: 8 contexts each."""
    monkeypatch.setattr(cache_module, "_SHARD_BYTES", 8 * cache_bytes(1, 16, [16, 16], "float32"))

    def make(dtype="float32", **changes):
        cfg = run_config(**changes)
        acts = cfg.activations.model_copy(update={"store": "cache", "cache_dtype": dtype})
        return cfg.model_copy(update={"activations": acts})

    return make


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cache_equals_the_live_harvest_up_to_its_precision(tiny, cached, tmp_path, dtype):
    cfg = cached(dtype)
    shards = build_cache(cfg, tiny, tmp_path / "cache")
    stream = CachedStream(shards, cfg.subject.sites, dtype, batch_sequences=6)
    live = store.training_sequences(cfg, tiny, for_cache=True).take(len(stream))
    assert len(shards.shards) > 2 and len(stream) == len(live)
    for start in range(0, len(stream), 4):  # as it was harvested
        chunk = live[start : start + 4]
        read = stream.read(range(start, start + len(chunk)))
        for site in cfg.subject.sites:
            acts = tiny.activations(chunk.tokens, [site])[site]
            if dtype == "float32":
                assert torch.equal(read[site].acts, acts)
            elif dtype == "bfloat16":
                assert torch.equal(read[site].acts, acts.bfloat16().float())
            else:
                scale = acts.abs().amax(-1, keepdim=True) / 127
                assert ((read[site].acts - acts).abs() <= scale * 0.50001).all()
            for name in ("tokens", "doc_ids", "mask", "positions"):
                assert torch.equal(getattr(read[site], name), getattr(chunk, name))
            assert read[site].source == chunk.source


@given(
    st.lists(st.floats(-(2.0**90), 2.0**90, width=32, allow_subnormal=False), min_size=4, max_size=4),
    st.sampled_from(DTYPES),
)
def test_a_stored_vector_comes_back_within_its_bound(vector, dtype):
    acts = torch.tensor(vector).view(1, 1, 4)
    stored = cache_module.encode("x", acts, dtype)
    back = cache_module.decode("x", {name: torch.from_numpy(array) for name, array in stored.items()}, dtype)
    into = np.empty(acts.shape, np.float32)
    cache_module.decode_into(into, "x", stored, dtype)
    assert torch.equal(torch.from_numpy(into), back)
    absmax = acts.abs().max()
    bound = {"float32": 0.0, "bfloat16": absmax * 2**-8, "int8": absmax / 127 * 0.50001 + 1e-37}[dtype]
    assert ((back - acts).abs() <= bound).all()


def test_the_cache_holds_one_pass_when_the_text_is_less_than_the_budget(tiny, cached, tmp_path, documents_in):
    texts = [f"document {i} " + "x" * (i % 7) for i in range(40)]
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    corpus = {"path": str(tmp_path / "a.txt"), "holdout_every": 4}
    cfg = cached(corpus=corpus, training={"tokens": 16 * 6 * 1000, "batch_tokens": 16 * 6})
    stream = open_stream(cfg, tiny, tmp_path / "cache")
    *whole, last = documents_in(stream.read(range(len(stream)))[SITE])
    trained = [text for i, text in enumerate(texts) if i % 4 != 3]
    assert whole == trained[: len(whole)] and trained[len(whole)].startswith(last)
    # what doesn't fill the last context is lost, nothing else
    assert len("".join(trained)) - len("".join(whole) + last) < 16


@pytest.mark.parametrize("stop", [0, 1, 3, 8, 13])
def test_a_cached_stream_resumed_at_any_batch_goes_on_as_if_uninterrupted(tiny, cached, tmp_path, stop):
    cfg = cached()
    first = open_stream(cfg, tiny, tmp_path / "cache")
    for _ in range(stop):
        first.next()
    second = open_stream(cfg, tiny, tmp_path / "cache")
    second.load_state_dict(first.state_dict())
    assert second.epochs == first.epochs
    for _ in range(10):
        left, right = first.next()[SITE], second.next()[SITE]
        assert torch.equal(left.acts, right.acts) and torch.equal(left.tokens, right.tokens)


def test_every_epoch_reads_every_sequence_once_in_another_order(tiny, cached, tmp_path):
    stream = open_stream(cached(training={"tokens": 16 * 12, "batch_tokens": 16 * 12}), tiny, tmp_path / "cache")
    assert len(stream) == 12
    epochs = [[tuple(row) for row in stream.next()[SITE].tokens.tolist()] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) and epochs[0] != epochs[1]


@pytest.mark.parametrize("stop_after", [1, 5, 10])
def test_an_interrupted_build_goes_on_at_the_next_shard(tiny, cached, tmp_path, monkeypatch, stop_after):
    cfg = cached()
    build_cache(cfg, tiny, tmp_path / "whole")
    calls = 0

    def failing(*args):
        nonlocal calls
        calls += 1
        if calls > stop_after:
            raise KeyboardInterrupt
        return harvest(*args)

    harvest = cache_module.harvest
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "harvest", failing)
        with pytest.raises(KeyboardInterrupt):
            build_cache(cfg, tiny, tmp_path / "stopped")
    before = files(tmp_path / "stopped")
    build_cache(cfg, tiny, tmp_path / "stopped")
    after = files(tmp_path / "stopped")
    assert after == files(tmp_path / "whole")
    assert all(
        after[name] == content
        for name, content in before.items()
        if name.startswith("shard") and ".partial" not in name
    )


def damage(file, how):
    content = bytearray(file.read_bytes())
    if how == "truncated":
        file.write_bytes(content[:-5])
    elif how == "missing":
        file.unlink()
    else:
        content[-7] ^= 4
        file.write_bytes(content)


@pytest.mark.parametrize("how", ["flipped bit", "truncated", "missing"])
@pytest.mark.parametrize("name", [f"{SITE}.npy", "tokens.npy"])
def test_a_damaged_shard_is_named_and_never_read_and_alone_built_anew(tiny, cached, tmp_path, how, name):
    cfg, folder = cached(), tmp_path / "cache"
    build_cache(cfg, tiny, folder)
    whole = files(folder)
    damage(folder / "shard-00001" / name, how)
    with pytest.raises(UserError, match=rf"shard-00001.{name}: .*damaged; delete the folder .*shard-00001"):
        stream = open_stream(cfg, tiny, folder)
        for _ in range(20):
            stream.next()
    shutil.rmtree(folder / "shard-00001")
    open_stream(cfg, tiny, folder)
    assert files(folder) == whole


def test_a_broken_manifest_is_named(tiny, cached, tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json: not a readable manifest"):
        build_cache(cached(), tiny, tmp_path)


def test_a_cache_of_other_text_or_settings_is_refused_and_says_what_differs(tiny, cached, tmp_path):
    cfg, folder = cached(), tmp_path / "cache"
    build_cache(cfg, tiny, folder)
    with pytest.raises(UserError, match=r"something else \(differs in: seed\).*activations\.cache_dir"):
        build_cache(cfg.model_copy(update={"seed": 7}), tiny, folder)
    (tmp_path / "keep.txt").write_text("other words altogether\n\n" * 40)
    with pytest.raises(UserError, match=r"differs in: corpus\)"):
        build_cache(cfg, tiny, folder)


def test_a_state_of_another_cache_is_refused(tiny, cached, tmp_path):
    state = open_stream(cached(), tiny, tmp_path / "a").state_dict()
    other = open_stream(cached("int8"), tiny, tmp_path / "b")
    with pytest.raises(UserError, match="doesn't belong to the activations"):
        other.load_state_dict(state)


def test_the_size_is_foretold_and_too_small_a_disk_is_refused_before_the_start(tiny, cached, tmp_path, monkeypatch):
    cfg, folder = cached("int8"), tmp_path / "cache"
    stream = open_stream(cfg, tiny, folder)
    on_disk = sum(p.stat().st_size for p in folder.rglob("*.npy") if p.name != "source.npy")
    foretold = cache_bytes(len(stream), 16, [16, 16], "int8")
    assert on_disk - foretold == 128 * sum(p.name != "source.npy" for p in folder.rglob("*.npy"))  # headers
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match=r"needs .* GB and has .* GB free; lower training\.tokens"):
        build_cache(cfg, tiny, tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_size_foretold_is_that_of_all_values_to_the_byte(tiny, cached, tmp_path, dtype):
    stream = open_stream(cached(dtype), tiny, tmp_path)
    arrays = [np.load(file) for file in tmp_path.rglob("*.npy") if file.name != "source.npy"]
    assert sum(array.nbytes for array in arrays) == cache_bytes(len(stream), 16, [16, 16], dtype)


def test_a_cache_is_written_where_only_writable_files_can_be_flushed_and_no_folder_opened(
    tiny, cached, tmp_path, monkeypatch
):
    """The rules of Windows."""
    fcntl = pytest.importorskip("fcntl")
    fsync, open_descriptor, flushed = os.fsync, os.open, []

    def flush(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "read-only")
        flushed.append(descriptor)
        fsync(descriptor)

    def open_file(path, *args, **options):
        if not options and Path(path).is_dir():
            raise PermissionError(errno.EACCES, "a folder")
        return open_descriptor(path, *args, **options)

    monkeypatch.setattr(cache_module, "_WINDOWS", True)
    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "open", open_file)
    shards = build_cache(cached(), tiny, tmp_path / "cache")
    assert shards.complete and len(flushed) > len(shards.shards) * 5


def test_a_cache_without_a_folder_says_what_to_set(tiny, cached):
    with pytest.raises(UserError, match=r"set activations\.cache_dir"):
        open_stream(cached(), tiny)


def test_a_corpus_without_one_context_builds_nothing(tiny, cached, tmp_path):
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(UserError, match="fewer than one context of 16"):
        build_cache(cached(corpus={"path": str(tmp_path / "a.txt")}), tiny, tmp_path / "cache")


def test_the_builder_is_content_with_a_shard_larger_than_the_corpus(tiny, cached, tmp_path):
    cfg = cached()
    builder = CacheBuilder(
        tmp_path / "cache",
        {"made": "here"},
        lambda: store.training_sequences(cfg, tiny, for_cache=True),
        tiny,
        [SITE],
        n_sequences=9,
        context=16,
        harvest_sequences=4,
        dtype="float32",
        shard_sequences=100,
    )
    assert [shard["rows"] for shard in builder.build().shards] == [9]


def test_a_run_compares_its_cache_with_the_checksums_once_and_a_changed_file_again(tiny, cached, tmp_path, monkeypatch):
    cfg, hashed = cached(), []
    build_cache(cfg, tiny, tmp_path / "cache")
    plain = cache_module._sha256
    monkeypatch.setattr(cache_module, "_sha256", lambda path: hashed.append(path.name) or plain(path))
    for _ in range(2):  # for the measurement of the scale, and for the training
        stream = open_stream(cfg, tiny, tmp_path / "cache")
        stream.read(range(len(stream)))
    assert len(hashed) == len(set(hashed)) * len(stream._shards.shards) > 0
    path = tmp_path / "cache" / "shard-00000" / "tokens.npy"
    os.utime(path, ns=(0, 0))
    open_stream(cfg, tiny, tmp_path / "cache").read([0])
    assert hashed[-1] == path.name


@pytest.mark.parametrize("dtype", DTYPES)
def test_reading_ahead_reaches_every_row_of_a_shard(tiny, cached, tmp_path, dtype):
    cfg = cached(dtype)
    stream = CachedStream(build_cache(cfg, tiny, tmp_path / "cache"), cfg.subject.sites, dtype, batch_sequences=6)
    stream._read_ahead(range(len(stream) - 1, -1, -1))
    expected = stream.read(range(6, len(stream)))
    assert len(expected[SITE].acts) == len(stream) - 6


def test_a_cache_of_more_files_than_may_be_open_is_read_all_the_same(tiny, cached, tmp_path, monkeypatch):
    cfg = cached()
    whole = open_stream(cfg, tiny, tmp_path / "cache")
    monkeypatch.setattr(cached_module, "_OPEN_AT_MOST", 2)
    few = open_stream(cfg, tiny, tmp_path / "cache")
    for _ in range(4):
        left, right = whole.next()[SITE], few.next()[SITE]
        assert torch.equal(left.acts, right.acts) and left.source == right.source
    assert len(few._rows._open) == 2


def test_a_file_cut_short_while_a_run_reads_it_is_told(tiny, cached, tmp_path):
    stream = open_stream(cached(), tiny, tmp_path / "cache")
    stream.read([0])
    path = tmp_path / "cache" / "shard-00000" / f"{SITE}.npy"
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(UserError, match="became shorter while it was read"):
        stream.read([7])


@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_sent_as_they_are_stored_are_those_decoded_here(tiny, cached, tmp_path, dtype):
    cfg = cached(dtype)
    decoded, sent = (open_stream(cfg, tiny, tmp_path / "cache") for _ in range(2))
    sent._slots = PinnedSlots(torch.device("cpu"))
    for _ in range(5):
        left, right = decoded.next(), sent.next()
        assert all(torch.equal(left[site].acts, right[site].acts) for site in cfg.subject.sites)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpu_gets_the_batches_that_a_cpu_gets(tiny, cached, tmp_path, dtype):
    cfg = cached(dtype)
    here = open_stream(cfg, tiny, tmp_path / "cache")
    there = CachedStream(here._shards, cfg.subject.sites, dtype, batch_sequences=6, seed=cfg.seed, device="cuda")
    with Ahead(there, device="cuda") as ahead:
        for _ in range(6):
            left, right = here.next()[SITE], ahead.next()[SITE]
            assert torch.equal(left.acts, right.acts.cpu()) and torch.equal(left.tokens, right.tokens.cpu())
