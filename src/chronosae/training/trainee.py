"""One autoencoder in training: its weights, optimiser and trackers, its dead features, and the step that moves them."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.optim import Optimizer

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder, Codes, Draws, Pass
from chronosae.autoencoders.parts.terms import TermSpec
from chronosae.config import TrainingConfig
from chronosae.objectives import SteeredTerm, StepContext, masked_mean, reconstruction_error, term_value
from chronosae.training.update import Update, cosine_multiplier, lr_multiplier, warmup

# Encoder norm of a new feature relative to the mean of the living ones: weak at first, so that it disturbs little.
ENCODER_SCALE = 0.2


class DeadFeatures:
    """Unmasked tokens since each feature last fired: counted in tokens, so that the batch size doesn't matter."""

    def __init__(self, d_sae: int, after_tokens: int, device: torch.device | str = "cpu") -> None:
        self.after_tokens = after_tokens
        self.since_fired: Int[Tensor, " d_sae"] = torch.zeros(d_sae, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, codes: Codes, n_tokens: Int[Tensor, ""]) -> None:
        """Account for one batch with `n_tokens` unmasked tokens."""
        self.since_fired.add_(n_tokens).masked_fill_(codes.fired() > 0, 0)

    def dead(self) -> Bool[Tensor, " d_sae"]:
        """Features that haven't fired for more than `after_tokens` tokens."""
        return self.since_fired > self.after_tokens

    def revive(self, features: Bool[Tensor, " d_sae"]) -> None:
        """Give freshly re-initialised features their full time again."""
        self.since_fired.masked_fill_(features, 0)


@torch.no_grad()
def resample(
    sae: Autoencoder, optimizer: Optimizer, step: Pass, dead: Bool[Tensor, " d_sae"], generator: torch.Generator
) -> int:
    """Point each dead feature at an input drawn with probability proportional to its squared loss. Returns how many.

    Bricken et al. 2023, appendix.
    """
    n_dead = int(dead.sum())
    if n_dead == 0:
        return 0
    error = (step.target - step.recon)[step.mask]
    # The draw is made on the CPU so that a seed means the same on every device.
    weights = error.pow(2).sum(-1).pow(2).double().cpu() + 1e-12
    chosen = torch.multinomial(weights, n_dead, replacement=True, generator=generator).to(error.device)
    directions = (step.target[step.mask] - sae.b_dec)[chosen]
    directions = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
    alive_norm = sae.W_enc[:, ~dead].norm(dim=0).mean() if n_dead < len(dead) else sae.W_enc.new_tensor(1.0)
    sae.W_dec[dead] = directions
    sae.W_enc[:, dead] = (ENCODER_SCALE * alive_norm * directions).T
    sae.b_enc[dead] = 0
    for name in ("exp_avg", "exp_avg_sq"):
        optimizer.state[sae.W_dec][name][dead] = 0
        optimizer.state[sae.W_enc][name][:, dead] = 0
        optimizer.state[sae.b_enc][name][dead] = 0
    return n_dead


@dataclass(frozen=True)
class StepMetrics:
    """What is logged; means since the last log for loss and L0, the latest step for the rest."""

    loss: float
    l0: float
    dead: int
    grad_norm: float
    act_norm: float
    lr: float
    sparsity_penalty: float | None


