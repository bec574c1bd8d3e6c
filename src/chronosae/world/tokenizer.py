"""The world's own tokenizer: byte-level BPE, so that every UTF-8 text has tokens, with ``<bos>`` put in front."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from chronosae.world.corpus import MIXTURE, make_document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
VOCAB_SIZE = 2048
_WORDS = r"\n[A-D]\)|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's way to cut text into words, with option marks kept whole."""


def sample_texts(documents: int, seed: int) -> Iterable[str]:
    """Training documents from the corpus's own mixture."""
    return (make_document("train", i, seed=seed, mixture=MIXTURE).text for i in range(documents))


def build_tokenizer(*, seed: int = 0, documents: int = 12_000, max_length: int = 512) -> PreTrainedTokenizerFast:
    """Train the tokenizer on generated documents; the same seed gives the same tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    # An option mark at the start of a line ("\nA)") becomes one token, so that a letter stands right before its option.
    marks = pre_tokenizers.Split(Regex(r"\n[A-D]\)"), "isolated")
    words = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([marks, words, bytes_])  # type: ignore[assignment]
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, BOS, EOS],
        show_progress=False,  # type: ignore[call-arg]
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(sample_texts(documents, seed), trainer)
    bpe.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=max_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
