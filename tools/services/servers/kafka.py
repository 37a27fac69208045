"""Kafka in KRaft mode, brokers that are their own controllers, from Maven's jars.

Belongs here: its install, its properties and its health. Topics are made by `sieis setup`.
"""

import base64
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,  # pyright: ignore[reportPrivateImportUsage] - the documented place of these three
    ScramMechanism,  # pyright: ignore[reportPrivateImportUsage]
    UserScramCredentialUpsertion,  # pyright: ignore[reportPrivateImportUsage]
)

from tools.services.cache import Build
from tools.services.processes import run
from tools.services.servers.base import HOST, Launch, NotReadyError, Place, Server, new_secret
from tools.services.tls import Certificates
from tools.services.toolchain import JAVA, MAVEN, require

_LOG4J: Final = "2.25.1"
_CHECK_SECONDS: Final = 3.0
_FIRST_USE_SECONDS: Final = 20.0
_SCRAM_ITERATIONS: Final = 4096  # the least Kafka takes

_POM: Final = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>sieis</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{kafka}</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>{log4j}</version></dependency>
  </dependencies>
</project>
"""

_LOGGING: Final = """status=warn
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %m (%c)%n
rootLogger.level=info
rootLogger.appenderRef.out.ref=out
"""


@dataclass(frozen=True)
class Membership:
    """Which broker of a cluster one is; `controllers` are the ports at which all of them vote, by node."""

    node: int
    controllers: Mapping[int, int]
    cluster: str

    @classmethod
    def of(cls, controllers: Mapping[int, int]) -> list["Membership"]:
        """Of each broker of a new cluster."""
        cluster = _identifier()
        return [cls(node, controllers, cluster) for node in controllers]


@dataclass(frozen=True)
class Kafka(Server):
    """A broker, alone where it has no membership.

    Ports: main, controller, behind (the listener a toxiproxy forwards to) and proxied (where that proxy listens).

    Kafka tells its clients which address to use next, so a proxy before it needs a listener that advertises the proxy.
    Two more speak TLS: ssl asks for a client's certificate, sasl_ssl for user and password (SCRAM-SHA-512). Who comes
    in plainly may do anything; others may where no access rule (ACL) says otherwise.
    """

    name = "kafka"
    version: ClassVar[str] = "4.3.1"
    port_names: ClassVar[Sequence[str]] = ("main", "controller", "behind", "proxied", "ssl", "sasl_ssl")
    membership: Membership | None = None

    def new_credentials(self) -> dict[str, str]:
        """`user` and `password` of the listener sasl_ssl; `key_password` of the client certificate's key."""
        return {"user": "sieis", "password": new_secret(), "key_password": new_secret()}

    def build(self, build: Build) -> None:
        """Let Maven copy the jars."""
        require([JAVA, MAVEN], build.apt)
        (build.directory / "pom.xml").write_text(_POM.format(kafka=self.version, log4j=_LOG4J))
        build.run(["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs"])

    def prepare(self, place: Place) -> None:
        """Write the properties and certificates; format the storage once."""
        certificates(place).make(place.credentials["key_password"])
        logging = place.folder / "log4j2.properties"
        logging.write_text(_LOGGING)
        properties = place.folder / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties(place).items()))
        if not (place.data / "meta.properties").exists():
            tool = [
                *_java(place),
                "kafka.tools.StorageTool",
                "format",
                f"--cluster-id={self._member(place).cluster}",
                "-c",
                str(properties),
            ]
            run(tool, place.folder / "format.log")

    def launch(self, place: Place) -> Launch:
        """The broker, with a heap that is enough for tests."""
        return Launch([*_java(place, "-Xmx512m"), "kafka.Kafka", str(place.folder / "server.properties")])

    def check(self, place: Place) -> None:
        """Ask for the cluster's metadata."""
        try:
            # A client of its own each time: librdkafka would otherwise back off while the broker starts.
            client = AdminClient({"bootstrap.servers": place.address, "log_level": 0})
            metadata = client.list_topics(timeout=_CHECK_SECONDS)
        except KafkaException as error:
            raise NotReadyError(str(error)) from error
        if self._member(place).node not in metadata.brokers:
            raise NotReadyError("the broker has not registered with its controller")

    def first_use(self, place: Place) -> None:
        """Make the user of the listener sasl_ssl; waits until the broker knows it.

        Not while the storage is formatted: there the password would stand in a command line.
        """
        admin = AdminClient({"bootstrap.servers": place.address, "log_level": 0})
        user, secret = place.credentials["user"], place.credentials["password"]
        scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _SCRAM_ITERATIONS)
        change = UserScramCredentialUpsertion(user, scram, secret.encode())
        admin.alter_user_scram_credentials([change])[user].result(_FIRST_USE_SECONDS)

    def settings(self, place: Place) -> dict[str, str]:
        """The bootstrap address."""
        return {"SIEIS_KAFKA_BOOTSTRAP": place.address}

    def _member(self, place: Place) -> Membership:
        return self.membership or Membership.of({1: place.ports["controller"]})[0]

    def _properties(self, place: Place) -> dict[str, object]:
        ports = place.ports
        member = self._member(place)
        copies = min(3, len(member.controllers))
        pem = certificates(place)
        listeners = {"PLAINTEXT": ports["main"], "CONTROLLER": ports["controller"], "PROXIED": ports["behind"]}
        secured = {"SSL": ports["ssl"], "SASL_SSL": ports["sasl_ssl"]}
        advertised = {"PLAINTEXT": ports["main"], "PROXIED": ports["proxied"], **secured}
        protocols = dict.fromkeys(listeners, "PLAINTEXT") | {name: name for name in secured}
        listeners |= secured
        return {
            "process.roles": "broker,controller",
            "node.id": member.node,
            "controller.quorum.voters": ",".join(f"{node}@{HOST}:{port}" for node, port in member.controllers.items()),
            "controller.listener.names": "CONTROLLER",
            "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in listeners.items()),
            "advertised.listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in advertised.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": pem.server,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": pem.authority,
            "listener.name.ssl.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
            "super.users": "User:ANONYMOUS",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": place.data,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": (copies + 1) // 2,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": (copies + 1) // 2,
            "group.initial.rebalance.delay.ms": 0,
            # The default of 50 makes every start after a SIGKILL wait for 50 logs to be recovered.
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.num.partitions": 4,
            # A broker killed and started again is let in only when its former session (9 s by default) has ended.
            "broker.session.timeout.ms": 4000,
            "broker.heartbeat.interval.ms": 500,
            # Who is back leads again in seconds, not minutes.
            "leader.imbalance.check.interval.seconds": 5,
            # A topic that is there because somebody asked for it hides that nobody made it.
            "auto.create.topics.enable": "false",
            # So that a drill can let a member or a record expire in seconds rather than minutes.
            "group.min.session.timeout.ms": 1000,
            "log.retention.check.interval.ms": 1000,
            "log.initial.task.delay.ms": 1000,
            "log.segment.delete.delay.ms": 1000,
        }


