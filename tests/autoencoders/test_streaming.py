"""Codes fed in any chunks equal whole-sequence codes, whatever happens to the sequences on the way."""

import pytest
import torch
from autoencoder_cases import CASES, D_IN, Inputs, close, inputs, make
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronosae.autoencoders import Activation, Autoencoder, Layout
from chronosae.autoencoders.parts.pre_activations import PreActivations
from chronosae.autoencoders.tokens import Tokens, default_positions, number_documents

CAUSAL = [name for name in CASES if make(name).causal]
each_causal = pytest.mark.parametrize("name", CAUSAL)
few = settings(max_examples=4)
seeds = st.integers(0, 10_000)
chunks = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def stream_whole(sae: Autoencoder, data: Inputs, sizes: list[int], **options: bool) -> Tensor:
    """Dense codes of the data in chunks of these sizes."""
    stream, parts, start = sae.stream(len(data.acts)), [], 0
    for n in sizes:
        part = slice(start, start + n)
        mask = data.mask[:, part] if options.get("mask", True) else None
        documents = data.doc_ids[:, part] if options.get("doc_ids", True) else None
        parts.append(stream.step(data.acts[:, part], mask, doc_ids=documents).dense())
        start += n
    return torch.cat(parts, 1)


@each_causal
@few
@given(sizes=chunks, with_mask=st.booleans(), with_documents=st.booleans(), seed=seeds)
def test_codes_in_any_chunks_equal_those_of_the_whole(
    name: str, sizes: list[int], with_mask: bool, with_documents: bool, seed: int
) -> None:
    sae, data = make(name, "token"), inputs(2, sum(sizes), seed)
    absent = ({} if with_mask else {"mask": None}) | ({} if with_documents else {"doc_ids": None})
    found = stream_whole(sae, data, sizes, mask=with_mask, doc_ids=with_documents)
    close(found, data.encode(sae, **absent))


class Model:
    """What a stream should answer: every sequence's tokens so far, encoded from scratch at each step."""

    def __init__(self, sae: Autoencoder, rows: int, documents: bool) -> None:
        self.sae, self.rows = sae, [self.empty() for _ in range(rows)]
        self.given = {} if documents else {"doc_ids": None}

    @staticmethod
    def empty() -> Inputs:
        none = torch.zeros(1, 0)
        return Inputs(torch.zeros(1, 0, D_IN, dtype=torch.float64), none.bool(), none.long())

    def step(self, new: Inputs) -> Tensor:
        for i, old in enumerate(self.rows):
            pairs = zip(
                (old.acts, old.mask, old.doc_ids),
                (new.acts[i : i + 1], new.mask[i : i + 1], new.doc_ids[i : i + 1]),
                strict=True,
            )
            self.rows[i] = Inputs(*(torch.cat(pair, 1) for pair in pairs))
        return torch.cat([row.encode(self.sae, **self.given)[:, -new.acts.shape[1] :] for row in self.rows])

    def take_back(self, n: int) -> None:
        self.rows = [Inputs(r.acts[:, :-n], r.mask[:, :-n], r.doc_ids[:, :-n]) for r in self.rows]


@each_causal
@settings(max_examples=3)
@given(data=st.data(), documents=st.booleans(), seed=seeds)
def test_beams_crops_and_resets_leave_what_encoding_from_scratch_gives(
    name: str, data: st.DataObject, documents: bool, seed: int
) -> None:
    sae, rewind = make(name), 5
    stream, model = sae.stream(3, rewind=rewind), Model(sae, 3, documents)
    can_take_back = 0
    for turn in range(5):
        new = inputs(len(model.rows), data.draw(st.integers(1, 4)), seed + turn)
        codes = stream.step(new.acts, new.mask, doc_ids=new.doc_ids if documents else None)
        close(codes.dense(), model.step(new))
        can_take_back = min(rewind, can_take_back + new.acts.shape[1])
        match data.draw(st.sampled_from(["nothing", "reorder", "crop", "reset", "reset all"])):
            case "reorder":
                order = data.draw(st.lists(st.integers(0, len(model.rows) - 1), min_size=1, max_size=4))
                stream.reorder(torch.tensor(order))
                model.rows = [model.rows[i] for i in order]
            case "crop":
                back = data.draw(st.integers(1, can_take_back))
                stream.crop(stream.length - back)
                model.take_back(back)
                can_take_back -= back
            case "reset":
                row = data.draw(st.integers(0, len(model.rows) - 1))
                stream.reset(torch.tensor([row]))
                model.rows[row], can_take_back = model.empty(), 0
            case "reset all":
                stream.reset()
                model.rows, can_take_back = [model.empty() for _ in model.rows], 0
                assert stream.length == 0
        if can_take_back == 0:
            with pytest.raises(ValueError, match="this stream can take back 0"):
                stream.crop(stream.length - 1)


