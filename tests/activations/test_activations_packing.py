"""Packing: whole contexts, no token lost, repeated or moved; masks that no text can forge."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chronosae.activations import Encoder, token_mask
from chronosae.activations.sequences import Packer, stack_state, unstack_state

BOS = 0
DOCUMENTS = st.lists(st.lists(st.integers(3, 200), max_size=20), max_size=12)


def pack(documents: list[list[int]], context: int, bos: int | None):
    packer = Packer(context, bos, source=4)
    return packer, [packed for i, ids in enumerate(documents) for packed in packer.feed(ids, i)]


@given(documents=DOCUMENTS, context=st.integers(2, 9), bos=st.sampled_from([BOS, None]))
def test_every_token_of_every_document_appears_once_in_order_under_its_id(documents, context, bos):
    packer, contexts = pack(documents, context, bos)
    rest = packer.state_dict()
    tokens = [int(t) for packed in contexts for t in packed.tokens] + rest["tokens"]
    doc_ids = [int(d) for packed in contexts for d in packed.doc_ids] + rest["doc_ids"]
    kept = [(t, d) for t, d in zip(tokens, doc_ids, strict=True) if t != BOS]
    assert kept == [(t, i) for i, ids in enumerate(documents) for t in ids]


@given(documents=DOCUMENTS, context=st.integers(2, 9))
def test_contexts_are_whole_and_bos_starts_each_of_them_and_each_document(documents, context):
    _, contexts = pack(documents, context, BOS)
    for packed in contexts:
        assert packed.tokens.shape == packed.doc_ids.shape == (context,)
        assert packed.source == 4
        starts = [True, *(packed.doc_ids[1:] != packed.doc_ids[:-1])]
        assert [bool(t == BOS) for t in packed.tokens] == starts


@given(documents=DOCUMENTS, stop=st.integers(0, 12), context=st.integers(2, 9))
def test_a_packer_resumed_between_documents_goes_on_as_if_uninterrupted(documents, stop, context):
    _, whole = pack(documents, context, BOS)
    first, head = pack(documents[:stop], context, BOS)
    second = Packer(context, BOS, source=4)
    second.load_state_dict(first.state_dict())
    tail = [p for i, ids in enumerate(documents[stop:], start=len(documents[:stop])) for p in second.feed(ids, i)]
    joined = unstack_state(stack_state(head + tail, context))
    assert [p.tokens.tolist() for p in joined] == [p.tokens.tolist() for p in whole]
    assert [p.doc_ids.tolist() for p in joined] == [p.doc_ids.tolist() for p in whole]


@given(rows=st.lists(st.lists(st.integers(0, 6), min_size=5, max_size=5), min_size=1, max_size=4))
def test_the_mask_leaves_out_special_tokens_and_the_first_position_and_nothing_else(rows):
    tokens = torch.tensor(rows)
    expected = [[p > 0 and token > 2 for p, token in enumerate(row)] for row in rows]
    assert token_mask(tokens, (0, 1, 2)).tolist() == expected
    assert token_mask(tokens, (0, 1, 2), exclude_special=False).all()


def test_text_that_spells_special_tokens_stays_text(tiny):
    encoder = Encoder(tiny.tokenizer)
    (ids,) = encoder(["a<s>b</s><pad>"])
    assert len(ids) == len("a<s>b</s><pad>")
    assert not set(ids) & set(encoder.special_ids)


@pytest.mark.parametrize("folder", ["models/stories260k", "data/gpt2_tokenizer"])
def test_real_tokenizers_read_no_special_token_out_of_text(shared, folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / folder)
    encoder = Encoder(tokenizer)
    text = "a <s> b </s> <|endoftext|> <unk> c"
    (ids,) = encoder([text])
    assert not set(ids) & set(encoder.special_ids)
    assert tokenizer.decode(ids).strip() == text
    assert encoder.bos == tokenizer.bos_token_id and Encoder(tokenizer, prepend_bos=False).bos is None
