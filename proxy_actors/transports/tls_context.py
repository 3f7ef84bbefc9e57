"""Makes the contexts of TLS sessions: versions, authorities, certificates, keys.

Says of each file that cannot be used which setting names it and what is wrong. Used by the world,
and by the check of a configuration, which is why it needs nothing but the standard library. Never
touches a socket.
"""

from __future__ import annotations

import os
import ssl
import stat

from proxy_actors.errors import TlsFileError
from proxy_actors.world.base import TlsClient, TlsServer

FILE_BYTES_MAX = 4 * 1024 * 1024
_PROTOCOLS = ["http/1.1"]


def client_context(settings: TlsClient) -> ssl.SSLContext:
    """Make the context of connections to servers, whose names and certificates are verified.

    Raises:
        TlsFileError: a file cannot be used.
    """
    context = client_context_of_files(settings)
    if not settings.ca:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def client_context_of_files(settings: TlsClient) -> ssl.SSLContext:
    """Make a client's context as far as the settings' own files go: reading the system's is slow.

    Raises:
        TlsFileError: a file cannot be used.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    # A certificate's common name is no host's name (RFC 9110 section 4.3.4).
    context.hostname_checks_common_name = False
    if settings.ca:
        _trust(context, "ca", settings.ca)
    if settings.certificate:
        _show(context, settings.certificate, settings.key)
    return context


def server_context(settings: TlsServer) -> ssl.SSLContext:
    """Make the context of connections from clients.

    Raises:
        TlsFileError: a file cannot be used.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    _show(context, settings.certificate, settings.key)
    if settings.client_ca:
        _trust(context, "client-ca", settings.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def is_open_to_others(path: str) -> bool:
    """Whether any user of this machine can read or change a file; not when there is none."""
    try:
        return bool(os.stat(path).st_mode & stat.S_IRWXO)
    except OSError:
        return False


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A peer that has sessions negotiated anew costs much more than it pays (CVE-2011-1473).
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(_PROTOCOLS)
    return context


def _trust(context: ssl.SSLContext, setting: str, path: str) -> None:
    _read(setting, path)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise TlsFileError(setting, path, "this holds no PEM certificate") from error


def _show(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Have a context show a certificate, whose key must be its own."""
    _read("certificate", certificate)
    _read("key", key)

    def ask_password() -> str:
        raise TlsFileError("key", key, "the key is encrypted, and nobody is there to decrypt it")

    try:
        context.load_cert_chain(certificate, key, ask_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = "this is not the key of the certificate"
            raise TlsFileError("key", key, text) from error
        _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "certificate", certificate)
        if error.reason not in (None, "PEM_LIB"):  # such as a key that is too weak
            raise TlsFileError("certificate", certificate, _words(error.reason)) from error
        raise TlsFileError("key", key, "this holds no PEM key") from error


def _read(setting: str, path: str) -> None:
    """See that a file can be read: the library that reads it does not say which one cannot."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise TlsFileError(setting, path, "this is no regular file")
        with open(path, "rb") as file:
            if len(file.read(FILE_BYTES_MAX + 1)) > FILE_BYTES_MAX:
                raise TlsFileError(setting, path, "this file is too large")
    except (OSError, ValueError) as error:
        raise TlsFileError(setting, path, getattr(error, "strerror", None) or str(error)) from error


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")
