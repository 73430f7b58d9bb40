"""Server settings are checked at the door, and remote access must be meant."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tierline import ConfigurationError
from tierline_serving.access.tls import Tls
from tierline_serving.settings import ServerSettings, is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_listening_beyond_this_machine_must_be_meant(host: str) -> None:
    with pytest.raises(
        ConfigurationError, match="--keys or --tls-client-ca, or say --allow-remote"
    ):
        ServerSettings(host=host)
    assert ServerSettings(host=host, allow_remote=True).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_loopback_addresses_are_known(host: str) -> None:
    assert is_loopback(host)


def test_a_unix_socket_needs_no_port() -> None:
    assert ServerSettings(port=None, unix_socket=Path("/tmp/x.sock"), host="0.0.0.0").port is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", 70_000),
        ("port", None),
        ("max_body_bytes", 0),
        ("drain", -1.0),
        ("lame_duck", math.nan),
        ("default_timeout", 0.0),
        ("default_timeout", 61.0),
        ("max_timeout", math.inf),
        ("read_timeout", 0.0),
    ],
)
def test_a_wrong_setting_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as refused:
        ServerSettings(**{key: value})  # type: ignore[arg-type]
    assert refused.value.key == key


def test_keys_or_verified_callers_let_a_server_listen_beyond_this_machine(tmp_path: Path) -> None:
    file = tmp_path / "file.pem"
    file.touch()
    anybody = Tls(certificate=file, key=file)
    known = Tls(certificate=file, key=file, client_ca=file)
    assert ServerSettings(host="0.0.0.0", keys=file).has_access_control
    assert ServerSettings(host="0.0.0.0", tls=known).has_access_control
    with pytest.raises(ConfigurationError, match="would trust whoever reaches it"):
        ServerSettings(host="0.0.0.0", tls=anybody)


def test_a_unix_socket_and_tls_exclude_each_other(tmp_path: Path) -> None:
    file = tmp_path / "file.pem"
    file.touch()
    with pytest.raises(ConfigurationError, match="carries no TLS"):
        ServerSettings(unix_socket=tmp_path / "s", tls=Tls(certificate=file, key=file))


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"tls\.certificate: there is no file"):
        Tls(certificate=tmp_path / "none.pem", key=tmp_path / "none.pem")
