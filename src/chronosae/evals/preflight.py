"""What an evaluation needs and what of it is missing, known before anything is computed."""

from dataclasses import dataclass, field

from chronosae.subject import SubjectInfo


@dataclass(frozen=True)
class Missing:
    """One thing that an evaluation needs and doesn't have."""

    what: str
    """Such as `the data set LabHC/bias_in_bios`."""
    why: str
    """What happened when it was looked for."""
    how: str
    """What to do: the flag or key to set, the command to run."""

    def line(self) -> str:
        """For people."""
        return f"{self.what}: {self.why}; {self.how}"


@dataclass(frozen=True)
class Setting:
    """What is known before the subject is loaded."""

    subject: str
    """Name of the subject as configured: `world`, a folder, a hub name."""
    info: SubjectInfo | None
    """Its shape; None where it can't be reached."""
    device: str = "cpu"
    d_sae: dict[str, int] = field(default_factory=dict)
    """Width of each autoencoder."""
