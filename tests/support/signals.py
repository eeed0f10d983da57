"""The same signals for the programs that tests start, however the suite itself was started."""

import signal

#: A shell without job control ignores the first two in what it runs in the background, and
#: ``nohup`` the last one; whatever is ignored is ignored by the children too.
INHERITED = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def reset_in_children() -> None:
    """Have no child ignore a signal because this process does.

    This process goes on as before: a signal with a handler that does nothing is as good as ignored
    here, but no program that is run inherits a handler. Only for the main thread.
    """
    for number in INHERITED:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)
