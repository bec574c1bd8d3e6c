"""The endpoint's key: from the environment to the request's header, and nowhere else."""

import os

from chronosae.config import UserError

HIDDEN = "[key]"
# A shorter one is a placeholder such as `none` or `EMPTY`; to blank it out would damage answers.
SECRET_LENGTH = 8


def read_key(name: str | None) -> str | None:
    """The key in the environment variable `name`; None where no key is wanted.

    Raises:
        UserError: it is absent, empty, or can't be sent; its value is not shown.
    """
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise UserError(f"evals.autointerp.key_env: the environment variable {name} is not set; {how_to_set(name)}")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"evals.autointerp.key_env: what {name} holds is no key (a space, a line break, or a letter beyond ASCII)"
        )
    return key


def how_to_set(name: str) -> str:
    """For people."""
    return f"export {name}=..., or --set evals.autointerp.key_env=null for an endpoint that wants no key"


def hide(text: str, key: str | None) -> str:
    """`text` without the key: servers have been known to repeat it."""
    return text.replace(key, HIDDEN) if key and len(key) >= SECRET_LENGTH else text
