"""RAVEL-style disentanglement on a planted subject: what carries one attribute scores near the top, the rest at 0.5."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from chronosae.autoencoders import Autoencoder
from chronosae.config import UserError
from chronosae.evals.evaluation import Setting
from chronosae.evals.ravel import ATTRIBUTES, AttributeSet, Ravel
from chronosae.evals.ravel.data import read_prompts
from chronosae.evals.ravel.measure import make_pairs
from chronosae.evals.workbench import Workbench
from chronosae.presets import build
from chronosae.subject import Subject, SubjectInfo

SITE = "blocks.0.hook_resid_post"
COLOURS, SIZES = ["red", "blue", "green", "grey"], ["tiny", "small", "large", "huge"]
ENTITIES = [f"e{i}" for i in range(40)]
WORDS = ["unk", "Q", "colour", "size", "son", *COLOURS, *SIZES, *ENTITIES]
WIDTH = 12
VALUE = {entity: (i % 4, (i // 4) % 4) for i, entity in enumerate(ENTITIES)}
OPTIONS = Ravel(data=("planted",), train_pairs=48, test_pairs=16, steps=25, batch=12, context=8)


class Planted(Subject):
    """`Q ENTITY colour`: an entity's activation holds its colour in dimensions 0 to 3 and its size in 4 to 7.

    The answer is read from the sum over all tokens before the question's last.
    """

    def __init__(self, knows: bool = True) -> None:
        vocabulary = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="unk"))
        vocabulary.pre_tokenizer = Whitespace()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, unk_token="unk")
        self.name, self.device, self.dtype, self.knows = "planted", torch.device("cpu"), torch.float32, knows
        self.fingerprint = "planted"
        self.info = SubjectInfo("planted", 1, WIDTH, 16, len(WORDS), ("resid_post",), 0)
        self.table = torch.randn(len(WORDS), WIDTH, generator=torch.Generator().manual_seed(0)) * 0.1
        for entity, (colour, size) in VALUE.items():
            self.table[WORDS.index(entity), :8] = torch.eye(8)[colour] + torch.eye(8)[4 + size]

    def activations(self, tokens: Tensor, sites, attention_mask=None) -> dict[str, Tensor]:
        return dict.fromkeys(sites, self.table[tokens])

    def run_with(self, tokens: Tensor, edits, attention_mask=None) -> Tensor:
        acts = self.table[tokens]
        for edit in edits.values():
            acts = edit(acts)
        logits = torch.zeros(*tokens.shape, len(WORDS))
        asks_colour = tokens == WORDS.index("colour")
        asks = asks_colour | (tokens == WORDS.index("size"))
        read = (acts * (asks.cumsum(1) == 0).unsqueeze(-1)).sum(1)
        colour = asks_colour.any(1).float().unsqueeze(1)
        first = WORDS.index("red")
        shift = 0 if self.knows else 1
        said = torch.cat([colour * read[:, :4].roll(shift, 1), (1 - colour) * read[:, 4:8].roll(shift, 1)], 1)
        logits[..., first : first + 8] = 8 * said.unsqueeze(1) * asks.unsqueeze(-1)
        return logits


def attribute_set(name: str, second: str = "", before: str = "Q") -> AttributeSet:
    def named(i: int) -> str:
        return ENTITIES[i] + (second if i % 3 else "")

    values = {
        "colour": {named(i): COLOURS[c] for i, (c, _) in enumerate(VALUE.values())},
        "size": {named(i): SIZES[s] for i, (_, s) in enumerate(VALUE.values())},
    }
    return AttributeSet(name, {a: (f"{before} {{entity}} {a}",) for a in ("colour", "size")}, values)


@pytest.fixture(autouse=True)
def planted_data() -> None:
    ATTRIBUTES.register("planted", lambda _split: attribute_set("planted"))
    # Two of three names have a second word, which says nothing.
    ATTRIBUTES.register("sons", lambda _split: attribute_set("sons", " son", "Q Q"))


def linear(W: Tensor) -> Autoencoder:
    """Features that read and write the rows of `W`; the rest of the activation is error."""
    sae = build("relu_l1", d_in=WIDTH, d_sae=len(W))
    with torch.no_grad():
        sae.W_enc.copy_(W.T)
        sae.W_dec.copy_(W)
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae


def one_feature_a_value() -> Autoencoder:
    return linear(torch.eye(8, WIDTH))


def one_feature_an_entity() -> Autoencoder:
    """Each of the sixteen combinations has a feature of its own: colour and size can't be exchanged separately."""
    both = torch.cat([torch.eye(8, WIDTH)[c] + torch.eye(8, WIDTH)[4 + s] for c in range(4) for s in range(4)])
    sae = linear(both.view(16, WIDTH))
    torch.nn.init.constant_(sae.b_enc, -1.0)  # only the entity's own combination exceeds 1
    return sae


