"""Cause and isolation of every attribute of one set, for every autoencoder and its controls.

The subject answers by ranking values; an interchange gives chosen features the source's codes while all others keep the
base's; which are chosen is a learned mask (multi-task binary masking, Huang et al. 2024, arXiv 2402.17700).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from chronosae.autoencoders import Autoencoder, Codes, DenseCodes, SparseCodes
from chronosae.evals.ravel.data import (
    ATTRIBUTES,
    KEY,
    NAME,
    AttributeSet,
    Pair,
    Pairs,
    Prompts,
    RavelOptions,
    draw_pairs,
    read_prompts,
)
from chronosae.evals.workbench import Workbench
from chronosae.kernels import scatter_dense

SEQUENCES, LOGITS = 128, 2**28
"""Sequences a forward pass, and numbers in its logits, at most."""
PAIRS = 32
"""Pairs whose codes are held at once."""
MEDIATES = 0.5
"""The least share of answers that exchanging whole activations must move."""


@dataclass(frozen=True)
class Outcome:
    """One attribute: which test pairs came out as they should."""

    attribute: str
    cause: Bool[Tensor, " pairs"]
    isolation: Bool[Tensor, " others"]
    cause_group: Int[Tensor, " pairs"]
    """Number of the base's entity."""
    isolation_group: Int[Tensor, " others"]
    chosen: int
    """Features exchanged."""

    @property
    def cause_score(self) -> float:
        """Share of the pairs whose answer became the source's."""
        return float(self.cause.float().mean())

    @property
    def isolation_score(self) -> float:
        """Share of the other attributes' pairs whose answer stayed the base's."""
        return float(self.isolation.float().mean())


@dataclass(frozen=True)
class SetOutcome:
    """All autoencoders on one set of entities."""

    data: str
    pairs: Pairs
    tokens: str
    """Hash of the prompts' tokens."""
    whole: list[Outcome]
    """The whole activations exchanged."""
    raw: list[Outcome]
    """A mask over residual dimensions."""
    saes: dict[str, list[Outcome] | None]
    """None where codes hold NaN or Inf."""

    @property
    def mediated(self) -> list[Outcome]:
        """The whole activations' outcomes of the attributes that are measured."""
        return [outcome for outcome in self.whole if outcome.cause_score >= MEDIATES]

    @property
    def unmediated(self) -> tuple[str, ...]:
        """Attributes that the subject reads elsewhere: exchanging whole activations moves too few answers. Nothing
        else is measured of them."""
        return tuple(outcome.attribute for outcome in self.whole if outcome.cause_score < MEDIATES)


@dataclass(frozen=True)
class Measured:
    """All autoencoders on all sets."""

    sets: tuple[SetOutcome, ...]


@dataclass(frozen=True)
class Change:
    """What becomes of the activations at the entity's tokens."""

    values: Float[Tensor, "sequences span d_in"]
    where: Bool[Tensor, "sequences span"]
    """Tokens that change."""
    replace: bool
    """True: they become `values`; False: `values` are added to them."""

    def at(self, which: slice | Int[Tensor, " some"]) -> "Change":
        """The change of some sequences."""
        return Change(self.values[which], self.where[which], self.replace)


@dataclass(frozen=True)
class Interchange:
    """What can be exchanged at the entities' tokens, and how an exchange changes the activations."""

    width: int
    """Features, or residual dimensions."""
    change: Callable[[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " width"]], Change]
    """Prompts that are the base, prompts that are the source, the share of each that is exchanged -> the change."""


@dataclass(frozen=True)
class Study:
    """One set of entities, as it is asked."""

    bench: Workbench
    options: RavelOptions
    data: str
    prompts: Prompts
    pairs: Pairs
    entity: Int[Tensor, " prompts"]
    """Number of each prompt's entity."""
    done: Callable[[int], None]
    """Told after every attribute of every interchange; given how many attributes there are."""


def measure(options: RavelOptions, bench: Workbench, saes: Mapping[str, Autoencoder]) -> Measured:
    """Every set, one after the other.

    Raises:
        UserError: a local file is damaged.
    """
    return Measured(tuple(_measure(options, bench, saes, ATTRIBUTES.read(name, "all", KEY)) for name in options.data))


