"""Temporal feature analysis (TFA): what the context foretells, and what is new (Lubana et al. 2025, arXiv 2511.01836).

With r = x - b_dec, E the encoder (D^T when tied) and lam = 1 / (4 d_in), every attention layer predicts and subtracts:

    v_t = relu(lam r_t E),    z~_t = relu(attention of v_t over v_{<t}),    p_t = <z~_t D, r_t> / ||z~_t D||^2
    z_p,t += p_t z~_t,        r_t -= p_t z~_t D

Then z_n = act(lam r E), and x_hat = (z_p + z_n) D + b_dec. The predicted codes z_p are dense; those of z_n are few.

Attention sees earlier unmasked tokens of the same document, and one key of zeros, which is all there is at a document's
start. (In the published code it is the first token of the shifted context.) Queries and keys are narrow; the value and
output maps are d_sae x d_sae matrices, as published: they are most of the weights, and of the cost.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from chronosae.autoencoders.autoencoder import Autoencoder
from chronosae.autoencoders.codes import Codes, DenseCodes
from chronosae.autoencoders.dictionary import ParameterGroup
from chronosae.autoencoders.spec import Predictive
from chronosae.autoencoders.tokens import Layout, Past, Tokens, zero_masked

# Added to ||z~ D||, as published: a prediction of nothing takes nothing away.
EPS = 1e-6


@dataclass(frozen=True)
class PredictiveCodes(DenseCodes):
    """Predicted and novel codes together (`values`), which decode to the input; `novel` alone beside them.

    `.l0()` counts both: the predicted ones are dense. What other autoencoders call L0 is `novel_l0`.
    """

    novel: Codes

    def novel_l0(self) -> Int[Tensor, "*tokens"]:
        """Novel features active at each token."""
        return self.novel.l0()

    def chosen(self) -> Codes:
        return self.novel

    def predicted(self) -> Float[Tensor, "*tokens d_sae"]:
        """The codes that the context foretold."""
        return self.values - self.novel.dense()

    def detach(self) -> "PredictiveCodes":
        return replace(self, values=self.values.detach(), novel=self.novel.detach())


class PredictiveAutoencoder(Autoencoder):
    """Body `predictive`. Weights: `W_dec [d_sae, d_in]`, `b_dec`, attention layers, `W_enc_untied` unless tied.

    Names and formulas are those of SAELens' `temporal` architecture (see `saelens.export_temporal`).
    """

    def _make_weights(self, generator: torch.Generator | None) -> None:
        F, D = self.d_sae, self.d_in
        # N(0, 1) as published: with lam, a code times its row then gives a quarter of what it read. Unit rows give
        # 1 / (4 d_in) of it, and learn far more slowly.
        self.W_dec = nn.Parameter(torch.randn(F, D, generator=generator))
        self.W_enc_untied = None if self.body.tied else nn.Parameter(self.W_dec.detach().T.clone())
        self.b_dec = nn.Parameter(torch.zeros(D))
        self.attn_layers = nn.ModuleList([Attention(self.body, F, generator) for _ in range(self.body.n_attn_layers)])

    @property
    def body(self) -> Predictive:
        """The spec of this body."""
        assert isinstance(self.cfg.body, Predictive)
        return self.cfg.body

    @property
    def lam(self) -> float:
        """What the encoder is multiplied by: 1 / (4 d_in)."""
        return 1 / (4 * self.d_in)

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """E, before `lam`: the transposed decoder when tied."""
        return self.W_dec.T if self.W_enc_untied is None else self.W_enc_untied

    @property
    def b_enc(self) -> Float[Tensor, " d_sae"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Zeros: this encoder has no bias."""
        return torch.zeros_like(self.W_dec[:, 0])

    def parameter_groups(self) -> Iterator[ParameterGroup]:
        """The dictionary with its own learning rate, then the rest."""
        dictionary = [self.W_dec] if self.W_enc_untied is None else [self.W_dec, self.W_enc_untied]
        special = set(dictionary)
        yield ParameterGroup(dictionary, self.body.lr_multiplier or self.d_in**0.5, "run")
        for group in super().parameter_groups():
            yield group._replace(parameters=[p for p in group.parameters if p not in special])

    def memory_depths(self) -> dict[str, int | None]:
        """A stream keeps keys and values of all earlier tokens."""
        return {f"attention.{index}": None for index in range(self.body.n_attn_layers)}

    def folded(self) -> Autoencoder:
        """The same function without the `dataset` factor.

        Raises:
            ValueError: there is a normalisation; attention doesn't scale with its input.
        """
        if self.cfg.normalisation.kind != "none":
            raise ValueError(f"{self.cfg.normalisation.kind} normalisation can't be folded into a predictive body")
        return super().folded()

    def encode_tokens(
        self, tokens: Tokens, wanted: Int[Tensor, " m"] | None = None
    ) -> tuple[Float[Tensor, "*tokens d_sae"], Codes]:
        layout, mask, scale = tokens.places, tokens.mask, tokens.scale
        residual, W_enc = self._centred(tokens), self.W_enc * self.lam
        total: Tensor | None = None
        for index, layer in enumerate(self.attn_layers):
            assert isinstance(layer, Attention)
            v = torch.relu(residual @ W_enc)
            rows = layer.rows(v, layout.mask)
            guess = torch.relu(layer(v, rows, layout, tokens.recall(f"attention.{index}", rows)))
            guess, explained = self._project(guess, residual)
            residual = residual - explained
            total = guess if total is None else total + guess
        assert total is not None
        pre = residual @ W_enc
        novel = self.activation(pre, mask, scale, tokens.training)
        return pre, PredictiveCodes(zero_masked(total, mask) + novel.dense(), scale, novel)

    def _project(self, guess: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The guessed codes, scaled so that they explain as much of the residual as they can, and what they explain."""
        direction = guess @ self.W_dec
        share = (direction * residual).sum(-1, keepdim=True) / (direction.norm(dim=-1, keepdim=True) + EPS).pow(2)
        return guess * share, direction * share


class Attention(nn.Module):
    """Attention from every token to the tokens before it; keys and queries d_sae / bottleneck_factor wide."""

    def __init__(self, cfg: Predictive, d_sae: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.n_heads, self.width, self.d_sae = cfg.n_heads, d_sae // cfg.bottleneck_factor, d_sae
        narrow = (self.width // cfg.n_heads) ** -0.5
        self.k_ctx = _linear(d_sae, self.width, narrow, generator)
        self.q_target = _linear(d_sae, self.width, narrow, generator)
        self.v_ctx = _linear(d_sae, d_sae, (d_sae // cfg.n_heads) ** -0.5, generator)
        self.c_proj = _linear(d_sae, d_sae, d_sae**-0.5, generator)

    def rows(
        self, v: Float[Tensor, "batch pos d_sae"], mask: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos cached"]:
        """Key, value and mask of each token side by side: what later tokens need of it."""
        return torch.cat([self.k_ctx(v), self.v_ctx(v), mask.unsqueeze(-1).to(v.dtype)], -1)

    def forward(
        self,
        v: Float[Tensor, "batch pos d_sae"],
        rows: Float[Tensor, "batch pos cached"],
        layout: Layout,
        past: Past | None,
    ) -> Float[Tensor, "batch pos d_sae"]:
        """What attention says of each token, from the rows of all earlier ones."""
        n, docs = v.shape[1], layout.doc_ids
        if past is not None:
            rows = torch.cat([past.values.to(rows.dtype), rows], 1)
        nothing = torch.cat([self.k_ctx.bias, self.v_ctx.bias, self.v_ctx.bias.new_ones(1)]).to(rows.dtype)
        keys, values, alive = torch.cat([nothing.expand(len(v), 1, -1), rows], 1).split([self.width, self.d_sae, 1], 2)
        m = rows.shape[1]
        earlier = torch.arange(m, device=v.device) < torch.arange(m - n, m, device=v.device).unsqueeze(-1)
        seen = earlier & (alive[:, 1:, 0] > 0).unsqueeze(1)
        if docs is not None:
            key_docs = docs if past is None or past.doc_ids is None else torch.cat([past.doc_ids, docs], 1)
            seen = seen & (docs.unsqueeze(-1) == key_docs.unsqueeze(1))
        seen = functional.pad(seen, (1, 0), value=True)
        out = functional.scaled_dot_product_attention(
            self._heads(self.q_target(v)), self._heads(keys), self._heads(values), attn_mask=seen.unsqueeze(1)
        )
        return self.c_proj(out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


def _linear(d_from: int, d_to: int, row_norm: float, generator: torch.Generator | None) -> nn.Linear:
    """Rows of one norm, small biases: the published initialisation."""
    # Without storage, for torch's own initialisation would draw from the global generator.
    layer = nn.Linear(d_from, d_to, device="meta")
    weight = torch.randn(d_to, d_from, generator=generator)
    bias = (torch.rand(d_to, generator=generator) * 2 - 1) * d_from**-0.5
    layer.weight = nn.Parameter(weight * (row_norm / (1e-6 + weight.norm(dim=1, keepdim=True))))
    layer.bias = nn.Parameter(bias)
    return layer
