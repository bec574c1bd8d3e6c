"""The autoencoder: one class, composed of the parts its `Spec` names.

    x -> [normalise] -> minus b_dec -> linear encoder -> activation function -> linear decoder -> plus b_dec -> x_hat

Shapes: `batch pos` as in `SequenceBatch`; an autoencoder whose receptive field is one token also takes `[n, d_in]`.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chronosae.autoencoders.activation import activate
from chronosae.autoencoders.codes import Codes
from chronosae.autoencoders.spec import Normalisation, Spec


class Pass(NamedTuple):
    """One forward pass in the autoencoder's own (normalised) units: what objective terms are computed from."""

    target: Float[Tensor, "*tokens d_in"]
    pre: Float[Tensor, "*tokens d_sae"]
    codes: Codes
    recon: Float[Tensor, "*tokens d_in"]
    mask: Bool[Tensor, "*tokens"]


class Autoencoder(nn.Module):
    """A sparse autoencoder over activations at one site.

    Arguments:
        cfg: its parts and sizes.
        generator: source of the initial weights; the same generator state gives every autoencoder of one size the
            same dictionary, so that presets can be compared pair by pair.
    """

    causal = True
    """No code depends on a later token."""
    receptive_field = 1
    """Tokens that a code can depend on, its own included."""

    def __init__(self, cfg: Spec, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        W_dec = torch.randn(cfg.d_sae, cfg.d_in, generator=generator)
        W_dec = W_dec / W_dec.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(W_dec)
        self.W_enc = nn.Parameter(W_dec.T.clone())
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_in))

    @property
    def d_in(self) -> int:
        """Width at the site."""
        return self.cfg.d_in

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.cfg.d_sae

    def encode(
        self,
        acts: Float[Tensor, "*tokens d_in"],
        mask: Bool[Tensor, "*tokens"] | None = None,
        *,
        positions: Int[Tensor, "*tokens"] | None = None,
        doc_ids: Int[Tensor, "*tokens"] | None = None,
    ) -> Codes:
        """Codes of raw activations.

        Masked tokens (mask False) get zero codes and touch no neighbour. `positions` (default `cumsum(mask) - 1`) and
        `doc_ids` matter to parts that look at other tokens.

        Raises:
            ValueError: the last axis isn't d_in.
        """
        target, scale = self.normalise(acts)
        return activate(self.cfg.activation, self._pre(target, mask), mask, scale)

    def decode(self, codes: Codes) -> Float[Tensor, "*tokens d_in"]:
        """Raw activations from codes."""
        return self.denormalise(self.reconstruct(codes), codes.scale)

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

    def training_pass(self, acts: Float[Tensor, "*tokens d_in"], mask: Bool[Tensor, "*tokens"]) -> Pass:
        """A forward pass that keeps what objective terms need."""
        target, scale = self.normalise(acts)
        # Whatever a masked token holds, an overflow included, must not reach a loss.
        target = torch.where(mask.unsqueeze(-1), target, 0)
        pre = self._pre(target, mask)
        codes = activate(self.cfg.activation, pre, mask, scale)
        return Pass(target, pre, codes, self.reconstruct(codes), mask)

    def reconstruct(self, codes: Codes) -> Float[Tensor, "*tokens d_in"]:
        """Reconstruction in normalised units: `codes @ W_dec + b_dec`."""
        return codes.combine(self.W_dec) + self.b_dec

    def normalise(
        self, acts: Float[Tensor, "*tokens d_in"]
    ) -> tuple[Float[Tensor, "*tokens d_in"], Float[Tensor, "*tokens"] | None]:
        """Raw activations in the autoencoder's units, and each token's own scale where there is one."""
        if acts.shape[-1] != self.d_in:
            raise ValueError(f"activations have width {acts.shape[-1]}, this autoencoder takes d_in = {self.d_in}")
        acts = acts.to(self.W_enc.dtype)
        norm = self.cfg.normalisation
        if norm.kind == "dataset":
            return acts * norm.factor, None
        if norm.kind == "token":
            # A zero vector has no direction; the floor keeps it zero instead of NaN.
            scale = self.d_in**0.5 / acts.norm(dim=-1).clamp_min(torch.finfo(acts.dtype).tiny ** 0.5)
            return acts * scale.unsqueeze(-1), scale
        return acts, None

    def denormalise(
        self, recon: Float[Tensor, "*tokens d_in"], scale: Float[Tensor, "*tokens"] | None
    ) -> Float[Tensor, "*tokens d_in"]:
        """Inverse of `normalise`."""
        if scale is not None:
            return recon / scale.unsqueeze(-1)
        return recon / self.cfg.normalisation.factor

    @torch.no_grad()
    def folded(self) -> "Autoencoder":
        """The same function without the `dataset` factor, for formats that have no place for one.

        With x' = factor x, only the biases and the scale of the codes change: b_enc, b_dec and with them the codes are
        divided by the factor, and the decoder rows keep their norm.

        Raises:
            ValueError: `token` normalisation, which no fixed weights can express.
        """
        norm = self.cfg.normalisation
        if norm.kind == "token":
            raise ValueError("token normalisation depends on each vector and can't be folded into weights")
        with torch.device("meta"):
            plain = Autoencoder(self.cfg.model_copy(update={"normalisation": Normalisation()}))
        plain.load_state_dict({name: weight.clone() for name, weight in self.state_dict().items()}, assign=True)
        plain.b_enc.div_(norm.factor)
        plain.b_dec.div_(norm.factor)
        return plain

    @torch.no_grad()
    def initialise_bias(self, mean: Float[Tensor, " d_in"]) -> None:
        """Start b_dec at `mean`, the mean of the normalised training activations."""
        self.b_dec.copy_(mean)

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Remove from W_dec's gradient what would change the norms of its rows."""
        grad = self.W_dec.grad
        if grad is not None and self.cfg.decoder == "unit_norm":
            grad.addcmul_((grad * self.W_dec).sum(1, keepdim=True), self.W_dec, value=-1)

    @torch.no_grad()
    def constrain_decoder(self) -> None:
        """Bring the rows of W_dec back to norm 1 after a step."""
        if self.cfg.decoder == "unit_norm":
            self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))

    def save(self, folder: Path | str) -> None:
        """Write `cfg.json` and `sae_weights.safetensors` into `folder` (see `chronosae.load`)."""
        from chronosae.autoencoders.storage import save

        save(self, Path(folder))

    def _pre(
        self, target: Float[Tensor, "*tokens d_in"], mask: Bool[Tensor, "*tokens"] | None
    ) -> Float[Tensor, "*tokens d_sae"]:
        centred = target - self.b_dec
        if mask is not None:
            centred = torch.where(mask.unsqueeze(-1), centred, 0)
        return centred @ self.W_enc + self.b_enc