def _measure(
    options: RavelOptions, bench: Workbench, saes: Mapping[str, Autoencoder], data: AttributeSet
) -> SetOutcome:
    """Choose features on training pairs, exchange them in test pairs. No outcomes with fewer than two attributes."""
    prompts = read_prompts(bench, data, options)
    pairs = make_pairs(bench, data, prompts, options)
    found = SetOutcome(data.name, pairs, prompts.rows.sha256(), [], [], {name: [] for name in saes})
    if len(pairs.test) < 2:
        return found
    acts, codes = codes_at_entities(bench, prompts, saes, f"{NAME} {data.name}")
    numbers = {entity: i for i, entity in enumerate(data.entities)}
    entity = torch.tensor([numbers[asked.entity] for asked in prompts.asked])
    steps = count(1)

    def done(attributes: int) -> None:
        # The whole activation and the raw dimensions are measured beside the autoencoders.
        bench.progress(f"{NAME} {data.name}, attributes", next(steps), (len(saes) + 2) * attributes)

    study = Study(bench, options, data.name, prompts, pairs, entity, done)
    raw = of_dimensions(prompts, acts)
    found = replace(found, whole=_outcomes(study, raw, torch.ones(raw.width, dtype=torch.bool)))
    # To keep what nothing here can move is no achievement: such attributes' pairs are neither chosen nor judged by.
    study = replace(study, pairs=pairs.of([outcome.attribute for outcome in found.mediated]))
    found = replace(found, pairs=study.pairs)
    if len(found.mediated) < 2:
        return found
    keep_error = options.protocol == "chronosae"
    return replace(
        found,
        raw=_outcomes(study, raw),
        saes={
            name: _outcomes(study, of_features(sae, prompts, codes[name], keep_error=keep_error))
            if codes[name].values.isfinite().all()
            else None
            for name, sae in saes.items()
        },
    )


def make_pairs(bench: Workbench, data: AttributeSet, prompts: Prompts, options: RavelOptions) -> Pairs:
    """Pairs of entities that differ in an attribute which the subject knows of both."""
    bench.progress(f"{NAME} {data.name}, what the subject knows", 0, len(prompts.asked))
    return draw_pairs(bench, data, prompts, known_prompts(bench, data, prompts), options)


@torch.no_grad()
def known_prompts(bench: Workbench, data: AttributeSet, prompts: Prompts) -> list[bool]:
    """Whether the right value is the likeliest of all values of its attribute, for each prompt."""
    options = [data.options(asked.attribute) for asked in prompts.asked]
    which = torch.tensor([i for i, values in enumerate(options) for _ in values], dtype=torch.long)
    scores = log_likelihood(bench, prompts, which, [value for values in options for value in values])
    parts = scores.split([len(values) for values in options])
    best = [values[int(part.argmax())] for values, part in zip(options, parts, strict=True)]
    return [
        value == data.values[asked.attribute][asked.entity] for value, asked in zip(best, prompts.asked, strict=True)
    ]


def _outcomes(study: Study, interchange: Interchange, mask: Tensor | None = None) -> list[Outcome]:
    """Every attribute, one after the other."""
    every = []
    for attribute in study.pairs.test:
        every.append(_outcome(study, interchange, attribute, mask))
        study.done(len(study.pairs.test))
    return every


def _outcome(study: Study, interchange: Interchange, attribute: str, mask: Tensor | None) -> Outcome:
    """One attribute; the mask is learned where none is given."""
    train, test = (
        (part[attribute], [pair for other, found in part.items() if other != attribute for pair in found])
        for part in (study.pairs.train, study.pairs.test)
    )
    if mask is None:
        # The same pairs in the same order for every autoencoder.
        generator = study.bench.generator(NAME, study.data, attribute, "mask")
        mask = learn_mask(study, interchange, *train, generator)
    right = [answers_right(study, interchange, mask, pairs, wanted) for pairs, wanted in zip(test, (1, 0), strict=True)]
    groups = [study.entity[torch.tensor([pair.base for pair in pairs])] for pairs in test]
    return Outcome(attribute, *right, *groups, chosen=int(mask.sum()))