def dead() -> Autoencoder:
    sae = one_feature_a_value()
    torch.nn.init.constant_(sae.b_enc, -1e6)
    return sae


def test_one_feature_a_value_is_at_the_top_and_the_entangled_and_the_dead_are_at_a_half() -> None:
    saes = {"oracle": one_feature_a_value(), "entangled": one_feature_an_entity(), "dead": dead()}
    shapes = []
    for sae in saes.values():
        encode = sae.encode
        sae.encode = lambda acts, *a, f=encode, **k: (shapes.append(acts.dim()), f(acts, *a, **k))[1]
    bench = Workbench(Planted(), SITE)
    found = OPTIONS.run(bench, saes)
    assert set(shapes) == {3}
    oracle, entangled = found["oracle"], found["entangled"]
    assert oracle.metrics["ravel"]["disentanglement_score"] > 0.95
    assert oracle.intervals["disentanglement_score"].low > 0.9
    assert oracle.metrics["llm"]["llm_disentanglement_score"] > 0.95  # here the axes are the attributes
    assert entangled.metrics["ravel"]["disentanglement_score"] < 0.7
    assert found["dead"].metrics["ravel"] == {
        "disentanglement_score": 0.5, "cause_score": 0.0, "isolation_score": 1.0
    }  # fmt: skip
    whole = oracle.metrics["whole"]
    assert whole["whole_activation_cause_score"] == 1.0 and whole["whole_activation_isolation_score"] == 0.0
    assert "no_feature_chosen: planted/colour, planted/size" in found["dead"].flags
    assert not any(flag.startswith("site_does_not_mediate") for flag in oracle.flags)
    json.dumps([oracle.metrics, oracle.details, oracle.eval_config], allow_nan=False)
    alone = OPTIONS.run(bench, {"oracle": saes["oracle"]})["oracle"]
    assert alone.metrics == oracle.metrics and alone.intervals == oracle.intervals


def test_names_of_several_tokens_are_exchanged_whole_and_what_the_last_token_alone_cannot_move_is_no_number() -> None:
    bench, saes = Workbench(Planted(), SITE), {"oracle": one_feature_a_value()}
    options = OPTIONS.model_copy(update={"data": ("sons",)})
    whole = options.run(bench, saes)["oracle"]
    assert whole.metrics["ravel"]["disentanglement_score"] > 0.95
    assert not any(flag.startswith("site_does_not_mediate") for flag in whole.flags)
    last = options.model_copy(update={"tokens": "last"}).run(bench, saes)["oracle"]
    assert "site_does_not_mediate: sons/colour, sons/size" in last.flags
    assert set(last.metrics["ravel"].values()) == set(last.metrics["llm"].values()) == {None}
    assert last.metrics["whole"]["whole_activation_cause_score"] < 0.5
    assert not last.details


class Elsewhere(Planted):
    """Its sizes are read where no exchange at the entity reaches."""

    def run_with(self, tokens: Tensor, edits, attention_mask=None) -> Tensor:
        edited, clean = super().run_with(tokens, edits), super().run_with(tokens, {})
        sizes = [WORDS.index(word) for word in SIZES]
        edited[..., sizes] = clean[..., sizes]
        return edited