class Trainee:
    """An autoencoder, and everything that training it alone or beside others needs: nothing is shared.

    Args:
        name: key in results.
        sae: the autoencoder, on its device.
        site: the site whose activations it reads.
        cfg: how it is trained.
        steps: optimiser steps in all.
        lr: peak learning rate.
        seed: seed of everything random in its training.
    """

    def __init__(
        self, name: str, sae: Autoencoder, site: str, cfg: TrainingConfig, *, steps: int, lr: float, seed: int
    ) -> None:
        self.name, self.sae, self.site, self.cfg, self.steps, self.lr, self.seed = name, sae, site, cfg, steps, lr, seed
        self.step_number = 0
        self.stopped: str | None = None
        """Why this trainee takes no more steps; None while it does."""
        device = sae.W_dec.device
        groups = [
            {"params": group.parameters, "multiplier": group.lr_multiplier, "schedule": group.lr_schedule}
            for group in sae.parameter_groups()
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=cfg.betas, weight_decay=cfg.weight_decay, fused=True)
        self.update = Update(sae, self.optimizer, cfg)
        self.dead = DeadFeatures(sae.d_sae, cfg.dead_after_tokens, device)
        self.penalties = {t.kind: PenaltyWeight(t, steps) for t in sae.cfg.terms if isinstance(t, SteeredTerm)}
        self.trackers: dict[str, Any] = {
            spec.kind: spec.make(sae.d_sae, seed=seed, device=device) for spec in sae.cfg.trackers
        }
        """What watches the training, by kind."""
        self._loss_sum = torch.zeros((), device=device)
        self._l0_sum = torch.zeros((), device=device)
        self._since_log = 0
        self._grad_norm = self._loss_sum
        self._latest: tuple[Tensor, Tensor] | None = None
        """Inputs and mask of the latest step."""

    def step(self, batch: SequenceBatch) -> None:
        """One optimiser step; on a NaN or Inf the weights stay as they were and the trainee stops."""
        device_type = batch.acts.device.type
        # First of all: the forward pass works in the memory of the last step's gradients.
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device_type, torch.bfloat16, enabled=self.cfg.autocast):
            draws, dead = Draws(self.seed, self.step_number), self.dead.dead()
            wanted = dead.nonzero().squeeze(1) if any(term.wants_dead for term in self.sae.cfg.terms) else None
            forward = self.sae.training_pass(
                batch.acts, batch.mask, positions=batch.positions, doc_ids=batch.doc_ids, draws=draws, wanted=wanted
            )
        context = StepContext(self.sae, forward, dead, draws, self.trackers, self.step_number / self.steps)
        loss = self._loss(context)
        loss.backward()
        grad_norm = self.update.measure()
        if not torch.isfinite(loss + grad_norm):
            place = f"step {self.step_number}, batch {self.step_number}"
            self.stopped = f"stopped at {place}: {self._why_not_finite(batch, loss)}"
            return
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(group["multiplier"], group["schedule"])
        self.update.apply()
        self._account(forward, loss, grad_norm)
        with torch.no_grad():
            for spec in self.sae.cfg.trackers:
                spec.show(self.trackers[spec.kind], context)
        self._resample(forward)
        self.step_number += 1

    def metrics(self) -> StepMetrics:
        """Metrics since the last call; starts a new window. Synchronises with the device."""
        n = max(self._since_log, 1)
        metrics = StepMetrics(
            loss=float(self._loss_sum) / n,
            l0=float(self._l0_sum) / n,
            dead=int(self.dead.dead().sum()),
            grad_norm=float(self._grad_norm),
            act_norm=self._act_norm(),
            lr=self.optimizer.param_groups[-1]["lr"],
            sparsity_penalty=next((p.at(max(self.step_number - 1, 0)) for p in self.penalties.values()), None),
        )
        self._loss_sum.zero_()
        self._l0_sum.zero_()
        self._since_log = 0
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """All that a bit-equal continuation needs; tensors and plain values only."""
        return {
            "sae": self.sae.state_dict(),
            "normalisation": self.sae.cfg.normalisation.model_dump(),
            "optimizer": self.optimizer.state_dict(),
            "since_fired": self.dead.since_fired,
            "trackers": {kind: tracker.state_dict() for kind, tracker in self.trackers.items()},
            "penalties": {kind: penalty.state_dict() for kind, penalty in self.penalties.items()},
            "step_number": self.step_number,
            "stopped": self.stopped,
            "window": {"loss": self._loss_sum, "l0": self._l0_sum, "n": self._since_log},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.sae.load_state_dict(state["sae"])
        self.update.restore(state["optimizer"])
        self.dead.since_fired.copy_(state["since_fired"])
        for kind, tracker in self.trackers.items():
            tracker.load_state_dict(state["trackers"][kind])
        for kind, penalty in self.penalties.items():
            penalty.load_state_dict(state["penalties"][kind])
        self.step_number, self.stopped = state["step_number"], state["stopped"]
        self._loss_sum.copy_(state["window"]["loss"])
        self._l0_sum.copy_(state["window"]["l0"])
        self._since_log = state["window"]["n"]

    def _loss(self, step: StepContext) -> Tensor:
        loss = self.sae.cfg.reconstruction_weight * reconstruction_error(step.forward)
        for term in self.sae.cfg.terms:
            value = term_value(term, step)
            if value is not None:
                loss = loss + self._weight(term) * value
        return loss

    def _act_norm(self) -> float:
        if self._latest is None:
            return 0.0
        target, mask = self._latest
        return float(masked_mean(target.norm(dim=-1), mask))

    def _weight(self, term: TermSpec) -> float:
        if term.kind in self.penalties:
            return self.penalties[term.kind].at(self.step_number)
        return term.weight * warmup(self.step_number, self.steps, term.warmup_fraction)

    @staticmethod
    def _why_not_finite(batch: SequenceBatch, loss: Tensor) -> str:
        # Masked tokens enter no loss, so an overflow there is not the cause.
        if not torch.isfinite(batch.unmasked()).all():
            return "the activations hold NaN or Inf"
        return f"the {'gradient' if torch.isfinite(loss) else 'loss'} is not finite; a lower lr may help"

    def _lr(self, multiplier: float, schedule: str) -> float:
        cfg = self.cfg
        if schedule == "run":
            share = lr_multiplier(self.step_number, self.steps, cfg.warmup_steps, cfg.decay_fraction)
        else:
            share = cosine_multiplier(self.step_number, self.steps) if schedule == "cosine" else 1.0
        return self.lr * multiplier * share

    @torch.no_grad()
    def _account(self, forward: Pass, loss: Tensor, grad_norm: Tensor) -> None:
        self.dead.update(forward.codes.chosen(), forward.mask.sum())
        l0 = masked_mean(forward.codes.chosen().l0().to(loss.dtype), forward.mask)
        for penalty in self.penalties.values():
            if penalty.steers:
                penalty.observe(self.step_number, float(l0))
        self._loss_sum += loss.detach()
        self._l0_sum += l0
        self._since_log += 1
        self._grad_norm, self._latest = grad_norm, (forward.target, forward.mask)

    def _resample(self, forward: Pass) -> None:
        every = self.sae.cfg.resample_every
        # None in the last fifth: a new feature needs time to find its place.
        if not every or (self.step_number + 1) % every or self.step_number + 1 > 0.8 * self.steps:
            return
        dead = self.dead.dead()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step_number)
        if resample(self.sae, self.optimizer, forward, dead, generator):
            self.dead.revive(dead)


