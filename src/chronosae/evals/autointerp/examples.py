"""Examples of every latent, found in one pass over the text: what is explained, and what is judged on.

Memory is for the firings of a few contexts and for the examples kept, never for tokens x d_sae.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Codes, SparseCodes
from chronosae.evals.autointerp.data import NAME, AutointerpOptions, Contexts
from chronosae.evals.workbench import Workbench

# Codes looked at at once.
AT_ONCE = 2**22
# Random examples from which each latent draws its own.
POOL = 400
# Which latents are alive is known only at the end: so many times as many as are wanted are watched.
WATCHED = 16


@dataclass(frozen=True)
class Events:
    """Activations above 0, one entry each."""

    row: Int[Tensor, " events"]
    """Number of the context among all."""
    position: Int[Tensor, " events"]
    place: Int[Tensor, " events"]
    """Place of the latent among the watched ones."""
    value: Float[Tensor, " events"]
    rows: Int[Tensor, " contexts"]
    """The contexts looked at."""
    n_watched: int

    @cached_property
    def here(self) -> Int[Tensor, " events"]:
        """Place of the context among `rows`."""
        order = self.rows.argsort()
        return order[torch.searchsorted(self.rows[order], self.row)]

    def at(
        self, row: Int[Tensor, "*some"], position: Int[Tensor, "*some"], place: Int[Tensor, "*some"]
    ) -> Float[Tensor, "*some"]:
        """Activations of watched latents anywhere in these contexts."""
        if not len(self.value):
            return torch.zeros(row.shape, device=self.value.device)
        known, value = self._sorted
        wanted = self._key(row, position, place)
        found = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
        return torch.where(known[found] == wanted, value[found], 0.0)

    @cached_property
    def _sorted(self) -> tuple[Tensor, Tensor]:
        known, order = self._key(self.row, self.position, self.place).sort()
        return known, self.value[order]

    def _key(self, row: Tensor, position: Tensor, place: Tensor) -> Tensor:
        # Contexts are shorter than 2^20 tokens.
        return ((row << 20) + position) * self.n_watched + place


def events(codes: Codes, rows: Int[Tensor, " batch"], watched: Sequence[int]) -> Iterator[Events]:
    """The firings of the watched latents in a batch, a few contexts at a time.

    Args:
        rows: number of each context of the batch.
    """
    device = codes.values.device
    wanted = torch.tensor(watched, dtype=torch.long, device=device)
    place_of = torch.full((codes.d_sae,), -1, device=device)
    place_of[wanted] = torch.arange(len(watched), device=device)
    sparse = isinstance(codes, SparseCodes)
    step = max(1, AT_ONCE // max(1, codes.values.shape[1] * (codes.values.shape[2] if sparse else len(watched))))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        if isinstance(codes, SparseCodes):
            values = codes.values[part]
            places = place_of[codes.indices[part]]
            row, position, slot = ((values > 0) & (places >= 0)).nonzero(as_tuple=True)
            place = places[row, position, slot]
        else:
            values = codes.values[part][..., wanted]
            row, position, slot = (values > 0).nonzero(as_tuple=True)
            place = slot
        some = rows[part].to(device)
        yield Events(some[row], position, place, values[row, position, slot].float(), some, len(watched))


class Best:
    """For each latent the `k` contexts with the largest keys, and the codes of the example in each.

    At most one example a context: examples never overlap, neither among themselves nor between those an explanation
    is made from and those it is judged on.

    Args:
        n_latents: latents watched.
        k: examples a latent.
        window: tokens of an example.
        first: for every context, the first position that an example may hold.
        lengths: for every context, one past the last of them.
    """

    def __init__(
        self, n_latents: int, k: int, window: int, first: Int[Tensor, " all"], lengths: Int[Tensor, " all"]
    ) -> None:
        device = first.device
        self.keys = torch.zeros(n_latents, k, device=device)
        """0 where there is no example yet."""
        self.rows = torch.full((n_latents, k), -1, device=device)
        self.starts = torch.zeros(n_latents, k, dtype=torch.long, device=device)
        """First position of the example."""
        self.values = torch.zeros(n_latents, k, device=device)
        """Activation at the token that the example is chosen for."""
        self.codes = torch.zeros(n_latents, k, window, device=device)
        self._window, self._first, self._lengths = window, first, lengths

    def offer(self, keys: Float[Tensor, " events"], events: Events) -> None:
        """Consider every context at the firing with its largest key (above 0; of equals the first)."""
        k = self.keys.shape[1]
        largest, positions = self._champions(keys, events)
        # What is kept stands first and the sort is stable: of equals the earlier context stays.
        merged, order = torch.cat([self.keys, largest], 1).sort(dim=1, descending=True, stable=True)
        self.keys, order = merged[:, :k], order[:, :k]
        latent, slot = ((order >= k) & (self.keys > 0)).nonzero(as_tuple=True)
        new = order[latent, slot] - k  # context among those offered
        kept = order.clamp(max=k - 1)
        self.rows, self.starts, self.values = (part.gather(1, kept) for part in (self.rows, self.starts, self.values))
        self.codes = self.codes.gather(1, kept.unsqueeze(-1).expand(-1, -1, self._window))
        row, position = events.rows[new], positions[latent, new]
        start = window_starts(position, self._first[row], self._lengths[row], self._window)
        inside = start.unsqueeze(1) + torch.arange(self._window, device=start.device)
        self.rows[latent, slot] = row
        self.starts[latent, slot] = start
        self.values[latent, slot] = events.at(row, position, latent)
        self.codes[latent, slot] = events.at(
            row.unsqueeze(1).expand_as(inside), inside, latent.unsqueeze(1).expand_as(inside)
        )

    def _champions(
        self, keys: Float[Tensor, " events"], events: Events
    ) -> tuple[Float[Tensor, "latents contexts"], Int[Tensor, "latents contexts"]]:
        """Largest key of each latent in each context offered, and its position."""
        n = len(events.rows)
        group = events.place * n + events.here
        largest = keys.new_zeros(len(self.keys) * n).scatter_reduce_(0, group, keys, "amax")
        best = keys == largest[group]
        positions = torch.full_like(largest, torch.iinfo(torch.long).max, dtype=torch.long)
        positions.scatter_reduce_(0, group[best], events.position[best], "amin")
        return largest.view(-1, n), positions.view(-1, n)


def window_starts(
    positions: Int[Tensor, " n"], first: Int[Tensor, " n"], lengths: Int[Tensor, " n"], window: int
) -> Int[Tensor, " n"]:
    """Where examples around `positions` begin: as many tokens on each side as there are, always `window` in all."""
    return torch.maximum(first, torch.minimum(positions - window // 2, lengths - window))


@dataclass(frozen=True)
class Pool:
    """Random examples, the same for all latents: each token of the text is as likely to be chosen."""

    rows: Int[Tensor, " pool"]
    starts: Int[Tensor, " pool"]


@dataclass
class Gathered:
    """What the text tells of one autoencoder's watched latents."""

    watched: list[int]
    """Latents in random order: the alive ones that come first are chosen."""
    fired: Int[Tensor, " d_sae"]
    """Tokens on which each feature fires."""
    top: Best
    """By activation."""
    importance: Best
    """Drawn with chances as the squared activation, without replacement; `top` may be among them."""
    in_pool: Float[Tensor, "pool watched"]
    """Largest activation in each random example."""

    def alive(self, options: AutointerpOptions) -> int:
        """Latents that fire often enough to be asked about."""
        return int((self.fired > options.dead_latent_threshold).sum())

    def chosen(self, options: AutointerpOptions) -> list[int]:
        """Places in `watched` of the latents to ask about, by latent."""
        places = range(len(self.watched))
        if options.override_latents is None:
            places = [i for i in places if self.fires_on(i) > options.dead_latent_threshold][: options.n_latents]
        return sorted(places, key=self.watched.__getitem__)

    def fires_on(self, place: int) -> int:
        """Tokens on which a watched latent fires."""
        return int(self.fired[self.watched[place]])


