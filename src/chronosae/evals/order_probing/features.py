"""What probes read at a token: codes, raw activations, and what needs no activations at all."""

from collections.abc import Mapping

import numpy as np
import torch
from scipy.sparse import csr_array, hstack
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Codes, SparseCodes
from chronosae.evals.order_probing.items import TokenItems
from chronosae.evals.pooling import RAW
from chronosae.evals.workbench import Workbench

Features = csr_array | np.ndarray
"""`[items, columns]`, in double precision."""

BINS = 16


def entries(x: Features) -> np.ndarray:
    """All values that are stored."""
    return x if isinstance(x, np.ndarray) else np.asarray(x.data)


def at_tokens(bench: Workbench, items: TokenItems, saes: Mapping[str, Autoencoder], what: str) -> dict[str, Features]:
    """Codes of each autoencoder by name, and raw activations under `RAW`, at the items' tokens.

    Whole contexts are encoded; the tokens are picked afterwards. Codes are sparse: most features are silent.
    """
    raw = np.zeros((len(items), bench.subject.info.d_model))
    parts: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in saes}
    for part, codes in bench.encoded(items.rows, saes, what):
        local = torch.full((len(items.rows),), -1).index_copy(0, part.index, torch.arange(len(part.index)))
        item = (local[items.row] >= 0).nonzero().squeeze(1)
        row, pos = local[items.row[item]], items.pos[item]
        acts = part.batch.acts
        raw[item.numpy()] = acts[row.to(acts.device), pos.to(acts.device)].double().cpu().numpy()
        for name, code in codes.items():
            parts[name].append((item, *_entries(code, row, pos)))
    return {RAW: raw} | {name: _matrix(found, len(items), saes[name].d_sae) for name, found in parts.items()}


def _entries(codes: Codes, row: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
    """Features and values at some tokens, `[items, slots]` each, on the CPU."""
    device = codes.values.device
    values = codes.values[row.to(device), pos.to(device)].double().cpu()
    if isinstance(codes, SparseCodes):
        return codes.indices[row.to(device), pos.to(device)].cpu(), values
    return torch.arange(codes.d_sae).expand_as(values), values


def _matrix(parts: list[tuple[Tensor, Tensor, Tensor]], n: int, width: int) -> csr_array:
    rows, columns, values = [], [], []
    for item, indices, entries in parts:
        fired = entries != 0
        rows.append(item.unsqueeze(1).expand_as(fired)[fired])
        columns.append(indices[fired])
        values.append(entries[fired])
    places = (torch.cat(rows).numpy(), torch.cat(columns).numpy())
    return csr_array((torch.cat(values).numpy(), places), shape=(n, width))


def position(train: TokenItems, test: TokenItems) -> tuple[Features, Features]:
    """Where the token stands in the context: one column a sixteenth of the training tokens, and the place itself."""
    borders = torch.quantile(train.pos.double(), torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1])
    scale = train.pos.double().mean().clamp(min=1)

    def columns(items: TokenItems) -> np.ndarray:
        bins = torch.bucketize(items.pos.double(), borders)
        one_hot = torch.nn.functional.one_hot(bins, BINS).double()
        return torch.cat([one_hot, (items.pos / scale).unsqueeze(1)], 1).numpy()

    return columns(train), columns(test)


def identity(items: TokenItems, vocabulary: int) -> csr_array:
    """Which token it is."""
    n = len(items)
    return csr_array((np.ones(n), (np.arange(n), items.tokens.numpy())), shape=(n, vocabulary))


def bag(items: TokenItems, vocabulary: int, *, so_far: bool) -> csr_array:
    """Which token it is, beside how often each token occurs in the context (or up to and including this one)."""
    real = items.rows.real[items.row]
    if so_far:
        real = real & (torch.arange(real.shape[1]) <= items.pos.unsqueeze(1))
    item, place = real.nonzero(as_tuple=True)
    tokens = items.rows.tokens[items.row[item], place]
    counts = csr_array((np.ones(len(item)), (item.numpy(), tokens.numpy())), shape=(len(items), vocabulary))
    return csr_array(hstack([identity(items, vocabulary), counts]))
