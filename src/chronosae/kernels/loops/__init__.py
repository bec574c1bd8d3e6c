"""Loops compiled by numba. Imported through `kernels.compiled` alone, so that nothing else waits for the compiler."""