def gather_examples(
    options: AutointerpOptions, bench: Workbench, contexts: Contexts, saes: Mapping[str, Autoencoder]
) -> tuple[dict[str, Gathered], Pool]:
    """Examples of each autoencoder's latents, by its name."""
    pool = _draw_pool(options, bench, contexts)
    found = {name: _empty(options, bench, contexts, sae, len(pool.rows)) for name, sae in saes.items()}
    # One stream of noise an autoencoder: the same examples whichever autoencoders are beside it.
    noise = {name: bench.generator(NAME, options.data, "importance") for name in saes}
    for part, codes in bench.encoded(contexts.rows, saes, f"{NAME}: finding examples"):
        for name, one in codes.items():
            found[name].fired += _fired(one)
            for some in events(one, part.index, found[name].watched):
                _offer(found[name], some, noise[name])
                _look_into_pool(found[name], pool, some, options.window)
    return found, pool


def _fired(codes: Codes) -> Int[Tensor, " d_sae"]:
    """Tokens on which each feature is above 0."""
    if isinstance(codes, SparseCodes):
        return torch.bincount(codes.indices[codes.values > 0], minlength=codes.d_sae).cpu()
    return (codes.values > 0).flatten(0, -2).sum(0).cpu()


def _draw_pool(options: AutointerpOptions, bench: Workbench, contexts: Contexts) -> Pool:
    rows, positions = contexts.rows.mask.nonzero(as_tuple=True)
    order = torch.randperm(len(rows), generator=bench.generator(NAME, options.data, "random"))[:POOL]
    rows, positions = rows[order], positions[order]
    starts = window_starts(positions, contexts.first[rows], contexts.rows.lengths[rows], options.window)
    return Pool(rows, starts)


