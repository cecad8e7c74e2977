"""An embedded AWS Lambda: the Invoke API on one side, the Runtime API on the other, real runtime processes in between.

It must not know what the functions do: it starts them by handler name, as AWS does. `ensure` gives the service of a
folder and starts it in the background if needed. A CloudFormation template names the functions. Any AWS SDK, and the
AWS command line, can talk to the service:

    endpoint = ensure(home, Options(template=template, root=root))
    boto3.client("lambda", **endpoint.client_options()).invoke(FunctionName="estafeta-control", Payload=b"{}")

It keeps Lambda's promises (at least once, one event at a time, retries, failure destinations, versions) and withholds
what Lambda withholds (memory, time, payload size, concurrency, /dev/shm, progress between events). It is not a
sandbox. It neither isolates nor limits these things:

- functions run as your user, with your files and your network; `/tmp` is a folder named by TMPDIR, of any size;
- processor time: only thread counts follow the memory size, and BLAS threads of preloaded numpy stay at one;
- the memory of processes that a handler starts, and the speed of the network and of the shared folder;
- Python version and processor: both are this machine's;
- callers need the service's keys, but an environment's Runtime API has no authentication, as on Lambda: other users of
  this machine can reach its port;
- a `kill -9` of the service ends its environments, but not processes that a handler has started.

Waiting events are in memory and end with the service. Starts are much faster than on Lambda: an environment is forked
from a process that has imported the heavy modules already.
"""

from estafeta.local.daemon import ensure, find, serve, stop
from estafeta.local.endpoint import Endpoint
from estafeta.local.options import Options

__all__ = ["Endpoint", "Options", "ensure", "find", "serve", "stop"]
