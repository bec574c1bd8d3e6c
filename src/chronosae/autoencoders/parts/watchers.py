"""Which trackers watch a training run, as data."""

from chronosae.autoencoders.parts.base import PartSpec, Registry

WATCHERS: Registry["WatcherSpec"] = Registry("tracker")


class WatcherSpec(PartSpec):
    """Base of the tracker specs."""
