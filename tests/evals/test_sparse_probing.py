"""Sparse probing: planted features score near one, dead features and shuffled labels at chance, nothing leaks."""

import json
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request

import pytest
import torch
from torch import Tensor

from chronosae.autoencoders import Autoencoder
from chronosae.config import SubjectConfig, UserError, validate
from chronosae.evals.data import LABELLED, hub_labelled
from chronosae.evals.data.hub_labelled import AMAZON, BIOS, HUB_SETS, LANGUAGE_PAIRS
from chronosae.evals.envelope import Provenance, result_envelope
from chronosae.evals.evaluation import EvalResult, Setting
from chronosae.evals.probes import RAW, pooled
from chronosae.evals.sparse_probing import SparseProbing, SparseProbingOptions
from chronosae.evals.sparse_probing.data import (
    Task,
    held_out_groups,
    make_tasks,
    one_against_the_rest,
    read_set,
    text_vectors,
)
from chronosae.evals.sparse_probing.measure import (
    FULL,
    Scores,
    full_width_correct,
    mean_differences,
    probe,
    strongest,
    top,
)
from chronosae.evals.workbench import Workbench
from chronosae.presets import build
from chronosae.subject import Subject
from chronosae.world import model_folder

SITE = "blocks.1.hook_resid_post"
CLASSES = ("a", "b", "c")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels(n: int, seed: int) -> Tensor:
    return torch.arange(n)[torch.randperm(n, generator=generator(seed))] % len(CLASSES)


def tasks_of(train: Tensor, test: Tensor) -> list[Task]:
    held_out = held_out_groups(torch.arange(len(train)), 0.2, generator())
    return make_tasks(CLASSES, train, test, held_out, generator())


def planted(y: Tensor, width: int = 12, seed: int = 0) -> Tensor:
    """Noise, and class c raises feature c + 4."""
    x = torch.rand(len(y), width, generator=generator(seed))
    x[torch.arange(len(y)), y + 4] += 3
    return x


def accuracy(scores: Scores, name: str) -> float:
    return float(torch.cat(scores.correct[name]).double().mean())


@pytest.mark.parametrize("protocol", ["chronosae", "saebench", "sae_probes"])
def test_one_planted_feature_a_class_is_found_and_is_enough(protocol: str) -> None:
    y, z = labels(240, 1), labels(150, 2)
    options = SparseProbingOptions.model_validate({"protocol": protocol, "k": [2, 1]})
    scores = probe(planted(y, seed=3), planted(z, seed=4), tasks_of(y, z), options, generator(), is_raw=True)
    assert scores.features is not None and scores.features[:, 0].tolist() == [4, 5, 6]
    assert min(accuracy(scores, name) for name in (top(1), top(2), FULL)) > 0.98
    assert ("top_1_test_auc" in scores.further) == (protocol == "sae_probes")


@pytest.mark.parametrize("dead", [True, False])
def test_a_dead_autoencoder_and_shuffled_labels_are_at_chance(dead: bool) -> None:
    y, z = labels(240, 1), labels(300, 2)
    x, asked = (torch.zeros(len(v), 9) if dead else planted(labels(len(v), 7)) for v in (y, z))
    scores = probe(x, asked, tasks_of(y, z), SparseProbingOptions(k=[1, 5]), generator())
    for name in (top(1), top(5), FULL):
        assert accuracy(scores, name) == pytest.approx(0.5, abs=0 if dead else 0.08)


def test_choosing_on_the_test_makes_something_of_nothing_and_ours_does_not() -> None:
    found: dict[str, list[float]] = {"test": [], "validation": []}
    for seed in range(12):
        y, z = labels(90, seed), labels(60, seed + 100)
        g = generator(seed)
        x, asked = torch.randn(90, 40, generator=g), torch.randn(60, 40, generator=g)
        for chosen_on, rates in found.items():
            right = full_width_correct(x, asked, tasks_of(y, z), chosen_on, generator(seed))
            rates.append(float(torch.cat(right).double().mean()))
    leaked, ours = (sum(rates) / 12 for rates in found.values())
    assert leaked > ours + 0.01 and abs(ours - 0.5) < 0.03


