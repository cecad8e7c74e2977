"""An embedded AWS Lambda: the Invoke API on one side, the Runtime API on the other, real runtime processes in between.

`ensure` gives the service of a folder, started in the background if need be; functions are those of
a CloudFormation template. Any AWS SDK, and the AWS command line, can talk to it:

    endpoint = ensure(home, Options(template=template, root=root))
    boto3.client("lambda", **endpoint.client_options()).invoke(FunctionName="estafeta-control", Payload=b"{}")

It keeps Lambda's promises (at least once, one event at a time, retries, failure destinations,
versions) and withholds what Lambda withholds (memory, time, payload size, concurrency, /dev/shm,
progress between events). It is not a sandbox. Not isolated, or not limited, are: the user and the
network (functions run as you), the file system (`/tmp` is a folder named by TMPDIR), processor
shares (only thread counts follow the memory size) and BLAS threads above one, network and file
system speed, the memory of processes that a handler starts, the Python version and the processor
architecture. Events that wait are in memory and end with the service. Processes that a handler has
started survive a `kill -9` of the service.

Nothing here knows what the functions do: they are started by handler name, as on AWS.
"""

from __future__ import annotations

from estafeta.local.daemon import ensure, find, serve, stop
from estafeta.local.endpoint import Endpoint
from estafeta.local.options import Options

__all__ = ["Endpoint", "Options", "ensure", "find", "serve", "stop"]
