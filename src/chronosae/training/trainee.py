"""One autoencoder in training: its weights, optimiser and trackers, and the step that moves them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder, Draws, Pass
from chronosae.autoencoders.parts.terms import SteeredTerm, TermSpec
from chronosae.config import TrainingConfig
from chronosae.objectives import StepContext, masked_mean, reconstruction_error, term_value, watch
from chronosae.training.dead import DeadFeatures
from chronosae.training.resample import resample
from chronosae.training.schedule import cosine_multiplier, lr_multiplier, warmup
from chronosae.training.sparsity import PenaltyWeight
from chronosae.training.update import Update


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

    Arguments:
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
            wanted = dead.nonzero().squeeze(1) if any(term.kind == "auxk" for term in self.sae.cfg.terms) else None
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
        for spec in self.sae.cfg.trackers:
            watch(spec, context)
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
