"""What moves the weights once their gradients are there: projection, clipping, AdamW, the decoder's norm; and rates."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import AdamW

from chronosae.autoencoders import Autoencoder
from chronosae.config import TrainingConfig
from chronosae.kernels import Moments, Rates, adamw_, as_rows, fused_kernels, gradient_energy


class Update:
    """The last third of a training step.

    Heads (weights that only a term needs) are clipped apart: what a predictor beside the codes learns must not slow the
    codes down. On the CPU all is done in two passes over memory, which torch's own operations would go through a dozen
    times; `optimizer` keeps its state either way, so that a run may be resumed on another machine.
    """

    def __init__(self, sae: Autoencoder, optimizer: AdamW, cfg: TrainingConfig) -> None:
        self.sae, self.optimizer, self.cfg = sae, optimizer, cfg
        # torch's own step takes moments in the precision of the weights alone.
        self._low = cfg.optimizer_state == "bfloat16"
        heads = set(sae.heads.parameters())
        self.heads = list(heads)
        self.rest = [p for p in sae.parameters() if p not in heads]
        self._along: dict[Tensor, Tensor] = {}
        self._scales: dict[Tensor, Tensor] = {}

    def measure(self) -> Tensor:
        """The global norm of the gradient before clipping, heads apart; it may be NaN or Inf."""
        parameters = [p for p in (*self.rest, *self.heads) if p.grad is not None]
        self._fused = (fused_kernels(*parameters) or self._low) and all(_by_rows(p) for p in parameters)
        if self._low and not self._fused:
            raise ValueError("optimizer_state bfloat16 needs weights that lie in memory row by row; use float32")
        if not self._fused:
            self.sae.project_decoder_gradient()
            return self._clip()
        if self.sae.sphere is None:
            self.sae.project_decoder_gradient()
        energies: dict[Tensor, Tensor] = {p: self._energy(p) for p in parameters}
        self._scales = dict.fromkeys(parameters, torch.ones((), device=self.sae.W_dec.device))
        norm = _norm(energies, self.rest)
        if self.cfg.clip == "norm":
            self._scale(self.rest, norm)
            self._scale(self.heads, _norm(energies, self.heads))
        elif self.cfg.clip == "parameter":
            for p in parameters:
                self._scale([p], energies[p].sqrt())
        return norm.float()

    def apply(self) -> None:
        """Move the weights, after `measure`."""
        if not self._fused:
            self.optimizer.step()
            self.sae.constrain_decoder()
            return
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, group)
        if self.sae.sphere is None:
            self.sae.constrain_decoder()

    def restore(self, state: dict[str, Any]) -> None:
        """The optimiser's state as `optimizer.state_dict()` told it; torch alone would widen moments to float32."""
        self.optimizer.load_state_dict(state)
        if self._low:
            for kept in self.optimizer.state.values():
                kept.update({name: kept[name].bfloat16() for name in ("exp_avg", "exp_avg_sq") if name in kept})

    def _energy(self, p: Tensor) -> Tensor:
        assert p.grad is not None
        grad, weights = as_rows(p.grad), as_rows(p.detach())
        assert grad is not None and weights is not None
        energy, self._along[p] = gradient_energy(grad, weights, p is self.sae.sphere)
        # Not a number: nothing waits for a GPU here.
        return energy.sum(dtype=torch.float64)

    def _scale(self, parameters: Iterable[Tensor], norm: Tensor) -> None:
        # As clip_grad_norm_ has it.
        factor = (self.cfg.clip_norm / (norm + 1e-6)).clamp_max(1.0)
        self._scales.update((p, factor) for p in parameters if p in self._scales)

    def _step(self, p: Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None
        state = self.optimizer.state[p]
        if not state:
            # What torch's own fused step would start with.
            state["step"] = torch.zeros(())
            kept = torch.bfloat16 if self._low else p.dtype
            state["exp_avg"] = torch.zeros_like(p, dtype=kept, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(p, dtype=kept, memory_format=torch.preserve_format)
        state["step"] += 1
        tensors = [as_rows(t.detach()) for t in (p, p.grad, state["exp_avg"], state["exp_avg_sq"])]
        weights, grad, mean, square = (t for t in tensors if t is not None)
        beta1, beta2 = group["betas"]
        rates = Rates(group["lr"], beta1, beta2, group["eps"], group["weight_decay"], int(state["step"]))
        adamw_(
            weights,
            grad,
            Moments(mean, square),
            self._along.pop(p),
            rates,
            scale=self._scales[p],
            on_sphere=p is self.sae.sphere,
        )

    def _clip(self) -> Tensor:
        if self.cfg.clip == "norm":
            clip_grad_norm_(self.heads, self.cfg.clip_norm)
            return clip_grad_norm_(self.rest, self.cfg.clip_norm)
        norm = get_total_norm([p.grad for p in self.rest if p.grad is not None])
        if self.cfg.clip == "parameter":
            for parameter in self.sae.parameters():
                clip_grad_norm_([parameter], self.cfg.clip_norm)
        return norm


def _by_rows(p: Tensor) -> bool:
    return p.grad is not None and as_rows(p) is not None and p.stride() == p.grad.stride()


def _norm(energies: dict[Tensor, Tensor], parameters: Iterable[Tensor]) -> Tensor:
    found = [energies[p] for p in parameters if p in energies]
    return torch.stack(found).sum().sqrt() if found else torch.zeros((), dtype=torch.float64)


def lr_multiplier(step: int, steps: int, warmup_steps: int, decay_fraction: float) -> float:
    """Share of the peak rate at `step` (from 0): linear warm-up, flat, linear decay to zero after the last step.

    Warm-up is cut to a tenth of a short run, so that a run of a few steps still trains.
    """
    warmup = min(warmup_steps, steps // 10)
    decay = int(steps * decay_fraction)
    rise = (step + 1) / (warmup + 1) if step < warmup else 1.0
    fall = (steps - step) / (decay + 1) if steps - step <= decay else 1.0
    return min(rise, fall)


def cosine_multiplier(step: int, steps: int) -> float:
    """1 at the first step, falling to 0 at the last along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(steps - 1, 1))))


def warmup(step: int, steps: int, fraction: float) -> float:
    """Share of a weight at `step`, which rises linearly over the first `fraction` of the steps."""
    return min(1.0, (step + 1) / (int(fraction * steps) + 1))
