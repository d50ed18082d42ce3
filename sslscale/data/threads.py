"""Threads that each do their own work, beside the threads that torch splits one operation over."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

_LOCK = threading.Lock()


def pool(name: str, count: int) -> ThreadPoolExecutor:
    """`count` threads in which torch's operations run on one thread each; one pool a name and count and process.

    torch remembers its number of threads by thread, and starts new ones with the number that was set last: so the new
    threads set 1 for themselves, and this thread then sets its own number again.
    """
    with _LOCK:
        return _pool(name, count)


@functools.cache
def _pool(name: str, count: int) -> ThreadPoolExecutor:
    before = torch.get_num_threads()
    started = threading.Barrier(count)
    threads = ThreadPoolExecutor(count, thread_name_prefix=name, initializer=torch.set_num_threads, initargs=(1,))
    list(threads.map(lambda _: started.wait(), range(count)))
    torch.set_num_threads(before)
    return threads
