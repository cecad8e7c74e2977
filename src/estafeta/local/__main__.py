"""The background service: `python -P -m estafeta.local HOME OPTIONS`, started by `daemon.ensure`.

The service detaches itself from the process that started it. It closes its standard output as soon as it answers, and
that process takes this as the sign.
"""

import asyncio
import logging
import os
import sys
from pathlib import Path

from estafeta.local.endpoint import Endpoint
from estafeta.local.options import Options
from estafeta.local.service import Service


def main(home: str, options: str) -> None:
    """Run a service in the background.

    Args:
        home: Folder of the service.
        options: `Options.to_json()`.
    """
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(_serve(Path(home), Options.from_json(options)))


async def _serve(home: Path, options: Options) -> None:
    await Service(home, options).run(_answering)


def _answering(_endpoint: Endpoint) -> None:
    os.write(1, b"answering\n")
    os.dup2(2, 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