def learn_mask(
    study: Study, interchange: Interchange, cause: Sequence[Pair], keep: Sequence[Pair], generator: torch.Generator
) -> Bool[Tensor, " width"]:
    """Features whose exchange makes answers of `cause` pairs the source's and leaves those of `keep` pairs the base's.

    Minimises the negative log-likelihood of these answers over m, features being exchanged by sigmoid(m / T), while T
    falls to `end_temperature`; a feature is chosen when m > 0. A feature that no pair exchanges stays at m = 0.
    """
    options = study.options
    m = torch.zeros(interchange.width, requires_grad=True)
    adam = torch.optim.Adam([m], lr=options.lr)
    for step in range(options.steps):
        temperature = options.end_temperature ** (step / max(1, options.steps - 1))
        changed, kept = (_draw(pairs, options.batch // 2, generator) for pairs in (cause, keep))
        answers = [pair.options[1] for pair in changed] + [pair.options[0] for pair in kept]
        base, source = _ends([*changed, *kept])
        with torch.enable_grad():
            change = interchange.change(base, source, torch.sigmoid(m / temperature))
            loss = -log_likelihood(study.bench, study.prompts, base, answers, change).mean()
        # A dead autoencoder's exchange changes nothing, and nothing is learned.
        (m.grad,) = torch.autograd.grad(loss, [m])
        adam.step()
    return m.detach() > 0


def _draw(pairs: Sequence[Pair], n: int, generator: torch.Generator) -> list[Pair]:
    return [pairs[i] for i in torch.randint(len(pairs), (n,), generator=generator).tolist()]


def _ends(pairs: Sequence[Pair]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Prompts that are the base, and prompts that are the source."""
    return torch.tensor([pair.base for pair in pairs]), torch.tensor([pair.source for pair in pairs])


@torch.no_grad()
def answers_right(
    study: Study, interchange: Interchange, mask: Tensor, pairs: Sequence[Pair], wanted: int
) -> Bool[Tensor, " pairs"]:
    """Whether option `wanted` (0: the base's value, 1: the source's) is likelier than all others after the exchange."""
    found = []
    for start in range(0, len(pairs), PAIRS):
        some = pairs[start : start + PAIRS]
        base, source = _ends(some)
        asked = torch.tensor([i for i, pair in enumerate(some) for _ in pair.options])
        change = interchange.change(base, source, mask.float()).at(asked)
        answers = [option for pair in some for option in pair.options]
        scores = log_likelihood(study.bench, study.prompts, base[asked], answers, change)
        found += scores.split([len(pair.options) for pair in some])
    # A tie, as where the activation was wiped out, is no answer.
    return torch.tensor([bool((part > part[wanted]).sum() + (part == part[wanted]).sum() == 1) for part in found])


def of_features(sae: Autoencoder, prompts: Prompts, codes: Codes, *, keep_error: bool) -> Interchange:
    """Exchange features: x + decode((1 - m) f_base + m f_source) - decode(f_base), or without x - decode(f_base)."""
    device = sae.b_dec.device

    def decoded(values: Tensor, base: Tensor) -> Tensor:
        scale = None if codes.scale is None else codes.scale[base].to(device)
        return sae.decode(DenseCodes(values.to(device), scale))

    def change(base: Tensor, source: Tensor, mask: Tensor) -> Change:
        here, where = dense_rows(codes, base), prompts.exchanged(base, source)
        mixed = decoded(here + mask * (dense_rows(codes, source) - here), base)
        if not keep_error:
            return Change(mixed, where, True)
        with torch.no_grad():
            before = decoded(here, base)
        return Change(mixed - before, where, False)

    return Interchange(codes.d_sae, change)


def of_dimensions(prompts: Prompts, acts: Float[Tensor, "prompts span d_in"]) -> Interchange:
    """Exchange residual dimensions; a mask of ones exchanges whole activations."""

    def change(base: Tensor, source: Tensor, mask: Tensor) -> Change:
        return Change(mask * (acts[source] - acts[base]), prompts.exchanged(base, source), False)

    return Interchange(acts.shape[-1], change)


def codes_at_entities(
    bench: Workbench, prompts: Prompts, saes: Mapping[str, Autoencoder], what: str
) -> tuple[Float[Tensor, "prompts span d_in"], dict[str, Codes]]:
    """Raw activations, and codes `[prompts, span, ...]` of each autoencoder, at the entities' tokens, on the CPU.

    Whole prompts are encoded; the tokens are picked afterwards.
    """
    acts = torch.zeros(*prompts.places.shape, bench.subject.info.d_model)
    parts: dict[str, list[Codes]] = {name: [] for name in saes}
    order = []
    for part, codes in bench.encoded(prompts.rows, saes, what):
        # A place of no token is never exchanged; it holds the last position's values.
        at = (torch.arange(len(part.index)).unsqueeze(1), prompts.places[part.index])
        order.append(part.index)
        acts[part.index] = part.batch.acts.cpu()[at]
        for name, code in codes.items():
            parts[name].append(_picked(code, at))
    back = torch.cat(order).argsort()
    return acts, {name: _joined(pieces, back) for name, pieces in parts.items()}


def _picked(codes: Codes, at: tuple[Tensor, Tensor]) -> Codes:
    """Codes of some tokens, on the CPU."""
    where = tuple(index.to(codes.values.device) for index in at)
    values = codes.values[where].cpu()
    scale = None if codes.scale is None else codes.scale[where].cpu()
    if isinstance(codes, SparseCodes):
        return SparseCodes(values, scale, codes.indices[where].cpu(), codes.n_features)
    return DenseCodes(values, scale)


def _joined(pieces: Sequence[Codes], order: Int[Tensor, " prompts"]) -> Codes:
    """One `Codes` of all pieces, in another order."""
    slots = max(piece.values.shape[-1] for piece in pieces)

    def cat(tensors: Sequence[Tensor]) -> Tensor:
        # Unused slots come first.
        return torch.cat([pad(tensor, (slots - tensor.shape[-1], 0)) for tensor in tensors])[order]

    scales = [piece.scale for piece in pieces if piece.scale is not None]
    scale = torch.cat(scales)[order] if scales else None
    sparse = [piece for piece in pieces if isinstance(piece, SparseCodes)]
    values = cat([piece.values for piece in pieces])
    if sparse:
        return SparseCodes(values, scale, cat([piece.indices for piece in sparse]), sparse[0].n_features)
    return DenseCodes(values, scale)


def dense_rows(codes: Codes, which: Int[Tensor, " n"]) -> Float[Tensor, "n span d_sae"]:
    """All codes of some prompts: only as many are held at once as are exchanged."""
    if isinstance(codes, SparseCodes):
        return scatter_dense(codes.indices[which], codes.values[which], codes.n_features)
    return codes.values[which]


def log_likelihood(
    bench: Workbench,
    prompts: Prompts,
    which: Int[Tensor, " sequences"],
    answers: Sequence[str],
    change: Change | None = None,
) -> Float[Tensor, " sequences"]:
    """Log-probability (nats, summed over tokens) of each answer after its prompt; gradients flow to `change`."""
    found = []
    longest = prompts.rows.tokens.shape[1] + max(map(len, prompts.answers.values()), default=0)
    at_once = max(1, min(SEQUENCES, LOGITS // (longest * bench.subject.vocab_size)))
    for start in range(0, len(which), at_once):
        part = slice(start, start + at_once)
        some = None if change is None else change.at(part)
        found.append(_log_likelihood(bench, prompts, which[part], answers[part], some))
    return torch.cat(found) if found else torch.zeros(0)


def _log_likelihood(
    bench: Workbench, prompts: Prompts, which: Tensor, answers: Sequence[str], change: Change | None
) -> Tensor:
    subject, device = bench.subject, bench.subject.device
    lengths = prompts.rows.lengths[which]
    tails = [prompts.answers[answer] for answer in answers]
    width = int(max(n + len(tail) for n, tail in zip(lengths.tolist(), tails, strict=True)))
    tokens = torch.zeros(len(which), width, dtype=torch.long)
    answer, real = torch.zeros_like(tokens, dtype=torch.bool), torch.zeros_like(tokens, dtype=torch.bool)
    for i, (row, n, tail) in enumerate(zip(which.tolist(), lengths.tolist(), tails, strict=True)):
        tokens[i, :n] = prompts.rows.tokens[row, :n]
        tokens[i, n : n + len(tail)] = torch.tensor(tail)
        answer[i, n : n + len(tail)] = True
        real[i, : n + len(tail)] = True

    def edit(acts: Tensor) -> Tensor:
        assert change is not None
        where = change.where.nonzero(as_tuple=True)
        at = (where[0].to(device), prompts.places[which][where].to(device))
        new = change.values.to(acts)[change.where.to(device)]
        return acts.index_put(at, new if change.replace else acts[at] + new)

    edits = {} if change is None else {bench.site: edit}
    logits = subject.run_with(tokens, edits, real)[:, :-1].float()
    log_p = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None].to(device)).squeeze(-1)
    return (log_p * answer[:, 1:].to(device)).sum(1).cpu()
