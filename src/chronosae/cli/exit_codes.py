"""What the process returns."""

FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130
