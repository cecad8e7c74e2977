"""Lambda for the stacks that moto's CloudFormation makes: the local service runs the functions of what is deployed.

After each change set the stack starts the service from the template that was sent. The service ends with the stack.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from moto.cloudformation import models

from estafeta import local

from .account import functions_at, with_moto
from .cloudformation import complete


@contextmanager
def functions_that_run(moto: str, home: Path, patch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let a stack that is deployed have functions; gives the folder that stands for EFS.

    Args:
        moto: Address of moto's server, which runs in this process.
        home: Folder of the service.
        patch: Tells boto3 where the functions are.
    """
    complete(patch)
    apply, delete = models.ChangeSet.apply, models.Stack.delete

    def apply_and_start(self: models.ChangeSet) -> None:
        apply(self)
        if "AWS::Lambda::Function" in self.template:
            template = home / "template.yaml"
            template.write_text(with_moto(self.template, moto))
            service = local.ensure(home / "service", local.Options(template=template, root=home / "efs"))
            functions_at(service.url, patch)
            patch.setenv("AWS_ACCESS_KEY_ID", service.access_key)
            patch.setenv("AWS_SECRET_ACCESS_KEY", service.secret_key)

    def delete_and_stop(self: models.Stack) -> None:
        delete(self)
        stop()

    def stop() -> None:
        local.stop(home / "service")
        functions_at(moto, patch)  # there may be none

    patch.setattr(models.ChangeSet, "apply", apply_and_start)
    patch.setattr(models.Stack, "delete", delete_and_stop)
    try:
        yield home / "efs"
    finally:
        stop()
