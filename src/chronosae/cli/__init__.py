"""The command line. Parses, calls, prints; every error a user can cause is one line and exit code 2.

Torch is imported only by the commands that need it, so that `--help` answers at once.
"""

from chronosae.cli.main import main

__all__ = ["main"]
