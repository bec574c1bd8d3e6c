"""On the same vectors and labels our sparse probing equals SAEBench 0.6.0's own; its schema takes our file."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sae_bench", reason="needs SAEBench (tests/parity/requirements.txt)")
sys.path.insert(0, str(Path(__file__).parent))

from pydantic import TypeAdapter
from sae_bench.evals.sparse_probing import main as saebench
from sae_bench.evals.sparse_probing import probe_training
from sae_bench.evals.sparse_probing.eval_output import SparseProbingEvalOutput
from sae_bench.sae_bench_utils import activation_collection
from test_core_saebench import _violations
from torch import Tensor

from chronosae.autoencoders import Autoencoder
from chronosae.config import SubjectConfig
from chronosae.evals.envelope import Provenance, result_envelope
from chronosae.evals.probes import RAW
from chronosae.evals.sparse_probing import SparseProbing, SparseProbingOptions
from chronosae.evals.sparse_probing.data import Part, Task, make_tasks, text_vectors
from chronosae.evals.sparse_probing.measure import FULL, Scores, probe, strongest, top
from chronosae.evals.workbench import Workbench
from chronosae.presets import build
from chronosae.subject import Subject
from chronosae.world import model_folder

CLASSES, WIDTH = ("a", "b", "c", "d"), 96
SIZES = {"train": 200, "test": 100}
KS = (1, 2, 5, 20)
OPTIONS = SparseProbingOptions(protocol="saebench", k=list(KS))
SITE = "blocks.1.hook_resid_post"


def vectors(split: str, seed: int) -> dict[str, Tensor]:
    """Sparse non-negative vectors a class, as pooled codes are; each class raises five features, by less and less."""
    found = {}
    for c, name in enumerate(CLASSES):
        g = torch.Generator().manual_seed(1000 * seed + 10 * c + (split == "test"))
        x = torch.rand(SIZES[split], WIDTH, generator=g) * (torch.rand(SIZES[split], WIDTH, generator=g) < 0.4)
        x[:, 5 * c : 5 * c + 5] += torch.rand(SIZES[split], 5, generator=g) * torch.tensor([0.7, 0.6, 0.5, 0.4, 0.3])
        found[name] = x
    return found


def joined(by_class: dict[str, Tensor]) -> Tensor:
    return torch.cat(list(by_class.values()))


def numbers(by_class: dict[str, Tensor]) -> dict[str, Tensor]:
    """In place of every vector its row in `joined`."""
    parts = torch.arange(sum(map(len, by_class.values()))).split([len(x) for x in by_class.values()])
    return {name: rows.double().unsqueeze(1) for name, rows in zip(by_class, parts, strict=True)}


def their_tasks(train: dict[str, Tensor], test: dict[str, Tensor], seed: int) -> list[Task]:
    """The rows that SAEBench draws after `torch.manual_seed(seed)`: its own function, on row numbers."""
    torch.manual_seed(seed)
    found = []
    for name in train:
        parts = []
        for part in (train, test):
            rows, labels = probe_training.prepare_probe_data(numbers(part), name)
            parts.append(Part(rows.squeeze(1).long(), labels.bool()))
        chosen, asked = parts
        found.append(Task(name, chosen, chosen, chosen, asked))
    return found


def theirs(train: dict[str, Tensor], test: dict[str, Tensor], k: int | None, seed: int) -> list[float]:
    torch.manual_seed(seed)
    full: dict[str, Any] = {"use_sklearn": False, "batch_size": 250, "epochs": 100, "lr": 1e-2}
    _, found = probe_training.train_probe_on_activations(train, test, select_top_k=k, **(full if k is None else {}))
    return list(found.values())


def rates(scores: Scores, name: str) -> list[float]:
    return [float(right.double().mean()) for right in scores.correct[name]]


@pytest.mark.parametrize("seed", [0, 1])
def test_k_sparse_accuracies_equal_saebenchs_on_the_same_rows(seed: int) -> None:
    train, test = vectors("train", seed), vectors("test", seed)
    scores = probe(joined(train), joined(test), their_tasks(train, test, seed), OPTIONS, torch.Generator())
    for k in KS:
        expected = theirs(train, test, k, seed)
        assert min(expected) > 0.55 and max(expected) < 0.999
        differences = [abs(a - b) for a, b in zip(rates(scores, top(k)), expected, strict=True)]
        print(f"k={k}: SAEBench {sum(expected) / len(expected):.4f}, largest difference {max(differences):.4f}")
        assert max(differences) <= 0.02


def test_features_equal_saebenchs() -> None:
    train, test = vectors("train", 2), vectors("test", 2)
    tasks = their_tasks(train, test, 2)
    x = joined(train)
    for k in KS:
        chosen = strongest(x, [task.train for task in tasks], k)
        for task, ours in zip(tasks, chosen, strict=True):
            rows, labels = x[task.train.rows], task.train.labels.int()
            dropped = probe_training.get_top_k_mean_diff_mask(rows, labels, k)
            assert sorted(ours.tolist()) == (~dropped).nonzero().squeeze(1).tolist()


def test_the_full_width_probe_equals_saebenchs() -> None:
    """On the mean over data: batches and starting weights are random in SAEBench."""
    differences = []
    for seed in range(6):
        train, test = vectors("train", seed), vectors("test", seed)
        draws = torch.Generator().manual_seed(seed)
        scores = probe(joined(train), joined(test), their_tasks(train, test, seed), OPTIONS, draws)
        differences.append(sum(rates(scores, FULL)) / 4 - sum(theirs(train, test, None, seed)) / 4)
    print("full width, ours minus SAEBench's:", differences)
    assert abs(sum(differences) / 6) <= 0.02


def test_accuracies_agree_when_both_draw_their_own_rows() -> None:
    differences: dict[int, list[float]] = {k: [] for k in (1, 5)}
    for seed in range(5):
        train, test = vectors("train", seed), vectors("test", seed)
        y, z = (torch.arange(4).repeat_interleave(SIZES[split]) for split in ("train", "test"))
        tasks = make_tasks(CLASSES, y, z, torch.zeros(len(y), dtype=torch.bool), torch.Generator().manual_seed(seed))
        scores = probe(joined(train), joined(test), tasks, OPTIONS, torch.Generator())
        for k, found in differences.items():
            found.append(sum(rates(scores, top(k))) / 4 - sum(theirs(train, test, k, seed)) / 4)
    means = {k: sum(found) / 5 for k, found in differences.items()}
    print("own rows, mean difference over five seeds:", means)
    assert all(abs(value) <= 0.02 for value in means.values())


class Adapted:
    """Our autoencoder as SAEBench calls it: dense codes, no mask."""

    dtype = torch.float32

    def __init__(self, sae: Autoencoder) -> None:
        self.encode = lambda x: sae.encode(x).dense()


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench(Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world"), SITE)


@pytest.mark.parametrize("preset", ["topk", "chrono"])
def test_vectors_of_texts_equal_saebenchs(bench: Workbench, preset: str) -> None:
    """Also for an autoencoder that looks back: it then sees the same zero vectors as in SAEBench."""
    texts = ["The wheat stood as high as a child's shoulder.", "Why?", "A letter lay on the table. " * 4]
    rows = bench.read(texts, 24)
    sae = build(preset, d_in=bench.subject.info.d_model, d_sae=64, k=4)
    torch.nn.init.normal_(sae.b_dec, std=0.3)
    acts = torch.zeros(len(texts), 24, sae.d_in)
    for part in bench.batches(rows, "parity"):
        acts[part.index, : part.batch.mask.shape[1]] = part.batch.acts * part.batch.mask.unsqueeze(-1)
    found = text_vectors(bench, rows, {"sae": sae}, SparseProbingOptions(protocol="saebench", context=24), "parity")
    adapted: Any = Adapted(sae)
    with torch.no_grad():
        codes = activation_collection.get_sae_meaned_activations({"all": acts}, adapted, 2)["all"]
    torch.testing.assert_close(found["sae"], codes, rtol=1e-4, atol=1e-5)
    raw = activation_collection.create_meaned_model_activations({"all": acts})["all"]
    torch.testing.assert_close(found[RAW], raw, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("protocol", ["chronosae", "saebench"])
def test_our_file_is_valid_for_saebench(bench: Workbench, tmp_path: Path, protocol: str) -> None:
    for split, n in (("train", 60), ("test", 40)):
        rows = [{"text": f"{('gold', 'salt')[i % 2]} and {split} {i}", "label": i % 2} for i in range(n)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    evaluation = SparseProbing.model_validate({"data": [str(tmp_path)], "protocol": protocol, "k": [1, 2]})
    sae = build("topk", d_in=bench.subject.info.d_model, d_sae=32, k=4)
    result = evaluation.run(bench, {"chronosae": sae})["chronosae"]
    provenance = Provenance("world", "f" * 64, "float32", "made up", "c" * 64, seed=0, device="cpu")
    written = result_envelope(evaluation, "chronosae", sae, SITE, result, provenance)
    file = Path(saebench.__file__).parent / "eval_output_schema_sparse_probing.json"
    schema = json.loads(file.read_text(encoding="utf-8"))
    assert list(_violations(json.loads(json.dumps(written)), schema, schema["$defs"], "")) == []
    read = TypeAdapter(SparseProbingEvalOutput).validate_python(written)
    assert read.eval_result_metrics.sae.sae_top_1_test_accuracy == result.metrics["sae"]["sae_top_1_test_accuracy"]
    assert read.eval_result_metrics.sae.sae_top_5_test_accuracy is None
