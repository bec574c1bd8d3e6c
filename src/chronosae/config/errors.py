"""The one exception that is meant for the person at the keyboard."""


class UserError(ValueError):
    """Something the user gave can't be used.

    The message is one line: what is wrong, where, and what to do about it. The command line prints it and exits
    with code 2; a program that uses the library catches it as a `ValueError`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
