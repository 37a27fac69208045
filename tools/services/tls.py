"""Certificates of a test server: an authority of its own, the server's and a client's certificate, all PEM files.

Belongs here: making these files once. Not here: which server or client reads which.
"""

from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

from tools.services.servers.base import HOST, write_private


@dataclass(frozen=True)
class Certificates:
    """Where the files of one server lie."""

    folder: Path

    @property
    def authority(self) -> Path:
        """What a client checks the server's certificate against, and the server its clients'."""
        return self.folder / "ca.pem"

    @property
    def server(self) -> Path:
        """The server's key and certificate, in one file."""
        return self.folder / "server.pem"

    @property
    def client(self) -> Path:
        """A client's certificate."""
        return self.folder / "client.pem"

    @property
    def client_key(self) -> Path:
        """Its key, under the password it was made with."""
        return self.folder / "client.key"

    def make(self, key_password: str) -> None:
        """Make them, unless they are there."""
        if self.client_key.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.authority)
        server = authority.issue_cert(HOST)
        key = _key(server, serialization.NoEncryption())
        write_private(self.server, key + "".join(blob.bytes().decode() for blob in server.cert_chain_pems))
        client = authority.issue_cert("client.sieis.test")  # Java takes none without a name
        self.client.write_bytes(client.cert_chain_pems[0].bytes())
        secret = serialization.BestAvailableEncryption(key_password.encode())
        write_private(self.client_key, _key(client, secret))  # last: then all are there


def _key(certificate: trustme.LeafCert, encryption: serialization.KeySerializationEncryption) -> str:
    """The key as PKCS 8, the only form Kafka reads."""
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption).decode()