def test_an_answer_depends_on_no_other_test_row() -> None:
    y, z = labels(120, 1), labels(60, 2)
    x, asked, other = planted(y), planted(z, seed=4), planted(z, seed=4)
    other[30:] = torch.randn(30, 12, generator=generator(5))
    tasks, options = tasks_of(y, z), SparseProbingOptions(k=[1, 2])
    first, second = (probe(x, q, tasks, options, generator()) for q in (asked, other))
    for name in first.correct:
        for task, one, two in zip(tasks, first.correct[name], second.correct[name], strict=True):
            same = task.test.rows < 30
            assert torch.equal(one[same], two[same])


@pytest.mark.parametrize("relative", [False, True])
def test_features_of_all_tasks_at_once_are_those_of_each_alone(relative: bool) -> None:
    y = labels(90, 1)
    x = torch.rand(90, 40, generator=generator(2)) * (torch.rand(90, 40, generator=generator(3)) < 0.3)
    x[:, 7] = 0
    parts = [task.train for task in tasks_of(y, y)]
    found = mean_differences(x, parts, relative=relative)
    for row, part in zip(found, parts, strict=True):
        inside = x[part.rows]
        if relative:
            inside = inside / (inside.abs().sum(0) / ((inside != 0).sum(0) + 1e-6) + 1e-6)
        expected = inside[part.labels].mean(0) - inside[~part.labels].mean(0)
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)
    ranked = strongest(x, parts, 40, relative=relative)
    assert ranked[:, -1].tolist() == [7, 7, 7]


def test_the_rest_is_drawn_evenly_and_as_many_as_the_class() -> None:
    y = torch.tensor([0] * 20 + [1] * 30 + [2] * 40)
    part = one_against_the_rest(y, 0, 3, generator())
    assert int(part.labels.sum()) == 20 and len(part) == 40 == len(set(part.rows.tolist()))
    assert torch.equal(y[part.rows] == 0, part.labels)
    assert torch.bincount(y[part.rows]).tolist() == [20, 10, 10]
    few = one_against_the_rest(torch.tensor([0] * 20 + [1] * 5), 0, 2, generator())
    assert len(few) == 10 and int(few.labels.sum()) == 5


