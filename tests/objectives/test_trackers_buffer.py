"""The circular buffer against a plain list of the codes pushed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chronosae.autoencoders import SparseCodes
from chronosae.config import UserError
from chronosae.objectives import CircularFeatureBuffer

D_SAE, BATCH, SLOTS = 11, 3, 4


def random_codes(n: int, seed: int, slots: int = SLOTS, batch: int = BATCH) -> SparseCodes:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.rand(batch, n, D_SAE, generator=generator).topk(slots).indices.sort().values
    values = torch.rand(batch, n, slots, generator=generator) + 0.01
    return SparseCodes(values=values, indices=indices, n_features=D_SAE, scale=None)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 6))
def test_the_window_is_the_last_codes_in_time_order_whatever_the_chunks(chunks, window):
    buffer = CircularFeatureBuffer(BATCH, window, SLOTS, D_SAE)
    pushed = [torch.zeros(BATCH, window, D_SAE)]
    for seed, n in enumerate(chunks):
        codes = random_codes(n, seed)
        buffer.push(codes)
        pushed.append(codes.dense())
    assert torch.equal(buffer.window().dense(), torch.cat(pushed, 1)[:, -window:])
    assert buffer.valid().sum(1).eq(min(window, sum(chunks))).all()


def test_fewer_slots_than_before_leave_nothing_of_the_old_codes():
    buffer = CircularFeatureBuffer(BATCH, 2, SLOTS, D_SAE)
    buffer.push(random_codes(2, 0))
    narrow = random_codes(2, 1, slots=2)
    buffer.push(narrow)
    assert torch.equal(buffer.window().dense(), narrow.dense())


def test_reset_forgets_one_sequence_and_leaves_the_others():
    buffer = CircularFeatureBuffer(BATCH, 3, SLOTS, D_SAE)
    codes, later = random_codes(3, 0), random_codes(1, 1)
    buffer.push(codes)
    buffer.reset(torch.tensor([1]))
    buffer.push(later)
    window = buffer.window().dense()
    assert window[1, :2].eq(0).all() and torch.equal(window[1, 2], later.dense()[1, 0])
    assert torch.equal(window[[0, 2], :2], codes.dense()[[0, 2], 1:])
    buffer.reset()
    assert buffer.window().dense().eq(0).all()


def test_reorder_makes_each_sequence_a_copy_of_the_one_named():
    buffer = CircularFeatureBuffer(BATCH, 3, SLOTS, D_SAE)
    buffer.push(random_codes(5, 0))
    before = buffer.window().dense()
    buffer.reorder(torch.tensor([2, 2, 0]))
    assert torch.equal(buffer.window().dense(), before[[2, 2, 0]])


@given(st.integers(0, 1000), st.floats(1e-6, 1e6))
def test_eight_bits_keep_what_fired_within_the_stated_error(seed, size):
    codes = random_codes(4, seed)
    values = codes.values**6 * size  # spread over many powers of ten
    values[0, 0] = 0  # a token on which nothing fires
    codes = SparseCodes(values=values, indices=codes.indices, n_features=D_SAE, scale=None)
    buffer = CircularFeatureBuffer(BATCH, 4, SLOTS, D_SAE, eight_bit=True)
    buffer.push(codes)
    stored, largest = buffer.window().values, values.amax(-1, keepdim=True)
    error, room = (stored - values).abs(), 1 + 1e-5
    small = values < largest / 510
    assert (error <= torch.where(small, largest / 255, largest / 510) * room).all()
    assert torch.equal(stored != 0, values != 0)


def test_eight_bits_take_less_memory_and_refuse_negative_codes():
    wide, narrow = (CircularFeatureBuffer(BATCH, 64, 32, D_SAE, eight_bit=eight_bit) for eight_bit in (False, True))
    assert narrow.values.nbytes * 4 == wide.values.nbytes and narrow.nbytes() < wide.nbytes()
    codes = random_codes(1, 0)
    negative = SparseCodes(values=-codes.values, indices=codes.indices, n_features=D_SAE, scale=None)
    wide.push(SparseCodes(values=-codes.values, indices=codes.indices, n_features=D_SAE, scale=None))
    with pytest.raises(UserError, match="8-bit feature buffer keeps non-negative codes"):
        narrow.push(negative)


def test_the_buffer_allocates_once_saves_loads_and_moves():
    buffer, other = (CircularFeatureBuffer(BATCH, 3, SLOTS, D_SAE) for _ in range(2))
    address = buffer.values.data_ptr()
    for seed in range(3):
        buffer.push(random_codes(2, seed))
    assert buffer.values.data_ptr() == address
    other.load_state_dict(buffer.state_dict())
    for each in (buffer, other):
        each.push(random_codes(1, 9))
    assert torch.equal(buffer.window().dense(), other.window().dense())
    assert buffer.to(dtype=torch.bfloat16).window().values.dtype == torch.bfloat16
    assert buffer.to("meta").values.is_meta


def test_the_buffer_keeps_no_graph():
    codes = random_codes(2, 0)
    buffer = CircularFeatureBuffer(BATCH, 3, SLOTS, D_SAE)
    values = codes.values.clone().requires_grad_()
    buffer.push(SparseCodes(values=values, indices=codes.indices, n_features=D_SAE, scale=None))
    assert not buffer.values.requires_grad


def test_codes_of_another_shape_and_empty_sizes_are_refused():
    with pytest.raises(ValueError, match="holds 3 sequences, 4 slots"):
        CircularFeatureBuffer(BATCH, 3, SLOTS, D_SAE).push(random_codes(1, 0, slots=5))
    with pytest.raises(ValueError, match="holds 3 sequences"):
        CircularFeatureBuffer(BATCH, 3, SLOTS, D_SAE).push(random_codes(1, 0, batch=2))
    with pytest.raises(UserError, match="at least 1"):
        CircularFeatureBuffer(BATCH, 0, SLOTS, D_SAE)