def _empty(options: AutointerpOptions, bench: Workbench, contexts: Contexts, sae: Autoencoder, n_pool: int) -> Gathered:
    watched = options.override_latents
    if watched is None:
        order = torch.randperm(sae.d_sae, generator=bench.generator(NAME, options.data, "latents"))
        watched = order[: WATCHED * options.n_latents].tolist()
    device, n = sae.b_dec.device, len(watched)
    where = contexts.first.to(device), contexts.rows.lengths.to(device)
    return Gathered(
        watched=watched,
        fired=torch.zeros(sae.d_sae, dtype=torch.long),
        top=Best(n, options.n_top, options.window, *where),
        # As many more as may turn out to be among the top.
        importance=Best(n, options.n_top + options.n_importance, options.window, *where),
        in_pool=torch.zeros(n_pool, n, device=device),
    )


def _offer(found: Gathered, some: Events, noise: torch.Generator) -> None:
    found.top.offer(some.value, some)
    # The largest of w / Exp(1) is each item with chance w / sum w, and the largest k are a draw without replacement
    # (Efraimidis and Spirakis 2006); so it is for each context's largest, and for what is left without the top.
    waits = torch.empty(some.value.shape).exponential_(generator=noise).to(some.value.device)
    found.importance.offer(some.value.square() / waits, some)


def _look_into_pool(found: Gathered, pool: Pool, some: Events, window: int) -> None:
    slots = torch.isin(pool.rows, some.rows.cpu()).nonzero().squeeze(1)
    device = some.value.device
    rows, starts = pool.rows[slots].to(device).unsqueeze(1), pool.starts[slots].to(device).unsqueeze(1)
    inside = (some.row == rows) & (some.position >= starts) & (some.position < starts + window)
    i, event = inside.nonzero(as_tuple=True)
    flat = slots.to(device)[i] * len(found.watched) + some.place[event]
    found.in_pool.view(-1).scatter_reduce_(0, flat, some.value[event], "amax")