def secured_settings(place: Place, protocol: Literal["ssl", "sasl_ssl"]) -> dict[str, str]:
    """The SIEIS_* variables that make SIEIS use that broker over TLS; secrets among them."""
    pem, secrets = certificates(place), place.credentials
    own = {
        "SIEIS_KAFKA_BOOTSTRAP": f"{HOST}:{place.ports[protocol]}",
        "SIEIS_KAFKA_SECURITY_PROTOCOL": protocol,
        "SIEIS_KAFKA_SSL_CA_LOCATION": str(pem.authority),
    }
    if protocol == "ssl":
        return own | {
            "SIEIS_KAFKA_SSL_CERTIFICATE_LOCATION": str(pem.client),
            "SIEIS_KAFKA_SSL_KEY_LOCATION": str(pem.client_key),
            "SIEIS_KAFKA_SSL_KEY_PASSWORD": secrets["key_password"],
        }
    return own | {"SIEIS_KAFKA_SASL_USERNAME": secrets["user"], "SIEIS_KAFKA_SASL_PASSWORD": secrets["password"]}


def certificates(place: Place) -> Certificates:
    """The certificates of that instance and its clients."""
    return Certificates(place.folder / "tls")


def _identifier() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _java(place: Place, *options: str) -> list[str]:
    logging = f"-Dlog4j2.configurationFile={place.folder / 'log4j2.properties'}"
    return ["java", *options, logging, "-cp", f"{place.home}/libs/*"]
