"""Variables of other programs that the libraries of the object store would take for options, put out of their reach.

Belongs here: which those are. Not here: our own settings, which alone say where S3 is, as whom and how.

Explicit options do not suffice. deltalake, Polars and obstore each fill in from the environment what they were not
given, and some of it cannot be given as "none": an empty session token is sent as a header, AWS_ENDPOINT_URL_S3 wins
over an endpoint that was given.
"""

import os
from typing import Final

_PREFIX: Final = "AWS_"
#: The names that deltalake understands without the prefix (object_store: AmazonS3ConfigKey, ClientConfigKey), but for
#: those that s3.storage_options always gives.
_SHORT: Final = frozenset(
    {
        *("TOKEN", "SESSION_TOKEN", "ENDPOINT", "ENDPOINT_URL", "METADATA_ENDPOINT", "IMDSV1_FALLBACK"),
        *("SKIP_SIGNATURE", "UNSIGNED_PAYLOAD", "CHECKSUM_ALGORITHM", "S3_EXPRESS", "REQUEST_PAYER", "DISABLE_TAGGING"),
        *("COPY_IF_NOT_EXISTS", "PROXY_URL", "PROXY_CA_CERTIFICATE", "PROXY_EXCLUDES", "ALLOW_INVALID_CERTIFICATES"),
        *("HTTP1_ONLY", "HTTP2_ONLY", "USER_AGENT", "DEFAULT_CONTENT_TYPE", "RANDOMIZE_ADDRESSES"),
    }
)


def forget() -> None:
    """Remove them from the environment of this process and of those it starts.

    To be called before the libraries have threads, which read the environment without a lock (see telemetry.silence);
    where there are none of them it changes nothing.
    """
    for name in [name for name in os.environ if name.upper().startswith(_PREFIX) or name.upper() in _SHORT]:
        del os.environ[name]
