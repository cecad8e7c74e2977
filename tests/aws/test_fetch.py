"""An exported file that fits no answer comes through S3, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.driver import Relay
from core.specs import spec_of
from estafeta.aws.bucket import Bucket
from estafeta.client import fetch as client_side
from estafeta.errors import EnvironmentProblem
from estafeta.functions.verbs import fetch as verb

FILE = "model.safetensors"


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Relay:
    """A run that is done, where an answer holds 300 bytes and an object 700."""
    relay = Relay(tmp_path, spec_of("plain"))
    relay.run()
    monkeypatch.setattr(verb, "ANSWER_BYTES", 300)
    monkeypatch.setattr(verb, "PIECE_BYTES", 700)
    return relay


def ask(relay: Relay, bucket: Bucket, offset: int = 0) -> dict[str, Any]:
    return dict(relay.control("fetch", which="final", file=FILE, offset=offset, bucket=bucket.name))


def exported(relay: Relay, tmp_path: Path) -> bytes:
    return (tmp_path / relay.layout.export("final") / FILE).read_bytes()


def test_the_parts_make_the_file(relay: Relay, bucket: Bucket, tmp_path: Path) -> None:
    expected, content, ways = exported(relay, tmp_path), b"", []
    while len(content) < len(expected):
        answer = ask(relay, bucket, len(content))
        assert answer["size"] == len(expected)
        ways.append("url" if "url" in answer else "data")
        content += client_side.content(answer, bucket)
    assert content == expected
    assert ways == ["url"] * (len(expected) // 700) + ["data" if len(expected) % 700 <= 300 else "url"]
    assert list(bucket.objects()) == [], "what has been fetched is still in the bucket, and billed"


def test_a_small_file_comes_in_the_answer(relay: Relay, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "ANSWER_BYTES", 1 << 20)
    monkeypatch.setattr(verb, "PIECE_BYTES", 2 << 20)
    assert "data" in ask(relay, bucket)


def test_other_bytes_are_refused_and_asking_again_helps(relay: Relay, bucket: Bucket, tmp_path: Path) -> None:
    answer = ask(relay, bucket)
    bucket.upload(answer["key"], b"something else")
    with pytest.raises(EnvironmentProblem, match="14 bytes of an exported file have arrived"):
        client_side.content(answer, bucket)
    assert list(bucket.objects()) == []
    with pytest.raises(EnvironmentProblem, match="cannot be fetched from S3"):
        client_side.content(answer, bucket)
    assert client_side.content(ask(relay, bucket), bucket) == exported(relay, tmp_path)[:700]
