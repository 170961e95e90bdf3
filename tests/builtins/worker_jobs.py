"""Work for processes of tests; imports little, so that they start quickly."""

import logging
import os
import signal
from pathlib import Path


def pid():
    return os.getpid()


def die_until(path, times):
    """Be killed, until that has happened so many times."""
    lives = len(path.read_text()) if path.exists() else 0
    if lives < times:
        path.write_text("x" * (lives + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return lives


def say(text):
    logging.getLogger("polykit").warning("%s %d", text, 7)
    logging.getLogger("polykit").debug("not heard")


def fail():
    raise LookupError("not there")


def wait_for(path):
    while not Path(path).exists():
        signal.sigtimedwait([], 0.01)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def hears_ctrl_c():
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return not blocked or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
