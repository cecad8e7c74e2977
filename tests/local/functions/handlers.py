"""Handlers that the tests of the local service run; each does one thing that a test then looks at."""

import errno
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import boto3

COUNT = 0
TICKS = []
HELD = []


def pause(seconds):
    threading.Event().wait(seconds)


def note(path, **values):
    """Append one JSON line; a single write, so lines of several processes do not mix."""
    with open(path, "a") as file:
        file.write(json.dumps({"time": time.monotonic(), "pid": os.getpid(), **values}) + "\n")


def echo(event, context):
    return event


def count(event, context):
    """Number of uses of this process, and its id."""
    global COUNT
    COUNT += 1
    return {"count": COUNT, "pid": os.getpid(), "tmp": tempfile.gettempdir(), "version": context.function_version}


def describe(event, context):
    """Describe the environment from inside."""
    try:
        multiprocessing.Lock()
        semaphore = None
    except OSError as error:
        semaphore = errno.errorcode[error.errno]
    return {
        "environ": dict(os.environ),
        "path": sys.path,
        "cwd": os.getcwd(),
        "semaphore": semaphore,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "session": os.getsid(0) == os.getpid(),
        "estafeta_modules": [name for name in sys.modules if name.partition(".")[0] == "estafeta"],
        "remaining_ms": context.get_remaining_time_in_millis(),
        "arn": context.invoked_function_arn,
        "client_context": context.client_context and context.client_context.custom,
    }


def torch_threads(event, context):
    loaded = "torch" in sys.modules
    import torch

    return {"loaded": loaded, "threads": torch.get_num_threads(), "sum": float(torch.ones(1000).sum())}


def fail(event, context):
    raise ValueError("no good")


def leave(event, context):
    """Write to /tmp and the log, then end the process as the event says."""
    count_before = len(list(Path(tempfile.gettempdir()).glob("mark-*")))
    sys.stdout.write("about to leave\n")
    match event["how"]:
        case "exit":
            Path(tempfile.mkstemp(prefix="mark-")[1]).touch()
            os._exit(event["status"])
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    return {"marks": count_before}


def wait(event, context):
    if "path" in event:
        note(event["path"], id=context.aws_request_id)
    pause(event["seconds"])
    return "waited"


def hold(event, context):
    """Stay until a file appears."""
    note(event["path"], id=context.aws_request_id)
    while not Path(event["until"]).exists():
        pause(0.01)


def meet(event, context):
    """Note the arrival, and wait for the others; events that do not run at the same time never meet."""
    note(event["path"])
    while Path(event["path"]).read_text().count("\n") < event["others"]:
        pause(0.01)
    note(event["met"])


def start_child(event, context):
    """Leave a process behind."""
    child = os.fork()
    if child == 0:
        pause(600)
    note(event["path"], child=child)


def grow(event, context):
    """Take memory, and keep or return it."""
    block = bytearray(event["mb"] * 2**20)
    if event.get("keep"):
        HELD.append(block)
    return len(block)


def tick(event, context):
    """Have a thread note the time again and again; give its notes from a moment on."""

    def run():
        while True:
            TICKS.append(time.monotonic())
            pause(0.001)

    if not TICKS:
        threading.Thread(target=run, daemon=True).start()
    known = len(TICKS)
    while len(TICKS) < known + 20:
        pause(0.001)
    return {"pid": os.getpid(), "ticks": [moment for moment in TICKS if moment >= event["since"]]}


def record(event, context):
    """Note the attempt, then fail as often as the event says."""
    note(event["path"], id=context.aws_request_id, arn=context.invoked_function_arn)
    attempts = Path(event["path"]).read_text().count(context.aws_request_id)
    if attempts <= event.get("failures", 0):
        raise RuntimeError(f"attempt {attempts}")


def sink(event, context):
    """Failure destination."""
    note(os.environ["SINK"], record=event, trace=os.environ.get("_X_AMZN_TRACE_ID", ""))


def chain(event, context):
    """Invoke the next function of a list, forwarding the rest of the chain."""
    note(event["path"], function=context.function_name, depth=event["depth"])
    if event["depth"] >= event["most"]:
        return "end"
    names = event["functions"]
    client = boto3.client("lambda")
    answer = client.invoke(
        FunctionName=names[(event["depth"] + 1) % len(names)],
        InvocationType=event["kind"],
        Payload=json.dumps({**event, "depth": event["depth"] + 1}),
    )
    return answer["Payload"].read().decode() or "sent"


def talk(event, context):
    for line in event["lines"]:
        sys.stdout.write(line + "\n")


def large(event, context):
    return "x" * event["bytes"]
