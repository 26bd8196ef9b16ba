"""Children that are forked: each is a process of its own, without the seconds that importing torch takes."""

import os
import sys


def start(work, *arguments) -> int:
    """A child that calls ``work(*arguments)``; its number."""
    child = os.fork()
    if child == 0:
        try:
            work(*arguments)
        except BaseException as error:
            print(f"{work.__name__} failed: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child


def finished(child: int) -> bool:
    """Waits for a child; whether it came to its end. One that failed by itself ends all."""
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status):
        sys.exit(1)
    return not os.WIFSIGNALED(status)
