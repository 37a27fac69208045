"""Installing several servers at once.

Belongs here: doing it in parallel and giving up together. Not here: how one is installed (cache.py, servers/).
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from tools.services.cache import Cache, Installed
from tools.services.servers.base import Server

SayOf = Callable[[str, str], None]
"""Told the server's name and what happens to it."""


def install(servers: Sequence[Server], cache: Cache, say: SayOf = lambda _name, _text: None) -> dict[str, Installed]:
    """The install of each server, made where it is missing; as many at once as there are cores.

    Raises: the first error, after the other installs have been given up: MissingToolError, InstallError.
    """

    def one(server: Server) -> Installed:
        made = server.install(cache, lambda text: say(server.name, text))
        if made.fresh:
            say(server.name, f"installed in {made.seconds:.0f} s, {made.size_bytes / 1e6:.0f} MB")
        return made

    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        work = {pool.submit(one, server): server for server in servers}
        try:
            for done in as_completed(work):
                done.result()
        except BaseException:  # Ctrl-C too: the builds are processes that would go on
            cache.cancelled.set()
            pool.shutdown(cancel_futures=True)
            raise
        return {server.name: future.result() for future, server in work.items()}