class PenaltyWeight:
    """The weight at each step: warm-up, then (with `target_l0`) proportional-integral control on log L0.

    With e = log(L0 / target), a step changes log weight by `INTEGRAL * clip(e) + PROPORTIONAL * (change of e)`. Codes
    follow a change of weight over a hundred steps or so; integral action alone would wind up while the L0 of a fresh
    autoencoder (half of all features) falls, and then overshoot. The second part gives way as soon as L0 moves.
    """

    INTEGRAL = 0.05
    PROPORTIONAL = 2.0
    # A target that can't be reached must not drive the weight out of float32.
    RANGE = math.log(1e6)

    def __init__(self, term: SteeredTerm, steps: int) -> None:
        self.term = term
        self.warmup = int(term.warmup_fraction * steps)
        self.log_weight = math.log(term.weight)
        self._last_error: float | None = None

    def at(self, step: int) -> float:
        """Weight at `step` (from 0)."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        return rise * math.exp(self.log_weight)

    @property
    def steers(self) -> bool:
        """There is a target."""
        return self.term.target_l0 is not None

    def observe(self, step: int, l0: float) -> None:
        """Learn from the mean L0 of the step just taken."""
        if self.term.target_l0 is None or step < self.warmup:
            return
        # An autoencoder that fires on nothing counts as a hundredth of a feature: log 0 would say nothing.
        error = math.log(max(l0, 0.01) / self.term.target_l0)
        change = 0.0 if self._last_error is None else error - self._last_error
        self._last_error = error
        moved = self.log_weight + self.INTEGRAL * max(-1.0, min(1.0, error)) + self.PROPORTIONAL * change
        start = math.log(self.term.weight)
        self.log_weight = max(start - self.RANGE, min(start + self.RANGE, moved))

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"log_weight": self.log_weight, "last_error": self._last_error}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.log_weight, self._last_error = state["log_weight"], state["last_error"]
