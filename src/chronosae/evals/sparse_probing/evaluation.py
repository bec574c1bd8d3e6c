"""The sparse-probing evaluation: data set by data set, all autoencoders of a site together."""

from collections.abc import Iterator, Mapping

from jaxtyping import Float
from torch import Tensor

from chronosae.autoencoders import Autoencoder
from chronosae.evals.data import LABELLED
from chronosae.evals.evaluation import EVALUATIONS, Evaluation
from chronosae.evals.pooling import RAW
from chronosae.evals.preflight import Missing, Setting
from chronosae.evals.result import EvalResult
from chronosae.evals.sparse_probing.options import SparseProbingOptions
from chronosae.evals.sparse_probing.outcome import Reader, result_of
from chronosae.evals.sparse_probing.pools import text_vectors
from chronosae.evals.sparse_probing.probing import Scores, probe
from chronosae.evals.sparse_probing.reading import KEY, NAME, ProbingSet, read_set
from chronosae.evals.workbench import Workbench

# Autoencoders whose vectors of one data set take more together are encoded one group after the other.
MOST_BYTES = 2 * 2**30


@EVALUATIONS.add
class SparseProbing(SparseProbingOptions, Evaluation):
    """How well k features alone tell a text's class, beside raw activations.

    How well k features tell a text's class, beside k raw channels, all features and all channels.
    """

    name = NAME
    eval_type_id = "sparse_probing"

    def preflight(self, setting: Setting) -> list[Missing]:
        """Data sets that can't be opened."""
        found = [LABELLED.missing(name, KEY) for name in dict.fromkeys(self.data)]
        return [missing for missing in found if missing is not None]

    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        """See `docs/evaluations/sparse-probing.md`."""
        sets, readers = [], {name: Reader() for name in [RAW, *saes]}
        for name in dict.fromkeys(self.data):
            data = read_set(name, self, bench)
            sets.append(data)
            for who, (scores, alive) in _read_by_all(data, self, bench, saes).items():
                readers[who].scores.append(scores)
                readers[who].alive.append(alive)
        return {name: result_of(name, self, bench, sets, readers[RAW], readers[name]) for name in saes}


def _read_by_all(
    data: ProbingSet, options: SparseProbingOptions, bench: Workbench, saes: Mapping[str, Autoencoder]
) -> dict[str, tuple[Scores, int]]:
    """Scores of every reader, and how many of its features aren't 0 on every training text."""
    found: dict[str, tuple[Scores, int]] = {}
    for group in _groups(saes, len(data.train) + len(data.test)):
        train = text_vectors(bench, data.train, group, options, f"{NAME}: {data.name}, training texts")
        test = text_vectors(bench, data.test, group, options, f"{NAME}: {data.name}, test texts")
        for who in train:
            if who not in found:
                bench.progress(f"{NAME}: {data.name}, probes", len(found), len(saes) + 1)
                found[who] = _scores(train[who], test[who], data, options, bench, is_raw=who == RAW)
    bench.progress(f"{NAME}: {data.name}, probes", len(found), len(saes) + 1)
    return found


def _scores(
    train: Float[Tensor, "train_rows width"],
    test: Float[Tensor, "test_rows width"],
    data: ProbingSet,
    options: SparseProbingOptions,
    bench: Workbench,
    *,
    is_raw: bool,
) -> tuple[Scores, int]:
    if not (train.isfinite().all() and test.isfinite().all()):
        return Scores(), 0
    # The same stream for every reader: autoencoders are compared on the same batches, whoever is beside them.
    generator = bench.generator(NAME, LABELLED.label(data.name), "probes")
    device = bench.subject.device
    scores = probe(train, test, data.tasks, options, generator, device=device, is_raw=is_raw)
    return scores, int((train != 0).any(0).sum())


def _groups(saes: Mapping[str, Autoencoder], rows: int) -> Iterator[dict[str, Autoencoder]]:
    group: dict[str, Autoencoder] = {}
    size = 0
    for name, sae in saes.items():
        more = rows * sae.d_sae * 4
        if group and size + more > MOST_BYTES:
            yield group
            group, size = {}, 0
        group[name], size = sae, size + more
    yield group
