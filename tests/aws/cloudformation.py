"""CloudFormation by moto, and Lambda by the local service: a stack that is deployed has functions that run.

moto cannot make the network of the template. So it is given the same stack with the resources that it can make, and
when that is there, the local service is started from the template that was sent; when it is deleted, that is stopped.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from estafeta import local
from estafeta.local.template import open_template

from .account import REGION, functions_at, with_moto

FUNCTIONS = "AWS::Lambda::Function"
RESOURCES = {
    "FileSystem": {"Type": "AWS::EFS::FileSystem", "DeletionPolicy": "Retain", "Properties": {"Encrypted": True}},
    "WorkerLogs": {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": "/aws/lambda/estafeta-worker"}},
}


class CloudFormation:
    """The endpoint. To be used in a `with` statement.

    Args:
        moto: Address of moto's server.
        home: Where the service lives, and the folder that stands for EFS.
        patch: Tells boto3 where the service answers, while there is one.

    Attributes:
        url: Where it answers.
        root: The folder that stands for EFS.
    """

    def __init__(self, moto: str, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = home / "efs"
        self._moto, self._home, self._patch = moto, home, patch
        self._sent: dict[str, tuple[str, dict[str, str]]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> CloudFormation:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._stop()

    def answer(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Pass a request on, changed if need be, and do what follows from it."""
        fields = dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True))
        action, stack = fields["Action"], fields.get("StackName", "")
        if FUNCTIONS in (text := fields.get("TemplateBody", "")):
            fields["TemplateBody"] = self._what_moto_can_make(stack, text)
            self._sent[stack] = (text, fields)
        if action == "DeleteStack" and stack in self._sent:
            self._stop()
        status, content = self._ask_moto(headers, fields)
        if action == "ExecuteChangeSet" and status == 200 and stack in self._sent:
            text, proposed = self._sent[stack]
            # moto works out a stack's outputs when it is updated, but not when a change set is carried out.
            self._ask_moto(headers, {**proposed, "Action": "UpdateStack"})
            self._start(text)
        return status, content

    def _ask_moto(self, headers: dict[str, str], fields: dict[str, str]) -> tuple[int, bytes]:
        request = urllib.request.Request(self._moto, urllib.parse.urlencode(fields).encode(), headers)
        try:
            with urllib.request.urlopen(request) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def _what_moto_can_make(self, stack: str, text: str) -> str:
        path = self._home / "sent.yaml"
        path.write_text(text)
        names = open_template(path, REGION, {}, stack).parameters
        outputs = {f"{role}Function": f"{stack}-{role.lower()}" for role in ("Worker", "Merge", "Control")}
        references = {"FileSystemId": {"Ref": "FileSystem"}, "Bucket": {"Ref": "Bucket"}}
        return json.dumps({
            "Parameters": {name: {"Type": "String", "Default": ""} for name in sorted(names)},
            "Resources": RESOURCES,
            "Outputs": {name: {"Value": value} for name, value in {**outputs, **references}.items()},
        })  # fmt: skip

    def _start(self, text: str) -> None:
        template = self._home / "template.yaml"
        template.write_text(with_moto(text, self._moto))
        service = local.ensure(self._home / "service", local.Options(template=template, root=self.root))
        functions_at(service.url, self._patch)
        self._patch.setenv("AWS_ACCESS_KEY_ID", service.access_key)
        self._patch.setenv("AWS_SECRET_ACCESS_KEY", service.secret_key)

    def _stop(self) -> None:
        local.stop(self._home / "service")
        functions_at(self._moto, self._patch)  # where there are none

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                kept = {
                    name: value for name, value in self.headers.items() if name in ("Authorization", "Content-Type")
                }
                status, content = answer(kept, body)
                self.send_response(status)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments: Any) -> None: ...

        return Handler