def near_tie(activation: Activation, pre: Tensor, margin: float = 1e-4) -> Tensor:
    """Tokens where a rounding error of `margin` may choose other features."""
    sets = [activation(pre + shift, None, None, False).dense() != 0 for shift in (margin, 0, -margin)]
    at_threshold = (sets[0] != sets[2]).any(-1)
    last_in = torch.where(sets[1], pre, torch.inf).amin(-1)
    first_out = torch.where(sets[1], -torch.inf, pre).amax(-1)
    return at_threshold | ((last_in - first_out).abs() < margin)


def pre_activations(sae: Autoencoder, data: Inputs) -> Tensor:
    """What the activation function is given outside training."""
    layout = Layout(data.mask, default_positions(data.mask), number_documents(data.doc_ids))
    with torch.no_grad():
        pre, _ = sae.encode_tokens(Tokens(*sae.normalise(data.acts), data.mask, layout))
    return pre.dense if isinstance(pre, PreActivations) else pre


@each_causal
def test_in_float32_chunks_equal_the_whole_but_for_near_ties(name: str) -> None:
    sae, data = make(name, dtype=torch.float32), inputs(40, 36, 0, torch.float32)
    found, expected = stream_whole(sae, data, [1, 20, 1, 2, 12]), data.encode(sae)
    tie = near_tie(sae.activation, pre_activations(sae, data))
    wrong = ((found - expected).abs() > 1e-5 * (1 + expected.abs())).any(-1)
    assert not (wrong & ~tie).any()
    assert (wrong & tie).double().mean() < 0.01


@pytest.mark.parametrize("name", sorted(set(CASES) - set(CAUSAL)))
def test_what_looks_ahead_cannot_stream_and_says_so(name: str) -> None:
    with pytest.raises(ValueError, match="looks ahead can't stream: its codes need later tokens"):
        make(name).stream()


def test_another_number_of_sequences_says_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"holds 2 sequences and takes \[batch, n, d_in\], got \[3, 1, 8\]"):
        make("chrono").stream(2).step(torch.zeros(3, 1, D_IN))


def test_more_rewind_than_asked_for_says_how_to_get_it() -> None:
    stream = make("chrono").stream(1, rewind=2)
    stream.step(inputs(1, 9, 0).acts)
    with pytest.raises(ValueError, match=r"can't crop 9 tokens to 6: this stream can take back 2; .* rewind=N"):
        stream.crop(6)


def test_documents_must_be_given_at_every_step_or_at_none() -> None:
    stream, data = make("chrono").stream(1), inputs(1, 2, 0)
    stream.step(data.acts)
    with pytest.raises(ValueError, match="doc_ids at every step of a stream or at none"):
        stream.step(data.acts, doc_ids=data.doc_ids)


def test_a_position_beyond_the_mask_leaves_the_stream_as_it_was() -> None:
    sae, data = make("soft_mask"), inputs(1, 44, 0)
    stream = sae.stream(1)
    stream.step(data.acts[:, :38])
    with pytest.raises(ValueError, match="position 43 is beyond the position mask, which knows 0 to 39"):
        stream.step(data.acts[:, 38:])
    close(stream.step(data.acts[:, 38:40]).dense(), sae.encode(data.acts[:, :40]).dense()[:, 38:])


def test_a_stream_keeps_no_more_than_its_parts_look_back() -> None:
    stream = make("chrono").stream(2, rewind=3)
    for _ in range(5):
        stream.step(inputs(2, 7, 0).acts)
    assert stream.memory.rows["kernel"].values.shape == (2, 2 * 3 + 3, 24)