def test_validation_never_cuts_a_group_and_meets_no_fitted_row() -> None:
    groups = torch.arange(60) // 3
    out = held_out_groups(groups, 0.25, generator())
    assert int(out.sum()) == 15
    assert all(len({bool(out[i]) for i in range(60) if groups[i] == g}) == 1 for g in range(20))
    for task in make_tasks(CLASSES, labels(60, 1), labels(60, 2), out, generator()):
        assert not set(task.fit.rows.tolist()) & set(task.validation.rows.tolist())
        assert sorted([*task.fit.rows.tolist(), *task.validation.rows.tolist()]) == sorted(task.train.rows.tolist())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"k": [0]}, "evals.sparse_probing.k"),
        ({"k": [1, 1]}, "twice"),
        ({"protocol": "saebench", "pooling": "max"}, "pools by mean"),
        ({"data": []}, "evals.sparse_probing.data"),
    ],
)
def test_bad_options_are_one_line_that_names_the_key(given: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        validate(SparseProbingOptions, given, where="config", prefix="evals.sparse_probing")


# With a subject: its activations are planted, so that what a perfect feature is, is known.

WORDS = {"sun": ("gold", "warm"), "sea": ("salt", "wave"), "ice": ("cold", "hard")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three classes, each with a word of its own somewhere among words that all have."""
    folder = tmp_path_factory.mktemp("probing") / "weather"
    folder.mkdir()
    common = ["the", "letter", "lay", "on", "table", "was", "quiet", "and", "green"]
    for split, n in (("train", 90), ("test", 60)):
        g = generator(n)
        rows = []
        for i in range(n):
            label = list(WORDS)[i % 3]
            words = [common[j] for j in torch.randint(len(common), (6 + i % 5,), generator=g).tolist()]
            words.insert(1 + i % 4, WORDS[label][i % 2])
            rows.append(json.dumps({"text": f"{' '.join(words)} {split} {i}.", "label": label}))
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    return str(folder)


class Planted(Subject):
    """The world's subject, whose activations are a weak random vector a token, and a direction a class word."""

    directions: dict[int, Tensor]
    table: Tensor

    def activations(self, tokens: Tensor, sites: list[str], attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        acts = self.table[tokens]
        for token, direction in self.directions.items():
            acts = acts + (tokens == token).unsqueeze(-1) * direction
        return dict.fromkeys(sites, acts)


@pytest.fixture(scope="module")
def bench() -> Workbench:
    subject = Planted.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="planted")
    assert isinstance(subject, Planted)
    basis = torch.eye(subject.info.d_model)
    subject.table = torch.randn(subject.vocab_size, subject.info.d_model, generator=generator()) * 0.02
    subject.directions = {}
    for i, words in enumerate(WORDS.values()):
        for word in words:
            (first, *_) = subject.tokenizer(f"the {word}", add_special_tokens=False)["input_ids"][1:]
            subject.directions[first] = basis[i]
    return Workbench(subject, SITE)


def oracle(d_in: int, d_sae: int = 16) -> Autoencoder:
    """Feature i reads the direction of class i; the others never fire."""
    sae = build("relu_l1", d_in=d_in, d_sae=d_sae)
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.W_enc[range(3), range(3)] = 1.0
        sae.b_enc.fill_(-0.5)
        sae.b_dec.zero_()
    return sae


def dead(d_in: int) -> Autoencoder:
    sae = oracle(d_in)
    with torch.no_grad():
        sae.b_enc.fill_(-9.0)
    return sae


def run(bench: Workbench, saes: dict[str, Autoencoder], **options: object) -> dict[str, EvalResult]:
    return SparseProbing.model_validate(options).run(bench, saes)


def test_an_autoencoder_with_the_class_directions_scores_one_at_k_1_and_a_dead_one_a_half(
    bench: Workbench, data: str
) -> None:
    width = bench.subject.info.d_model
    found = run(bench, {"oracle": oracle(width), "dead": dead(width)}, data=[data], k=[1, 2, 50])
    best, worst = found["oracle"].metrics["sae"], found["dead"].metrics["sae"]
    assert best["sae_top_1_test_accuracy"] > 0.97 and best["sae_test_accuracy"] > 0.97
    assert worst["sae_top_1_test_accuracy"] == worst["sae_test_accuracy"] == 0.5
    assert "never_fires" in found["dead"].flags and "never_fires" not in found["oracle"].flags
    assert best["sae_top_50_test_accuracy"] is None and "fewer_features_than_k: sae: 50" in found["oracle"].flags
    assert found["oracle"].metrics["llm"]["llm_top_1_test_accuracy"] > 0.97
    interval = found["dead"].intervals["sae_minus_llm_top_1_test_accuracy"]
    assert interval.low <= found["dead"].metrics["sae_minus_llm"]["sae_minus_llm_top_1_test_accuracy"] <= interval.high
    (row,) = found["oracle"].details
    assert row["dataset_name"].endswith("_results") and row["sae_top_1_test_accuracy"] > 0.97
    chosen = found["oracle"].block["probing"]["data"][0]["features"]
    assert [chosen[label][0] for label in WORDS] == [0, 1, 2]


def test_numbers_do_not_depend_on_the_autoencoders_beside(
    bench: Workbench, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = bench.subject.info.d_model
    saes = {"a": oracle(width, 24), "b": dead(width)}
    together = run(bench, saes, data=[data], k=[1, 2])
    monkeypatch.setattr("chronosae.evals.sparse_probing.measure.MOST_BYTES", 1)
    apart = run(bench, saes, data=[data], k=[1, 2])
    alone = run(bench, {"b": saes["b"]}, data=[data], k=[1, 2])
    assert together == apart
    assert together["b"] == alone["b"]
    seeded = run(replace(bench, seed=1), {"b": saes["b"]}, data=[data], k=[1, 2])
    assert seeded["b"].data_sha256 != alone["b"].data_sha256


@pytest.mark.parametrize("protocol", ["chronosae", "saebench", "sae_probes"])
def test_the_file_has_saebenchs_names_and_no_nan(bench: Workbench, data: str, protocol: str) -> None:
    sae = oracle(bench.subject.info.d_model)
    evaluation = SparseProbing.model_validate({"data": [data], "protocol": protocol, "k": [1, 2]})
    result = evaluation.run(bench, {"sae": sae})["sae"]
    provenance = Provenance("planted", "f" * 64, "float32", "made up", "c" * 64, seed=0, device="cpu")
    envelope = result_envelope(evaluation, "sae", sae, SITE, result, provenance)
    written = json.loads(json.dumps(envelope, allow_nan=False))
    metrics = written["eval_result_metrics"]
    assert {"llm_test_accuracy", "llm_top_1_test_accuracy"} <= set(metrics["llm"])
    assert ("sae_test_accuracy" in metrics["sae"]) == (protocol != "sae_probes")
    assert ("sae_top_2_test_auc" in metrics["sae"]) == (protocol == "sae_probes")
    assert written["chronosae"]["probing"]["pooling"] == ("last" if protocol == "sae_probes" else "mean")
    if protocol != "sae_probes":  # its last token is never the class word here
        assert metrics["sae"]["sae_top_1_test_accuracy"] > 0.97


def test_labels_that_the_activations_do_not_hold_are_flagged(bench: Workbench, tmp_path: Path) -> None:
    folder = tmp_path / "coin"
    folder.mkdir()
    for split, n in (("train", 80), ("test", 80)):
        lines = [
            json.dumps({"text": f"The table was quiet {split} {i}", "label": "ht"[i * 7919 % 13 % 2]}) for i in range(n)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    result = run(bench, {"sae": oracle(bench.subject.info.d_model)}, data=[str(folder)], k=[1])["sae"]
    assert any(flag.startswith("subject_does_not_know: ") for flag in result.flags)


def test_codes_that_are_not_finite_leave_metrics_undefined(bench: Workbench, data: str) -> None:
    sae = oracle(bench.subject.info.d_model)
    with torch.no_grad():
        sae.b_enc[3] = torch.nan
    result = run(bench, {"sae": sae}, data=[data], k=[1])["sae"]
    assert set(result.metrics["sae"].values()) == {None} and "non_finite_codes" in result.flags
    assert result.metrics["llm"]["llm_test_accuracy"] is not None


def test_saebenchs_zeroed_vectors_are_means_of_the_plain_codes_of_a_context_free_autoencoder(
    bench: Workbench, data: str
) -> None:
    texts = LABELLED.read(data, "train", "k").texts[:12]
    rows = bench.read(texts, 20)
    width = bench.subject.info.d_model
    saes = {"free": oracle(width), "aware": build("chrono", d_in=width, d_sae=24, k=3)}
    torch.nn.init.normal_(saes["aware"].kernel.taps, std=0.3)
    torch.nn.init.normal_(saes["aware"].b_dec, std=0.1)
    options = SparseProbingOptions(protocol="saebench", context=20)
    found = text_vectors(bench, rows, saes, options, "test")
    plain = pooled(bench, rows, saes, "mean", "test")
    for name in (RAW, "free"):
        torch.testing.assert_close(found[name], plain[name])
    assert not torch.allclose(found["aware"], plain["aware"], atol=1e-4)  # it saw a zero vector at BOS
    one = text_vectors(bench, rows.rows(torch.tensor([0])), saes, options, "test")
    torch.testing.assert_close(one["aware"][0], found["aware"][0])
    kept = text_vectors(bench, rows, saes, options.model_copy(update={"zero_special": False}), "test")
    torch.testing.assert_close(kept["aware"], plain["aware"])


def test_a_class_with_few_texts_is_left_out_and_one_class_is_an_error(bench: Workbench, tmp_path: Path) -> None:
    def write(name: str, sizes: dict[str, int]) -> str:
        folder = tmp_path / name
        folder.mkdir()
        for split in ("train", "test"):
            rows = [{"text": f"{label} {split} {i}", "label": label} for label, n in sizes.items() for i in range(n)]
            (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return str(folder)

    sae = {"sae": oracle(bench.subject.info.d_model)}
    result = run(bench, sae, data=[write("some", {"x": 30, "y": 30, "rare": 3})], k=[1])["sae"]
    assert any(flag.endswith("some: rare") for flag in result.flags)
    with pytest.raises(UserError, match="two classes"):
        run(bench, sae, data=[write("one", {"x": 30, "rare": 3})], k=[1])


def labelled(folder: Path, parts: dict[str, list[dict]]) -> str:
    folder.mkdir()
    for split, rows in parts.items():
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


def test_a_class_whose_training_texts_are_all_in_the_test_is_left_out(bench: Workbench, tmp_path: Path) -> None:
    parts = {
        split: [
            {"text": f"{label} {'both' if label == 'copied' else split} {i}", "label": label}
            for label in ("x", "y", "copied")
            for i in range(24)
        ]
        for split in ("train", "test")
    }
    name = labelled(tmp_path / "copies", parts)
    found = read_set(name, SparseProbingOptions(data=[name]), bench)
    assert [task.name for task in found.tasks] == ["x", "y"] and all(len(task.train) for task in found.tasks)
    assert found.flags == (f"classes_left_out: {name}: copied", f"train_texts_in_test: {name}: 24")
    saebench = read_set(name, SparseProbingOptions(data=[name], protocol="saebench"), bench)
    assert len(saebench.tasks) == 3


def test_training_texts_of_a_document_that_is_tested_are_dropped_and_counted(bench: Workbench, tmp_path: Path) -> None:
    documents = {"train": range(12), "test": range(10, 20)}  # 10 and 11 are in both
    parts = {
        split: [
            {"text": f"{label} {split} {document} {i}", "label": label, "group": f"document {document}"}
            for label in ("x", "y")
            for document in of
            for i in range(4)
        ]
        for split, of in documents.items()
    }
    name = labelled(tmp_path / "documents", parts)
    sizes = {}
    for protocol in ("chronosae", "saebench"):
        found = read_set(name, SparseProbingOptions.model_validate({"data": [name], "protocol": protocol}), bench)
        assert found.flags == (f"train_groups_in_test: {name}: 2",)
        sizes[protocol] = len(found.train)
    assert sizes == {"chronosae": 80, "saebench": 96}


def test_a_file_gives_the_same_numbers_from_wherever_it_is_named(
    bench: Workbench, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(data).parent)
    saes = {"sae": oracle(bench.subject.info.d_model)}
    here, there = (
        run(bench, saes, data=[name], k=[1], train_rows=40, test_rows=20)["sae"] for name in ("./weather", data)
    )
    assert here.data_sha256 == there.data_sha256 and here.metrics == there.metrics
    assert LABELLED.label("fancyzhx/ag_news") == "fancyzhx/ag_news"


# SAEBench's hub sets, read from local copies of their shape.


def test_hub_sets_out_of_reach_are_listed_in_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names = ["fancyzhx/ag_news", f"{BIOS}_class_set1", "no/such/set"]
    missing = SparseProbing(data=names).preflight(Setting("world", None))
    assert [name in line.line() for name, line in zip(names, missing, strict=True)] == [True] * 3
    assert "HF_HUB_OFFLINE" in missing[0].why and "--set evals.sparse_probing.data=PATH" in missing[0].how
    assert len(HUB_SETS) == 8 and set(HUB_SETS) <= set(LABELLED.names)


def test_the_hub_is_asked_once_for_many_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    asked = []

    def no_network(request: Request, timeout: float) -> None:
        asked.append(request.full_url)
        raise URLError("no route")

    monkeypatch.setattr(hub_labelled, "urlopen", no_network)
    hub_labelled._no_connection.cache_clear()
    problems = {hub_labelled.hub_problem(hub_set.repo) for hub_set in HUB_SETS.values()}
    hub_labelled._no_connection.cache_clear()
    assert problems == {"the Hugging Face Hub can't be reached (no route)"} and len(asked) == 1


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    folder = tmp_path / "set"
    folder.mkdir()
    return folder


def jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))


def test_biographies_are_balanced_by_gender_in_saebenchs_classes(hub: Path) -> None:
    for split in ("train", "test"):
        rows = [
            {"hard_text": f"{split} {i}", "profession": (0, 1, 2, 6, 9, 27)[i % 6], "gender": int(i % 7 == 0)}
            for i in range(420)
        ]
        jsonl(hub / f"{split}.jsonl", rows)
    name = f"{BIOS}_class_set1"
    found = HUB_SETS[name].read(name, "train", str(hub))
    assert found.classes == ("0", "1", "2", "6", "9") and found.second is not None
    assert {*found.second} == {"0", "1"} and all(text.startswith("train") for text in found.texts)
    with pytest.raises(UserError, match="no text of 11"):
        HUB_SETS[f"{BIOS}_class_set2"].read("x", "train", str(hub))
    with pytest.raises(UserError, match="can't be read"):
        HUB_SETS[name].read(name, "train", str(hub / "absent"))


def test_reviews_and_news_keep_saebenchs_labels(hub: Path) -> None:
    rows = [{"text": f"text {i}", "category": i % 7, "rating": (1.0, 5.0)[i % 2], "label": i % 4} for i in range(140)]
    for split in ("train", "test"):
        jsonl(hub / f"{split}.jsonl", rows)
    sentiment, news = (HUB_SETS[n].read(n, "test", str(hub)) for n in (f"{AMAZON}_sentiment", "fancyzhx/ag_news"))
    assert sentiment.classes == ("1.0", "5.0") and news.classes == ("0", "1", "2", "3") and news.second is None
    products = HUB_SETS[AMAZON].read(AMAZON, "test", str(hub))
    assert products.classes == ("1", "2", "3", "5", "6") and products.second is not None


def test_streams_are_cut_into_parts_that_share_no_text(hub: Path) -> None:
    code = [
        {"content": f"{i} " * 300, "path": f"src/file{i}.{('c', 'py', 'html', 'java', 'php', 'rs')[i % 6]}"}
        for i in range(360)
    ]
    jsonl(hub / "train.jsonl", [*code, {"content": "short", "path": "a.py"}])
    train, test = (HUB_SETS["codeparrot/github-code"].read("code", split, str(hub)) for split in ("train", "test"))
    assert train.classes == ("C", "HTML", "Java", "PHP", "Python") == test.classes
    assert not set(train.texts) & set(test.texts) and len(train) + len(test) == 300


def test_each_language_comes_from_its_pair(hub: Path) -> None:
    (hub / "train.jsonl").unlink(missing_ok=True)
    configs = "".join(f"- config_name: {p}\n  data_files: {p}/*.jsonl\n" for p in LANGUAGE_PAIRS.values())
    (hub / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for language, pair in LANGUAGE_PAIRS.items():
        rows = [{"translation": {language: f"{language} {i}", "xx": "?"}} for i in range(40)]
        jsonl(hub / pair / "part.jsonl", rows)
    found = HUB_SETS["Helsinki-NLP/europarl"].read("europarl", "train", str(hub))
    assert found.classes == ("de", "en", "es", "fr", "nl")
    assert all(text.startswith(label) for text, label in zip(found.texts, found.labels, strict=True))
