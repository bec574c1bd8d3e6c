"""Site names, as TransformerLens writes them: `blocks.12.hook_resid_post` -> `Site(12, "resid_post")`."""

import re
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, get_args

from chronosae.config import UserError

SiteKind = Literal["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"]

# In the order in which a decoder layer computes them.
SITE_KINDS: Final[tuple[SiteKind, ...]] = get_args(SiteKind)
_NAME = re.compile(r"blocks\.(0|[1-9]\d*)\.hook_(" + "|".join(SITE_KINDS) + ")")


class Site(NamedTuple):
    """A hook point: decoder layer (from 0) and what is read there."""

    layer: int
    kind: SiteKind

    @property
    def order(self) -> tuple[int, int]:
        """Sorts sites by when the forward pass reaches them."""
        return self.layer, SITE_KINDS.index(self.kind)

    def __str__(self) -> str:
        return f"blocks.{self.layer}.hook_{self.kind}"


def parse_site(name: str, n_layers: int, kinds: Sequence[SiteKind], architecture: str) -> Site:
    """The site called `name` in a model of `n_layers` layers that has the given `kinds`.

    Raises:
        UserError: the name isn't one, the layer doesn't exist, or the architecture lacks the kind; lists legal names.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"subject.sites: {name!r} is not a site; legal: {legal_sites(n_layers, kinds)}")
    site = Site(int(match[1]), next(kind for kind in SITE_KINDS if kind == match[2]))
    if site.layer >= n_layers:
        raise UserError(
            f"subject.sites: {name!r}: the model has {n_layers} layers; legal: {legal_sites(n_layers, kinds)}"
        )
    if site.kind not in kinds:
        raise UserError(
            f"subject.sites: {name!r}: {_why_lacking(site.kind, architecture)}; legal: {legal_sites(n_layers, kinds)}"
        )
    return site


def parse_sites(names: Sequence[str], n_layers: int, kinds: Sequence[SiteKind], architecture: str) -> list[Site]:
    """`parse_site` of each name; no name, or one given twice, is a `UserError` as well."""
    if not names:
        raise UserError(f"subject.sites: no site given; legal: {legal_sites(n_layers, kinds)}")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UserError(f"subject.sites: {name!r} is given twice")
    return [parse_site(name, n_layers, kinds, architecture) for name in names]


def legal_sites(n_layers: int, kinds: Sequence[SiteKind]) -> str:
    """The legal names in one phrase: `blocks.0..11.hook_resid_{pre,mid,post}, blocks.0..11.hook_{attn,mlp}_out`."""
    blocks = "blocks.0" if n_layers == 1 else f"blocks.0..{n_layers - 1}"
    residual = [kind.removeprefix("resid_") for kind in kinds if kind.startswith("resid_")]
    branches = [kind.removesuffix("_out") for kind in kinds if kind.endswith("_out")]
    names = [f"{blocks}.hook_resid_{{{','.join(residual)}}}"]
    if branches:
        names.append(f"{blocks}.hook_{{{','.join(branches)}}}_out")
    return ", ".join(names)


def _why_lacking(kind: SiteKind, architecture: str) -> str:
    if kind == "resid_mid":
        return (
            f"{architecture} has no {kind} (attention and MLP run in parallel, or the architecture isn't in our table)"
        )
    return f"{architecture} isn't in our table of architectures, so only its residual stream between layers can be read"