@dataclass(frozen=True)
class Example:
    """A few tokens of one document."""

    text: str
    marks: tuple[tuple[int, int], ...]
    """Characters of the active tokens; none for a random example."""
    active: bool
    """The latent is active at a token of it."""
    largest: float
    """Largest activation."""
    random: bool
    """Chosen without regard to the latent."""


@dataclass(frozen=True)
class Examples:
    """Of one latent."""

    to_explain: tuple[Example, ...]
    """Most strongly active first."""
    to_judge: tuple[Example, ...]
    """In random order."""


def make_examples(
    options: AutointerpOptions,
    contexts: Contexts,
    found: Gathered,
    pool: Pool,
    i: int,
    generator: torch.Generator,
) -> Examples | None:
    """Examples of the i-th chosen latent; None where it is active in too few contexts.

    Too few: fewer contexts than twice the active examples to judge, or too few random examples elsewhere. With
    fewer contexts than examples asked for, those to judge stay as many and an explanation is made from the rest.
    """
    threshold = options.act_threshold_frac * float(found.top.values[i].max())
    top = _examples(contexts, found.top, i, threshold, skip=set())
    rest = _examples(contexts, found.importance, i, threshold, skip={row for row, _ in top})
    rest = rest[: options.n_importance]
    if len(top) + len(rest) < 2 * options.n_active_scored:
        return None
    if len(top) + len(rest) < options.n_top + options.n_importance:
        explain, judge = _split([*top, *rest], options.n_active_scored, generator)
    else:
        explain, judge = _split(top, options.n_top_ex_for_scoring, generator)
        more = _split(rest, options.n_iw_sampled_ex_for_scoring, generator)
        explain, judge = explain + more[0], judge + more[1]
    places = _elsewhere(pool, {row for row, _ in [*top, *rest]}, generator)
    others = [
        _random(contexts, pool, j, options.window, float(found.in_pool[j, i]), threshold)
        for j in islice(places, options.n_random_ex_for_scoring)
    ]
    if len(others) < options.n_random_ex_for_scoring:
        return None
    shown = [example for _, example in judge] + others
    order = torch.randperm(len(shown), generator=generator).tolist()
    ranked = sorted((example for _, example in explain), key=lambda example: -example.largest)
    return Examples(tuple(ranked), tuple(shown[j] for j in order))


Placed = tuple[int, Example]
"""An example and the context it comes from."""


def _examples(contexts: Contexts, best: Best, i: int, threshold: float, skip: set[int]) -> list[Placed]:
    """Examples of one kind that are chosen for an active token, largest key first."""
    window = best.codes.shape[-1]
    placed = []
    for slot, row in enumerate(best.rows[i].tolist()):
        if row < 0 or row in skip or float(best.values[i, slot]) <= threshold:
            continue
        start = int(best.starts[i, slot])
        codes = best.codes[i, slot].tolist()
        text, spans = contexts.text(row, start, start + window)
        marks = tuple(span for span, code in zip(spans, codes, strict=True) if code > threshold)
        placed.append((row, Example(text, marks, True, max(codes), random=False)))
    return placed


def _split(placed: list[Placed], n: int, generator: torch.Generator) -> tuple[list[Placed], list[Placed]]:
    """All but n, and n, at random."""
    order = torch.randperm(len(placed), generator=generator).tolist()
    return [placed[j] for j in order[n:]], [placed[j] for j in order[:n]]


def _elsewhere(pool: Pool, used: set[int], generator: torch.Generator) -> Iterator[int]:
    """Places in the pool, in random order, whose contexts serve for nothing else of this latent."""
    taken = set(used)
    for j in torch.randperm(len(pool.rows), generator=generator).tolist():
        row = int(pool.rows[j])
        if row not in taken:
            taken.add(row)
            yield j


def _random(contexts: Contexts, pool: Pool, j: int, window: int, largest: float, threshold: float) -> Example:
    start = int(pool.starts[j])
    text, _ = contexts.text(int(pool.rows[j]), start, start + window)
    return Example(text, (), largest > threshold, largest, random=True)
