"""What the S3 servers have in common: credentials, health, the variables of SIEIS.

Belongs here: that. Not here: a particular server.
"""

from typing import Final

import httpx

from tools.services.servers import s3
from tools.services.servers.base import NotReadyError, Place, Server, new_secret

#: Where archive and marts are on a server of ours, as in docker-compose.yml.
BUCKETS: Final = {"SIEIS_ARCHIVE_URI": "s3://sieis-archive/readings", "SIEIS_MARTS_URI": "s3://sieis-marts/tables"}


class S3Server(Server):
    """Credentials: access_key, secret_key."""

    def new_credentials(self) -> dict[str, str]:
        """One identity that may do everything."""
        return {"access_key": "sieis", "secret_key": new_secret()}

    def check(self, place: Place) -> None:
        """List the buckets, signed."""
        try:
            answer = s3.request("GET", self.address(place), "/", place.credentials)
        except httpx.HTTPError as error:
            raise NotReadyError(str(error)) from error
        if answer.status_code != 200:
            raise NotReadyError(f"listing the buckets answers {answer.status_code}")

    def address(self, place: Place) -> str:
        """Its URL."""
        return f"http://{place.address}"

    def settings(self, place: Place) -> dict[str, str]:
        """Endpoint, keys, and the buckets `sieis setup` makes."""
        return {
            "SIEIS_S3_ENDPOINT_URL": self.address(place),
            "SIEIS_S3_ACCESS_KEY_ID": place.credentials["access_key"],
            "SIEIS_S3_SECRET_ACCESS_KEY": place.credentials["secret_key"],
            "SIEIS_S3_ALLOW_HTTP": "true",
            **BUCKETS,
        }