def test_keeping_what_nothing_here_can_move_earns_nothing() -> None:
    """One feature an entity exchanges everything; sizes stay because they are read elsewhere."""
    found = OPTIONS.run(Workbench(Elsewhere(), SITE), {"sae": one_feature_an_entity()})["sae"]
    assert "site_does_not_mediate: planted/size" in found.flags
    assert set(found.metrics["ravel"].values()) == {None}


def test_names_of_different_length_are_no_pair_where_the_shorter_has_no_token_before_it() -> None:
    bench = Workbench(Planted(), SITE)
    for before, mixed in (("Q", False), ("Q Q", True)):  # the first position is one that autoencoders don't see
        data = attribute_set("sons", " son", before)
        prompts = read_prompts(bench, data, OPTIONS)
        pairs = make_pairs(bench, data, prompts, OPTIONS)
        lengths = {(int(prompts.length[p.base]), int(prompts.length[p.source])) for p in pairs.train["colour"]}
        assert ((1, 2) in lengths) == ((2, 1) in lengths) == mixed and {(1, 1), (2, 2)} <= lengths


def test_saebench_exchanges_the_last_token() -> None:
    assert Ravel(protocol="saebench").last_only and not Ravel().last_only
    with pytest.raises(ValueError, match="last token"):
        Ravel(protocol="saebench", tokens="entity")


def test_keeping_the_error_keeps_what_the_autoencoder_does_not_see() -> None:
    colours_only = linear(torch.eye(4, WIDTH))
    bench = Workbench(Planted(), SITE)
    ours = OPTIONS.run(bench, {"sae": colours_only})["sae"]
    theirs = OPTIONS.model_copy(update={"protocol": "saebench"}).run(bench, {"sae": colours_only})["sae"]
    row = {r["attribute"]: r for r in ours.details}["colour"]
    assert row["cause_score"] == row["isolation_score"] == 1.0
    row = {r["attribute"]: r for r in theirs.details}["colour"]
    assert row["cause_score"] == 1.0 and row["isolation_score"] < 0.7  # sizes were wiped out with the error


def test_what_the_subject_does_not_know_and_nan_are_flags_and_no_numbers() -> None:
    result = OPTIONS.run(Workbench(Planted(knows=False), SITE), {"sae": one_feature_a_value()})["sae"]
    assert "subject_does_not_know: planted/colour, planted/size" in result.flags
    assert all(value is None for values in result.metrics.values() for value in values.values())
    broken = one_feature_a_value()
    torch.nn.init.constant_(broken.b_enc, float("nan"))
    result = OPTIONS.run(Workbench(Planted(), SITE), {"sae": broken})["sae"]
    assert "non_finite_codes: planted/colour, planted/size" in result.flags
    assert result.metrics["ravel"]["disentanglement_score"] is None and not result.details


def test_local_files_are_read_and_damage_is_one_line(tmp_path: Path) -> None:
    def written(rows: list[dict]) -> str:
        path = tmp_path / "cities.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    rows = [{"attribute": a, "prompt": f"{{entity}} {a}:"} for a in ("land", "river")]
    rows += [{"attribute": a, "entity": f"c{i}", "value": f"v{i % 2}"} for i in range(4) for a in ("land", "river")]
    data = ATTRIBUTES.read(written(rows), "all", "k")
    assert data.entities == ("c0", "c1", "c2", "c3") and data.options("land") == ("v0", "v1")
    for bad, says in (
        ([{"attribute": "land", "prompt": "no place"}], "exactly once"),
        ([{"attribute": "land", "entity": "c"}], "'value'"),
        (rows[:1] + rows[2:], "at least two attributes"),
    ):
        with pytest.raises(UserError, match=says):
            ATTRIBUTES.read(written(bad), "all", "k")
    (missing,) = Ravel(data=("no/such",)).preflight(Setting("world", None))
    assert "evals.ravel.data" in missing.line()
