"""The linear half of an autoencoder: its weights and units, and what holds for every composition of parts."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chronosae.autoencoders.codes import Codes
from chronosae.autoencoders.spec import Spec


class ParameterGroup(NamedTuple):
    """Parameters that share a learning rate."""

    parameters: list[nn.Parameter]
    lr_multiplier: float
    lr_schedule: str


class Dictionary(nn.Module):
    """Weights `W_enc`, `W_dec` and both biases, the normalisation around them, and how they are trained."""

    cfg: Spec

    def _make_weights(self, generator: torch.Generator | None) -> None:
        W_dec = torch.randn(self.cfg.d_sae, self.cfg.d_in, generator=generator)
        W_dec = W_dec / W_dec.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(W_dec)
        # A feature's weights side by side in memory, as the sparse step reads them.
        self.W_enc = nn.Parameter(W_dec.clone().T)
        self.b_enc = nn.Parameter(torch.zeros(self.cfg.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(self.cfg.d_in))

    @property
    def d_in(self) -> int:
        """Width at the site."""
        return self.cfg.d_in

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.cfg.d_sae

    def decode(self, codes: Codes) -> Float[Tensor, "*tokens d_in"]:
        """Raw activations from codes."""
        return self.denormalise(self.reconstruct(codes), codes.scale)

    def reconstruct(self, codes: Codes) -> Float[Tensor, "*tokens d_in"]:
        """Reconstruction in normalised units: `codes @ W_dec + b_dec`."""
        return codes.combine(self.W_dec, self.b_dec)

    def normalise(
        self, acts: Float[Tensor, "*tokens d_in"]
    ) -> tuple[Float[Tensor, "*tokens d_in"], Float[Tensor, "*tokens"] | None]:
        """Raw activations in the autoencoder's units, and each token's own scale where there is one."""
        if acts.shape[-1] != self.d_in:
            raise ValueError(f"activations have width {acts.shape[-1]}, this autoencoder takes d_in = {self.d_in}")
        acts = acts.to(self.b_dec.dtype)
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

    @property
    def sphere(self) -> Float[Tensor, "d_sae d_in"] | None:
        """The decoder, if it is rows of norm 1 that one pass over it can keep there (as `constrain_decoder` does)."""
        return self.W_dec if self.cfg.decoder == "unit_norm" and self.W_dec.is_contiguous() else None

    def parameter_groups(self) -> Iterator[ParameterGroup]:
        """All parameters, grouped by the learning rate that their part asks for."""
        special: set[nn.Parameter] = set()
        for module in self.modules():
            multiplier = getattr(module, "lr_multiplier", 1.0)
            schedule = getattr(module, "lr_schedule", "run")
            if (multiplier, schedule) != (1.0, "run"):
                parameters = list(module.parameters())
                special.update(parameters)
                yield ParameterGroup(parameters, multiplier, schedule)
        yield ParameterGroup([p for p in self.parameters() if p not in special], 1.0, "run")


def features_first(sae: nn.Module, _: object) -> None:
    """Weights that were read or copied keep a feature side by side in memory, as they started."""
    W_enc = sae._parameters.get("W_enc")
    if W_enc is not None and not W_enc.T.is_contiguous():
        W_enc.data = W_enc.data.T.contiguous().T
