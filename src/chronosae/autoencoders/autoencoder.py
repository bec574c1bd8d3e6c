"""The autoencoder: one class, composed of the parts its `Spec` names.

    x -> [normalise] -> minus b_dec -> [norm] -> [context mixer] -> linear encoder -> [feature kernel] -> plus b_enc
      -> [position mask] -> activation function -> linear decoder -> plus b_dec -> x_hat

Shapes: `batch pos` as in `SequenceBatch`; an autoencoder that looks at one token alone also takes `[n, d_in]`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chronosae.autoencoders.codes import Codes, SparseCodes
from chronosae.autoencoders.dictionary import Dictionary, features_first
from chronosae.autoencoders.parts.pre_activations import PreActivations
from chronosae.autoencoders.spec import Normalisation, Spec
from chronosae.autoencoders.storage import save
from chronosae.autoencoders.streaming import Stream
from chronosae.autoencoders.tokens import Draws, Layout, Tokens, default_positions, number_documents, zero_masked
from chronosae.kernels import centred, decode_with_energy, mixed_products


class Pass(NamedTuple):
    """One forward pass of training in the autoencoder's own (normalised) units: what terms are computed from."""

    target: Float[Tensor, "*tokens d_in"]
    source: Float[Tensor, "*tokens d_sae"] | PreActivations
    """What `pre` comes from."""
    codes: Codes
    recon: Float[Tensor, "*tokens d_in"]
    mask: Bool[Tensor, "*tokens"]
    layout: Layout | None
    """None for flat input."""
    gram_energy: Float[Tensor, ""] | None = None
    """`||D^^T D^||_F^2` of the decoder's rows at norm 1, where decoding made it on the way."""

    @property
    def pre(self) -> Float[Tensor, "*tokens d_sae"]:
        """What the activation function was given, so after a position mask.

        Where TopK chose without computing them all, they are computed now: a product as large as the encoder's.
        """
        return self.source.dense if isinstance(self.source, PreActivations) else self.source

    def pre_of(self, features: Int[Tensor, " m"]) -> Float[Tensor, "*tokens m"]:
        """The pre-activations of some features alone."""
        return self.source.of(features) if isinstance(self.source, PreActivations) else self.source[..., features]


