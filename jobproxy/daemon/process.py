"""What a daemon sets for its whole process: the file limit and the garbage collector."""

import gc
import resource
import sys


def tune_collector() -> None:
    """Collect garbage less often, and never search what was allocated before the start.

    A job leaves hardly any cyclic garbage, but each collection stops the loop while it visits every
    held client.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 100)


def read_file_limit() -> int:
    """Return how many files this process may have open, once its limit is raised."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def raise_file_limit() -> None:
    """Raise this process's limit of open files to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
