"""Parts of tests in processes of their own: forks of the one that tests, which has imported all that they need."""

import faulthandler
import multiprocessing
import os
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

SECONDS = 300  # a minute on an idle machine, two on a busy one


def run(folder: Path, part: Callable[[Path], None], *, ranks: int = 2) -> None:
    """Run a part in as many processes and wait for all; none is left behind."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    outputs = [folder / f"output.{rank}" for rank in range(ranks)]
    fork = multiprocessing.get_context("fork")
    running = [fork.Process(target=_started, args=(part, folder, output, port)) for output in outputs]
    for rank, process in enumerate(running):
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside the threads of pytest's own plugins
            if ranks > 1:
                patch.setenv("LOCAL_RANK", str(rank))
            process.start()
    try:
        end = time.monotonic() + SECONDS
        while any(process.is_alive() for process in running) and time.monotonic() < end:
            if any(process.exitcode for process in running):
                break  # the other one waits for it in vain
            time.sleep(0.1)
        states = [process.exitcode for process in running]
    finally:
        for process in running:
            process.kill()
            process.join()
    assert states == [0] * ranks, "\n\n".join(output.read_text()[-3000:] for output in outputs)


def _started(part: Callable[[Path], None], folder: Path, output: Path, port: str) -> None:
    """Run a part in a process of its own, which writes its output to a file and ends without pytest's own end."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file  # pytest's own lead elsewhere
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        faulthandler.dump_traceback_later(SECONDS - 20, exit=True, file=file)  # says where a process waits in vain
        warnings.simplefilter("default")  # Lightning warns of what these fits do on purpose
        status = 1
        try:
            part(folder)
            status = 0
        except BaseException:  # noqa: BLE001  # it is written, and the test fails
            traceback.print_exc(file=file)
        file.flush()
        os._exit(status)
