"""Autoencoders over windows: the temporal crosscoder (TXC) and its control, a stack of independent ones.

    z_t = act( sum_{s=0}^{T-1} (x_{t-s} - b_dec) W_enc^(s) + b_enc ),    x_hat_{t-s} = z_t W_dec^(s) + b_dec

z_t belongs to the window that *ends* at t, so that it is causal and streams. Tokens that are masked, in another
document or before the sequence's start count as b_dec, that is as nothing.

The published bias is one a slice; here one serves all, because every token passes through every slice of some window,
so that all slices have the same mean.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chronosae.autoencoders.autoencoder import Autoencoder
from chronosae.autoencoders.codes import Codes, DenseCodes, SparseCodes
from chronosae.autoencoders.parts.activations import Activation, ChoosesK
from chronosae.autoencoders.spec import Spec, WindowedBody
from chronosae.autoencoders.tokens import Tokens, shifted


class Crosscoder(Autoencoder):
    """Body `crosscoder`; slice s of a window is x_{t-s}.

    Weights: `W_enc_window [T, d_in, n]` and `W_dec_window [T, n, d_in]`. With shared features n = d_sae, and an atom
    (one feature's T decoder vectors together) has norm 1. Stacked, n = d_sae / T: feature s n + i is feature i of block
    s, which reads and writes slice s alone, and each decoder vector has norm 1.
    """

    def __init__(self, cfg: Spec, generator: torch.Generator | None = None) -> None:
        super().__init__(cfg, generator)
        if not self.shared:
            self.activation = _Blocks(cfg, self.window)

    def _make_weights(self, generator: torch.Generator | None) -> None:
        T, F, D = self.window, self.d_sae, self.d_in
        # Slice by slice, so that slice 0 points where the other presets' dictionaries of this seed do.
        draws = [torch.randn(F, D, generator=generator) for _ in range(T if self.shared else 1)]
        W_dec = torch.stack(draws) if self.shared else draws[0].reshape(T, F // T, D)
        W_dec = W_dec / self._atom_norms(W_dec)
        self.W_dec_window = nn.Parameter(W_dec)
        self.W_enc_window = nn.Parameter(W_dec.transpose(1, 2).clone())
        self.b_enc = nn.Parameter(torch.zeros(F))
        self.b_dec = nn.Parameter(torch.zeros(D))

    @property
    def body(self) -> WindowedBody:
        """The spec of this body."""
        assert isinstance(self.cfg.body, WindowedBody)
        return self.cfg.body

    @property
    def window(self) -> int:
        """T, tokens in a window."""
        return self.body.window

    @property
    def shared(self) -> bool:
        """Features span the window; otherwise each belongs to one slice."""
        return self.body.shared

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What each feature adds to x_t itself: slice 0; zero rows for features of other blocks."""
        first = self.W_dec_window[0]
        return first if self.shared else nn.functional.pad(first, (0, 0, 0, self.d_sae - first.shape[0]))

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How each feature reads x_t itself: slice 0; zero columns for features of other blocks."""
        first = self.W_enc_window[0]
        return first if self.shared else nn.functional.pad(first, (0, self.d_sae - first.shape[1]))

    def decode_window(self, codes: Codes) -> Float[Tensor, "batch pos window d_in"]:
        """Raw activations of the whole window that ends at each token; [:, t, s] is x_{t-s}.

        Where a window reaches before its document or sequence, the slice belongs to no token and means nothing.
        """
        slices = [x + self.b_dec for x in self.combine_slices(codes)]
        return torch.stack([self.denormalise(x, _earlier(codes.scale, s)) for s, x in enumerate(slices)], 2)

    def reconstruct(self, codes: Codes) -> Float[Tensor, "*tokens d_in"]:
        """Slice 0 in normalised units."""
        return self._slice_codes(codes, 0).combine(self.W_dec_window[0]) + self.b_dec

    def combine_slices(self, codes: Codes, first: int = 0) -> list[Float[Tensor, "*tokens d_in"]]:
        """What codes write into slices `first` to T - 1, in normalised units and without b_dec."""
        decoders = self.W_dec_window.unbind(0)
        return [self._slice_codes(codes, s).combine(decoders[s]) for s in range(first, self.window)]

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Remove from the decoder's gradient what would change the norms of its atoms."""
        grad, W_dec = self.W_dec_window.grad, self.W_dec_window
        if grad is not None and self.cfg.decoder == "unit_norm":
            grad.addcmul_((grad * W_dec).sum(self._atom_dims, keepdim=True), W_dec, value=-1)

    @torch.no_grad()
    def constrain_decoder(self) -> None:
        """Bring the atoms back to norm 1 after a step."""
        if self.cfg.decoder == "unit_norm":
            self.W_dec_window.div_(self._atom_norms(self.W_dec_window).clamp_min(1e-12))

    @property
    def sphere(self) -> None:
        """None: an atom spans slices."""
        return None

    def memory_depths(self) -> dict[str, int | None]:
        """A stream keeps the last T - 1 centred inputs."""
        return {"window": self.window - 1}

    @property
    def _atom_dims(self) -> tuple[int, ...]:
        return (0, 2) if self.shared else (2,)

    def _atom_norms(self, W_dec: Tensor) -> Tensor:
        return W_dec.pow(2).sum(self._atom_dims, keepdim=True).sqrt()

    def _slice_codes(self, codes: Codes, s: int) -> Codes:
        """The codes that write slice s, numbered as its decoder's rows."""
        if self.shared:
            return codes
        n = self.d_sae // self.window
        if not isinstance(codes, SparseCodes):
            return DenseCodes(codes.values[..., s * n : (s + 1) * n], None)
        local = codes.indices - s * n
        ours = (local >= 0) & (local < n)
        return SparseCodes(torch.where(ours, codes.values, 0), None, torch.where(ours, local, 0), n)

    def encode_tokens(
        self, tokens: Tokens, wanted: Int[Tensor, " m"] | None = None
    ) -> tuple[Float[Tensor, "*tokens d_sae"], Codes]:
        h, mask = self._centred(tokens), tokens.mask
        if isinstance(self.activation, _Blocks):
            # One more column, the mask: a block is silent where its token is not there.
            h = torch.cat([h, (torch.ones_like(h[..., :1]) if mask is None else mask.unsqueeze(-1).to(h.dtype))], -1)
        past = tokens.recall("window", h)
        slices = [shifted(h, s, tokens.places, past) for s in range(self.window)]
        if not isinstance(self.activation, _Blocks):
            # One product over the whole window instead of T products and their sum.
            pre = torch.cat(slices, -1) @ self.W_enc_window.flatten(0, 1) + self.b_enc
            return pre, self.activation(pre, mask, tokens.scale, tokens.training)
        products = [x[..., :-1] @ W for x, W in zip(slices, self.W_enc_window.unbind(0), strict=True)]
        pre = torch.cat(products, -1) + self.b_enc
        present = [x[..., -1] > 0 if mask is None else (x[..., -1] > 0) & mask for x in slices]
        return pre, self.activation.by_block(pre, present, tokens.scale, tokens.training)


class _Blocks(Activation):
    """One activation function a block, each with its share of k, on its share of the features."""

    def __init__(self, cfg: Spec, n: int) -> None:
        super().__init__()
        part = cfg.activation
        if isinstance(part, ChoosesK):
            part = part.model_copy(update={"k": part.k // n})
        self.blocks = nn.ModuleList([part.make(cfg.d_in, cfg.d_sae // n) for _ in range(n)])

    def forward(self, pre: Tensor, mask: Tensor | None, scale: Tensor | None, training: bool) -> Codes:
        return self.by_block(pre, [mask] * len(self.blocks), scale, training)

    def by_block(self, pre: Tensor, masks: Sequence[Tensor | None], scale: Tensor | None, training: bool) -> Codes:
        """Codes of all blocks, each with a mask of its own."""
        shares = pre.chunk(len(self.blocks), -1)
        triples = zip(self.blocks, shares, masks, strict=True)
        return _side_by_side([block(x, mask, scale, training) for block, x, mask in triples], shares[0].shape[-1])

    def rescale(self, factor: float) -> None:
        for block in self.blocks:
            assert isinstance(block, Activation)
            block.rescale(factor)


def _side_by_side(codes: list[Codes], n: int) -> Codes:
    """The codes of blocks of n features as those of one dictionary."""
    scale, sparse = codes[0].scale, [c for c in codes if isinstance(c, SparseCodes)]
    if len(sparse) < len(codes):
        return DenseCodes(torch.cat([c.dense() for c in codes], -1), scale)
    values = torch.cat([c.values for c in sparse], -1)
    indices = torch.cat([c.indices + s * n for s, c in enumerate(sparse)], -1)
    indices, order = torch.where(values != 0, indices, 0).sort(dim=-1)
    return replace(sparse[0], values=values.gather(-1, order), indices=indices, n_features=n * len(codes))


def _earlier(scale: Tensor | None, s: int) -> Tensor | None:
    """The scale of the token s places back; 1 where there is none."""
    if scale is None or s == 0:
        return scale
    n = scale.shape[1]
    return torch.cat([torch.ones_like(scale[:, :s]), scale[:, : max(n - s, 0)]], 1)
