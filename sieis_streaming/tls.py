"""The files of a TLS connection, read once beforehand: librdkafka would tell of a bad one in the words of OpenSSL.

Belongs here: which files there are and whether they are good. Not here: what the broker thinks of them (refusal.py).
"""

import ssl
from pathlib import Path

from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings


class TlsFilesError(FatalError):
    """A file of certificates or a key is missing, unreadable, or does not belong to the other."""


def tls_config(settings: Settings) -> dict[str, str]:
    """librdkafka's options for the certificates of `settings`; holds the key's password, where there is one.

    Raises: TlsFilesError.
    """
    config: dict[str, str] = {}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if (authorities := settings.kafka_ssl_ca_location) is not None:
        _there(authorities, "SIEIS_KAFKA_SSL_CA_LOCATION")
        try:
            context.load_verify_locations(authorities)
        except (ssl.SSLError, OSError) as error:
            raise TlsFilesError(f"SIEIS_KAFKA_SSL_CA_LOCATION: {authorities} holds no certificates: {error}") from error
        config["ssl.ca.location"] = str(authorities)
    certificate, key = settings.kafka_ssl_certificate_location, settings.kafka_ssl_key_location
    if certificate is None and key is None:
        return config
    if certificate is None or key is None:
        raise TlsFilesError(
            "set both SIEIS_KAFKA_SSL_CERTIFICATE_LOCATION and SIEIS_KAFKA_SSL_KEY_LOCATION, or neither"
        )
    _there(certificate, "SIEIS_KAFKA_SSL_CERTIFICATE_LOCATION")
    _there(key, "SIEIS_KAFKA_SSL_KEY_LOCATION")
    password = settings.kafka_ssl_key_password.get_secret_value() if settings.kafka_ssl_key_password else ""
    try:
        # Never without a password: OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key, password)
    except (ssl.SSLError, OSError) as error:
        raise TlsFilesError(
            f"the key {key} does not open the certificate {certificate}: {error}; "
            "check SIEIS_KAFKA_SSL_KEY_LOCATION and SIEIS_KAFKA_SSL_KEY_PASSWORD"
        ) from error
    config |= {"ssl.certificate.location": str(certificate), "ssl.key.location": str(key)}
    return config | ({"ssl.key.password": password} if password else {})


def _there(path: Path, name: str) -> None:
    if not path.is_file():
        raise TlsFilesError(f"{name}: there is no file {path}")
