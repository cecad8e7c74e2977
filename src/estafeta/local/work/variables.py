"""The environment variables that an execution environment starts with.

A pure function of settings. Invariant: only the paths named in `PASSED_ON` come from the user's own shell. Source:
Lambda Developer Guide, "Using Lambda environment variables", list of defined variables.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from estafeta.local.work.functions import FunctionVersion

PASSED_ON = ("PATH", "LD_LIBRARY_PATH")  # the places of this machine's programs and libraries

# Settings that hide the user's own AWS files: a function must not find a profile or an endpoint in them.
NO_AWS_FILES = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The settings that all environments of a service share.

    Attributes:
        url: Address of the service; functions invoke each other, and read logs, there.
        access_key: Access key of the service.
        secret_key: Secret of that key.
        region: Region that functions see.
        root: Local folder that stands for the shared file system.
        task_root: Folder of the functions' code, beside the installed packages.
    """

    url: str
    access_key: str
    secret_key: str
    region: str
    root: Path
    task_root: Path


def is_reserved(name: str) -> bool:
    """Whether Lambda refuses a function's own variable of this name."""
    return name in _RESERVED or name.startswith("AWS_LAMBDA_")


_RESERVED = frozenset(
    "_HANDLER _X_AMZN_TRACE_ID AWS_ACCESS_KEY AWS_ACCESS_KEY_ID AWS_DEFAULT_REGION AWS_EXECUTION_ENV AWS_REGION "
    "AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN LAMBDA_RUNTIME_DIR LAMBDA_TASK_ROOT".split()
)


def variables(
    function: FunctionVersion, surroundings: Surroundings, *, runtime_api: str, log_stream: str, temporary: Path
) -> dict[str, str]:
    """Give the complete set of variables.

    A path under the function's mount path, in a variable of its own, becomes the same path under the local folder.

    Args:
        function: Function version of the environment.
        surroundings: Settings of the service.
        runtime_api: `host:port` of this environment's Runtime API.
        log_stream: Name of its log stream.
        temporary: Folder that stands for `/tmp`.
    """
    config = function.config
    defaults = {name: str(config.threads) for name in THREAD_LIMITS}
    defaults |= {"LANG": "C.UTF-8", "TZ": ":UTC", "TMPDIR": str(temporary), "AWS_EC2_METADATA_DISABLED": "true"}
    defaults |= NO_AWS_FILES | {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    own = {
        name: _moved(value, config.local_mount_path, surroundings.root) for name, value in config.environment.items()
    }
    reserved = {
        "_HANDLER": config.handler,
        "AWS_ACCESS_KEY_ID": surroundings.access_key,
        "AWS_DEFAULT_REGION": surroundings.region,
        # botocore forms this name from the service's id, which is "CloudWatch Logs" and not "logs".
        "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS": surroundings.url,
        "AWS_ENDPOINT_URL_LAMBDA": surroundings.url,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{config.runtime}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(config.memory_mb),
        "AWS_LAMBDA_FUNCTION_NAME": config.name,
        "AWS_LAMBDA_FUNCTION_VERSION": function.version,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": config.log_group,
        "AWS_LAMBDA_LOG_STREAM_NAME": log_stream,
        "AWS_LAMBDA_RUNTIME_API": runtime_api,
        "AWS_REGION": surroundings.region,
        "AWS_SECRET_ACCESS_KEY": surroundings.secret_key,
        "LAMBDA_TASK_ROOT": str(surroundings.task_root),
    }
    return defaults | own | reserved


def _moved(value: str, mount_path: str | None, root: Path) -> str:
    if mount_path and (value == mount_path or value.startswith(mount_path + "/")):
        return str(root) + value.removeprefix(mount_path)
    return value