class Autoencoder(Dictionary):
    """A sparse autoencoder over activations at one site.

    Args:
        cfg: its parts and sizes.
        generator: source of the initial weights; the same generator state gives every autoencoder of one size the
            same dictionary, so that presets can be compared pair by pair.
    """

    def __init__(self, cfg: Spec, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        self._make_weights(generator)
        # Parts draw from torch's global generator; fork it, so that building one changes nothing elsewhere.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0 if generator is None else generator.initial_seed())
            self.norm = cfg.norm.make(cfg.d_in, cfg.d_sae) if cfg.norm else None
            self.mixer = cfg.mixer.make(cfg.d_in, cfg.d_sae) if cfg.mixer else None
            self.kernel = cfg.kernel.make(cfg.d_in, cfg.d_sae) if cfg.kernel else None
            self.position_mask = cfg.position_mask.make(cfg.d_in, cfg.d_sae) if cfg.position_mask else None
            self.activation = cfg.activation.make(cfg.d_in, cfg.d_sae)
            heads = {term.kind: term.make_head(cfg.d_in, cfg.d_sae) for term in cfg.terms}
            self.heads = nn.ModuleDict({kind: head for kind, head in heads.items() if head is not None})
        self.register_load_state_dict_post_hook(features_first)

    @property
    def causal(self) -> bool:
        """No code depends on a later token."""
        return self.cfg.causal

    @property
    def receptive_field(self) -> int | None:
        """Tokens that a code can depend on, its own included; None: all earlier ones."""
        return self.cfg.receptive_field

    def encode(
        self,
        acts: Float[Tensor, "*tokens d_in"],
        mask: Bool[Tensor, "*tokens"] | None = None,
        *,
        positions: Int[Tensor, "*tokens"] | None = None,
        doc_ids: Int[Tensor, "*tokens"] | None = None,
    ) -> Codes:
        """Codes of raw activations, the same whether or not the module is in training mode.

        Masked tokens (mask False) get zero codes and touch no neighbour. `positions` (default `cumsum(mask) - 1`)
        matter to position masks, `doc_ids` to every part that looks at other tokens: none looks across documents.

        Raises:
            ValueError: the last axis isn't d_in; flat input to an autoencoder that needs sequences; a position that
                the position mask doesn't know.
        """
        layout = self._layout(acts, mask, positions, doc_ids)
        return self.encode_tokens(Tokens(*self.normalise(acts), mask, layout))[1]

    def forward(
        self,
        acts: Float[Tensor, "*tokens d_in"],
        mask: Bool[Tensor, "*tokens"] | None = None,
        *,
        positions: Int[Tensor, "*tokens"] | None = None,
        doc_ids: Int[Tensor, "*tokens"] | None = None,
    ) -> Float[Tensor, "*tokens d_in"]:
        """`decode(encode(acts))`."""
        return self.decode(self.encode(acts, mask, positions=positions, doc_ids=doc_ids))

    def stream(self, batch_size: int = 1, *, rewind: int = 0) -> Stream:
        """A state that encodes sequences as they grow: codes in any chunks equal those of the whole.

        Args:
            batch_size: sequences side by side.
            rewind: how many tokens `crop` may take back.

        Raises:
            ValueError: the autoencoder isn't causal.
        """
        return Stream(self, batch_size, rewind)

    def training_pass(
        self,
        acts: Float[Tensor, "*tokens d_in"],
        mask: Bool[Tensor, "*tokens"],
        *,
        positions: Int[Tensor, "*tokens"] | None = None,
        doc_ids: Int[Tensor, "*tokens"] | None = None,
        draws: Draws | None = None,
        wanted: Int[Tensor, " m"] | None = None,
    ) -> Pass:
        """A forward pass as training sees it (corruption, dropout, batch statistics), with all that terms need.

        `wanted` are features whose pre-activations a term will ask for: together they are cheaper than one by one.
        """
        layout, draws = self._layout(acts, mask, positions, doc_ids), draws or Draws(0, 0)
        target, scale = self.normalise(acts)
        # Whatever a masked token holds, an overflow included, must not reach a loss.
        tokens = Tokens(zero_masked(target, mask), scale, mask, layout, draws)
        source, codes = self.encode_tokens(tokens, wanted)
        recon, energy = self._recon_and_energy(self._drop_features(codes, draws), layout)
        return Pass(tokens.target, source, codes, recon, mask, layout, energy)

    def encode_tokens(
        self, tokens: Tokens, wanted: Int[Tensor, " m"] | None = None
    ) -> tuple[Float[Tensor, "*tokens d_sae"] | PreActivations, Codes]:
        """Pre-activations and codes: what `encode`, `training_pass` and streams share, and a body of its own replaces.

        Where the activation function can do without pre-activations, none are computed before they are asked for.
        """
        damaged = tokens.training and self.cfg.corruption is not None
        made = self._inputs(tokens) if damaged or self.norm is not None or self.mixer is not None else None
        weights = self.W_enc, self.b_enc, self.b_dec
        pre = PreActivations(tokens, *weights, self.kernel, self.position_mask, made, wanted)
        codes = self.activation.encode(pre) if pre.sparse else None
        if codes is not None:
            return pre, codes
        return pre.dense, self.activation(pre.dense, tokens.mask, tokens.scale, tokens.training)

    @torch.no_grad()
    def folded(self) -> "Autoencoder":
        """The same function without the `dataset` factor, for formats that have no place for one.

        With x' = factor x, only the biases, the thresholds and the scale of the codes change: all are divided by the
        factor, and the decoder rows keep their norm.

        Raises:
            ValueError: `token` normalisation or a norm, which no fixed weights can express.
        """
        norm = self.cfg.normalisation
        if norm.kind == "token" or self.norm is not None:
            what = "token normalisation" if norm.kind == "token" else f"the {self.cfg.norm.kind} norm"  # type: ignore[union-attr]
            raise ValueError(f"{what} depends on each vector and can't be folded into weights")
        with torch.device("meta"):
            plain = type(self)(self.cfg.model_copy(update={"normalisation": Normalisation()}))
        plain.load_state_dict({name: weight.clone() for name, weight in self.state_dict().items()}, assign=True)
        plain.b_enc.div_(norm.factor)
        plain.b_dec.div_(norm.factor)
        plain.activation.rescale(norm.factor)
        return plain

    def memory_depths(self) -> dict[str, int | None]:
        """How many earlier rows each part looks back at; None is all."""
        looking = {"mixer": self.cfg.mixer, "kernel": self.cfg.kernel}
        return {name: part.history for name, part in looking.items() if part is not None}

    def save(self, folder: Path | str, metadata: dict[str, Any] | None = None) -> None:
        """Write `cfg.json` and `sae_weights.safetensors` into `folder` (see `chronosae.load`)."""
        save(self, Path(folder), metadata)

    def _layout(
        self, acts: Tensor, mask: Tensor | None, positions: Tensor | None, doc_ids: Tensor | None
    ) -> Layout | None:
        if acts.dim() != 3:
            if self.receptive_field != 1:
                field = "all earlier tokens" if self.receptive_field is None else f"{self.receptive_field} tokens"
                raise ValueError(
                    f"a {self.cfg.preset} autoencoder reads {field} at once, so it needs activations"
                    f" [batch, pos, d_in]; got {[*acts.shape]}, where neighbours are unknown"
                )
            if self.position_mask is not None:
                raise ValueError(
                    f"a {self.cfg.preset} autoencoder depends on positions, so it needs activations"
                    f" [batch, pos, d_in]; got {[*acts.shape]}"
                )
            return None
        if mask is None:
            mask = torch.ones(acts.shape[:-1], dtype=torch.bool, device=acts.device)
        # What a masked token is said to stand at must not matter, a place beyond the position mask included.
        positions = default_positions(mask) if positions is None else positions.masked_fill(~mask, 0)
        return Layout(mask, positions, None if doc_ids is None else number_documents(doc_ids))

    def _inputs(self, tokens: Tokens) -> Float[Tensor, "*tokens d_in"]:
        """What the linear encoder reads."""
        h = self._centred(tokens)
        if self.norm is not None:
            h = zero_masked(self.norm(h, tokens.mask, tokens.training), tokens.mask)
        if self.mixer is not None:
            with mixed_products(tokens.training):
                h = zero_masked(self._mix(h, tokens), tokens.mask)
        return h

    def _mix(self, h: Tensor, tokens: Tokens) -> Tensor:
        assert self.mixer is not None
        if tokens.layout is None:  # a mixer that sees one token only, each a sequence of its own
            return self.mixer(h.reshape(-1, 1, self.d_in), None, None).view_as(h)
        return self.mixer(h, tokens.layout, tokens.recall("mixer", h))

    def _centred(self, tokens: Tokens) -> Float[Tensor, "*tokens d_in"]:
        """The vectors minus b_dec, damaged where training wants it."""
        target, mask = tokens.target, tokens.mask
        if target.requires_grad:
            h = zero_masked(target - self.b_dec, mask)
        else:
            h = centred(target.reshape(-1, self.d_in), self.b_dec, tokens.active).view(target.shape)
        if tokens.draws is None or self.cfg.corruption is None:
            return h
        return zero_masked(self.cfg.corruption.apply(h, tokens.draws), mask)

    def _drop_features(self, codes: Codes, draws: Draws) -> Codes:
        rate = self.cfg.feature_dropout
        if not rate:
            return codes
        slots = codes.values.shape[-1]
        features = codes.indices if isinstance(codes, SparseCodes) else torch.arange(slots, device=codes.values.device)
        places = torch.arange(codes.values.shape[-2], device=features.device).unsqueeze(-1)
        counters = (places * self.d_sae + features).expand(codes.values.shape)
        return replace(codes, values=codes.values * ~draws.chance("features", rate, counters) / (1 - rate))

    def _recon_and_energy(self, codes: Codes, layout: Layout | None) -> tuple[Tensor, Tensor | None]:
        """What training reconstructs and, where a term asks for it and one gradient for both is faster, gram energy."""
        masked = self.position_mask is not None and self.position_mask.cfg.masked_gradients
        asked = any(term.uses_gram_energy for term in self.cfg.terms)
        if asked and not masked and isinstance(codes, SparseCodes):
            both = decode_with_energy(codes.indices, codes.values, self.W_dec, self.b_dec)
            if both is not None:
                return both
        return self.training_recon(codes, layout), None

    def training_recon(self, codes: Codes, layout: Layout | None) -> Tensor:
        """What training reconstructs; with masked gradients, no decoder row learns where its feature is closed."""
        position_mask = self.position_mask
        if position_mask is None or not position_mask.cfg.masked_gradients:
            return self.reconstruct(codes)
        assert layout is not None
        indices = codes.indices if isinstance(codes, SparseCodes) else None
        closed = position_mask.closed(indices, layout.positions)
        open_part = replace(codes, values=torch.where(closed, 0, codes.values))
        closed_part = replace(codes, values=torch.where(closed, codes.values, 0))
        return self.reconstruct(open_part) + closed_part.combine(self.W_dec.detach())
