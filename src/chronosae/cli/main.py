"""Entry point: runs a command and turns what went wrong into one line."""

import atexit
import errno
import gc
import os
import sys
from collections.abc import Sequence

import click

from chronosae.cli.commands import cli
from chronosae.cli.exit_codes import INTERRUPTED, USER_ERROR
from chronosae.config import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 (no usable result), 2 (bad input) or 130 (Ctrl-C)."""
    # The process is about to end: looking for garbage in all that torch and transformers made takes it a second.
    atexit.register(gc.freeze)
    try:
        result = cli.main(args=None if argv is None else list(argv), prog_name="chronosae", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        return _fail(error.format_message())
    except UserError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; a run keeps its last checkpoint and goes on with --resume", INTERRUPTED)
    except MemoryError as error:
        return _fail(f"out of memory ({error}); lower training.batch_tokens, activations.harvest_sequences or d_sae")
    except RuntimeError as error:
        # Torch's own out-of-memory errors; told by name, so that torch needn't be imported here.
        if type(error).__name__ != "OutOfMemoryError" and "allocate memory" not in str(error):
            raise
        return _fail(f"out of memory; lower training.batch_tokens, activations.harvest_sequences or d_sae ({error})")
    except BrokenPipeError:
        # The reader of our output (`head`) left. Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        from chronosae.pipeline.folder import explain_os_error

        return _fail(f"{error.filename or 'output'}: {explain_os_error(error)}")


def _fail(message: str, code: int = USER_ERROR) -> int:
    click.echo("error: " + " ".join(message.split()), err=True)
    return code
