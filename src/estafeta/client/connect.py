"""A place to run, found by its name: this process, the local service, or a stack on AWS."""

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, Unpack, get_args

from estafeta import local
from estafeta.aws.account import STACK, Account, deployment
from estafeta.aws.bucket import Bucket
from estafeta.aws.lambda_api import make_client
from estafeta.client.backend import ROLES, Backend, LambdaBackend, home
from estafeta.client.inline import InlineBackend
from estafeta.errors import UsageError
from estafeta.job.job import On
from estafeta.local.template.config import FunctionConfig
from estafeta.local.template.reader import read_template
from estafeta.protocol.spec import FunctionSettings, Role

TEMPLATE = Path(__file__).parents[1] / "aws/stack.yaml"
"""Path of the template that is deployed, and that the local service reads."""
NAMES: dict[Role, str] = {role: f"{STACK}-{role}" for role in ROLES}
"""Names of the functions in Estafeta's own template."""
SERVED = "served.json"
"""Name of the file, beside the local service's own, with the options of a service that runs in the foreground."""


class OnAws(TypedDict, total=False):
    """Keywords that name a place on AWS.

    Attributes:
        stack: Name of the deployed stack; by default `estafeta`.
        region: Region of the stack; by default the one that every AWS tool would take.
        profile: Profile of the AWS configuration files; likewise.
    """

    stack: str
    region: str | None
    profile: str | None


def connect(on: On, *, template: Path | None = None, **aws: Unpack[OnAws]) -> Backend:
    """The place to run; a local service that does not run yet is started. A `template` replaces Estafeta's own.

    Raises:
        UsageError: No place has that name, or the template has other functions.
        EnvironmentProblem: The place cannot be reached.
    """
    if on not in get_args(On):
        raise UsageError(f"There is no place {on!r} to run", hint=f"one of {', '.join(get_args(On))}")
    root = home() / "store"
    if on == "inline":
        functions = _functions(local.Options(template or TEMPLATE, root))
        return InlineBackend(root, {role: _settings(function) for role, function in functions.items()})
    if on == "aws":
        return on_stack(Account(aws.get("region"), aws.get("profile")), aws.get("stack", STACK))
    if template:
        _functions(local.Options(template, root))
    root.mkdir(parents=True, exist_ok=True)
    return on_service(local.ensure(home(), _options(template, root)))


def attach(on: On, **aws: Unpack[OnAws]) -> Backend:
    """The place where runs are, for `Run`; arguments are as in `train`, and errors as in `connect`.

    A local service that runs already is taken as it is, whatever its options.
    """
    if on == "local" and (running := local.find(home())):
        return on_service(running)
    return connect(on, **aws)


def serve(options: local.Options, say: Callable[[str], None]) -> None:
    """Run the local service in the foreground until it is interrupted; `say` receives the lines for the user.

    Meanwhile `connect` respects its options. If a service runs already, it raises `EnvironmentProblem`.
    """
    if local.find(home()):
        return local.serve(home(), options, say=say)  # which explains that there can be only one
    served = home() / SERVED
    served.parent.mkdir(parents=True, exist_ok=True)
    served.write_text(options.to_json())
    try:
        local.serve(home(), options, say=say)
    finally:
        served.unlink(missing_ok=True)


def on_stack(account: Account, stack: str) -> LambdaBackend:
    """A stack on AWS as a place to run; raises `EnvironmentProblem` if there is none of that name."""
    deployed = deployment(account, stack)
    bucket = Bucket(deployed.bucket, account.client("s3"))
    functions, logs = make_client("lambda", account.boto), account.client("logs")
    return LambdaBackend("aws", deployed.functions, functions, logs, bucket, account.client("lambda"))


def on_service(endpoint: local.Endpoint) -> Backend:
    """A local service as a place to run."""
    options = endpoint.client_options()
    return LambdaBackend("local", NAMES, make_client("lambda", **options), make_client("logs", **options))


def _functions(options: local.Options) -> dict[Role, FunctionConfig]:
    """Functions of a template by role; each has the name that it has in Estafeta's own template."""
    found = {function.name: function for function in read_template(options.template, region=options.region)}
    if missing := [name for name in NAMES.values() if name not in found]:
        raise UsageError(
            f"Template {options.template} has no function {missing[0]}",
            hint="keep the names of the functions in Estafeta's own template",
        )
    return {role: found[name] for role, name in NAMES.items()}


def _options(template: Path | None, root: Path) -> local.Options:
    """Options of the local service: the usual ones, or those that a running `serve` was given."""
    running, served = local.find(home()), home() / SERVED
    if template is None and running and served.exists():
        options = local.Options.from_json(served.read_text())
        if options.digest() == running.digest:  # the file of a service that was killed describes another one
            return options
    return local.Options(template=template or TEMPLATE, root=root)


def _settings(function: FunctionConfig) -> FunctionSettings:
    return FunctionSettings(name=function.name, memory_mb=function.memory_mb, timeout_s=function.timeout_s)
