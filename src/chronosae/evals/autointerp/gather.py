"""Which latents are asked about, and their examples: one pass over the text, nothing tokens x d_sae."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Codes, SparseCodes
from chronosae.evals.autointerp.best import Best, window_starts
from chronosae.evals.autointerp.contexts import Contexts
from chronosae.evals.autointerp.events import Events, events
from chronosae.evals.autointerp.options import AutointerpOptions
from chronosae.evals.workbench import Workbench

NAME = "autointerp"
# Random examples from which each latent draws its own.
POOL = 400
# Which latents are alive is known only at the end: so many times as many as are wanted are watched.
WATCHED = 16


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
