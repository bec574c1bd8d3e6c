"""Which trackers watch a training run, as data."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from chronosae.autoencoders.parts.base import PartSpec, Registry
from chronosae.autoencoders.trackers import FeatureImportance, FiringFrequency

WATCHERS: Registry["WatcherSpec"] = Registry("tracker")


class WatcherSpec(PartSpec):
    """Base of the tracker specs."""

    def make(self, d_sae: int, seed: int = 0, device: torch.device | str = "cpu") -> Any:
        """The tracker, with `state_dict` and `load_state_dict`."""
        raise NotImplementedError


@WATCHERS.add
class FiringWatcher(WatcherSpec):
    """Share of tokens that each feature fires on."""

    kind: Literal["firing"] = "firing"
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the newest batch in the running mean."""

    def make(self, d_sae: int, seed: int = 0, device: torch.device | str = "cpu") -> FiringFrequency:
        return FiringFrequency(d_sae, self.alpha, device)


@WATCHERS.add
class ImportanceWatcher(WatcherSpec):
    """Running mean of how much each feature adds to the reconstruction."""

    kind: Literal["importance"] = "importance"
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the newest batch in the running mean."""

    def make(self, d_sae: int, seed: int = 0, device: torch.device | str = "cpu") -> FeatureImportance:
        return FeatureImportance(d_sae, self.alpha, device)
