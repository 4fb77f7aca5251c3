"""Runs a program that the kernel kills when the thread that started it ends.

Called as ``python with_parent.py PARENT PROGRAM ARGUMENT...``, where PARENT is the process id of the caller.
``subprocess`` could do the same only with ``preexec_fn``, which forks and is not safe among threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent process has ended")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606
