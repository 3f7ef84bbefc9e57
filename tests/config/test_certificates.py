"""Files of certificates and keys: each that cannot be used is told at the setting that names it.

RELIABILITY N18. What they are good for is shown in `tests/wire`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from proxy_actors.config.model import Config
from tests.certificates import LOCAL_NAMES, Authority
from tests.config.files import UPSTREAM, config_of, read, told

SETTINGS = ("certificate", "key", "client-ca")
ERRORS = {
    "missing": "No such file or directory",
    "directory": "this is no regular file",
    "empty": {"key": "this holds no PEM key"},
    "text": {"key": "this holds no PEM key"},
}


def listener(directory: Path, **instead: str) -> str:
    """Write the files of a listener; return its table, one setting a line from line 4 on."""
    authority = Authority(directory)
    certificate, key = authority.issue(*LOCAL_NAMES)
    named = {"certificate": certificate, "key": key, "client-ca": authority.path, **instead}
    rows = "\n".join(f'{setting} = "{path}"' for setting, path in named.items())
    return f"{UPSTREAM}[tls]\n{rows}\n"


def unusable(directory: Path, kind: str) -> str:
    path = directory / kind
    match kind:
        case "directory":
            path.mkdir()
        case "empty":
            path.touch(0o600)
        case "text":
            path.write_text("nothing of the kind")
            path.chmod(0o600)
    return str(path)


def test_files_that_fit_are_accepted(tmp_path: Path) -> None:
    loaded = read(tmp_path, listener(tmp_path))
    assert told(loaded) == []
    assert config_of(loaded).tls is not None


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("kind", ERRORS)
def test_file_that_cannot_be_used_is_told(tmp_path: Path, kind: str, setting: str) -> None:
    """All of them are found before the start; no traceback, no other file is blamed."""
    loaded = read(tmp_path, listener(tmp_path, **{setting: unusable(tmp_path, kind)}))
    errors = ERRORS[kind]
    text = errors if isinstance(errors, str) else errors.get(
        setting, "this holds no PEM certificate"
    )
    assert loaded.config is None
    line = 4 + SETTINGS.index(setting)
    assert told(loaded)[0] == f"{line}:{len(setting) + 4} error: {text}"


def test_key_of_another_certificate_is_told(tmp_path: Path) -> None:
    _, other = Authority(tmp_path).issue("other")
    loaded = read(tmp_path, listener(tmp_path, key=str(other)))
    assert told(loaded) == ["5:7 error: this is not the key of the certificate"]


def test_encrypted_key_is_told_and_no_password_asked_for(tmp_path: Path) -> None:
    """OpenSSL would ask at the terminal, and a service would hang."""
    text = listener(tmp_path)
    path = tmp_path / f"{LOCAL_NAMES[0]}.key"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    said = "the key is encrypted, and nobody is there to decrypt it"
    assert told(read(tmp_path, text)) == [f"5:7 error: {said}"]


@pytest.mark.parametrize("mode", [0o604, 0o602])
def test_key_that_others_can_read_or_change_is_suspicious(tmp_path: Path, mode: int) -> None:
    text = listener(tmp_path)
    (tmp_path / f"{LOCAL_NAMES[0]}.key").chmod(mode)
    loaded = read(tmp_path, text)
    assert told(loaded) == [
        "5:1 warning: other users of this machine can read the key, or change it"
        " (chmod 600 makes it yours alone)"
    ]
    assert isinstance(config_of(loaded), Config)


def test_files_of_an_upstream_are_looked_at_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("client")
    _, other = authority.issue("other")
    loaded = read(tmp_path, f"""
[upstreams.good]
url = "https://good.test/mcp"
tls = {{ ca = "{authority.path}", certificate = "{certificate}", key = "{key}" }}
[upstreams.plain]
url = "https://plain.test/mcp"
[upstreams.bad]
url = "https://bad.test/mcp"
[upstreams.bad.tls]
ca = "/nowhere/ca.pem"
[upstreams.worse]
url = "https://worse.test/mcp"
[upstreams.worse.tls]
certificate = "{certificate}"
key = "{other}"
""")
    assert told(loaded) == [
        "10:6 error: No such file or directory",
        "15:7 error: this is not the key of the certificate",
    ]
