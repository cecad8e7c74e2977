"""A module whose import takes longer than the init phase may."""

import threading

threading.Event().wait(1.0)


def handler(event, context):
    return "started"
