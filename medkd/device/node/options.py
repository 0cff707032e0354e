"""Options: how a node listens, whom it listens to, and where its answers go."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from medkd.errors import ConfigError
from medkd.options import Count, NotNegative, Options, Positive
from medkd.types import Runtime

PEER = re.compile(r"(?P<title>[!-~]{1,16})@(?P<host>[\w.:-]+):(?P<port>\d{1,5})")
Port = Annotated[int, Field(ge=1, lt=65536)]


@dataclass(frozen=True)
class Peer:
    """Another node.

    Attributes:
        title: its application entity title.
        host: name or address.
        port: of its listener.
    """

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Peer":
        """Read ``TITLE@HOST:PORT``.

        Raises:
            ConfigError: it is none.

        Example:
            >>> Peer.parse("ORTHANC@127.0.0.1:4242")
            Peer(title='ORTHANC', host='127.0.0.1', port=4242)
        """
        found = PEER.fullmatch(text)
        if not found or not 0 < int(found["port"]) < 65536:
            raise ConfigError(f"{text!r} is no peer; give TITLE@HOST:PORT")
        try:
            found["host"].encode("idna")  # as when it is called
        except UnicodeError:
            raise ConfigError(
                f"{text!r} is no peer: a host's name has 1 to 63 characters between its dots; "
                f"give TITLE@HOST:PORT"
            ) from None
        return cls(found["title"], found["host"], int(found["port"]))


class NodeOptions(Options):
    """How a node works."""

    spool: Path  # the folder of its queue
    peer: Peer  # gets the answers
    title: Annotated[str, Field(pattern=r"^[!-~]{1,16}$")] = (
        "MEDKD"  # calls for others are rejected
    )
    host: str = "127.0.0.1"  # it listens on
    port: Port = 11112  # for DICOM
    health_port: Annotated[int, Field(ge=0, lt=65536)] = 8080  # for GET /health; 0 for none
    allow: tuple[str, ...] = ()  # titles that may call; any if empty, which only loopback permits
    quiet_s: NotNegative = 10  # from the release of a series' association until it is complete
    patience_s: NotNegative = 300  # the same from its last object, where the association broke off
    keep_s: NotNegative = 3600  # images and answers are kept once they are answered and sent
    keep_unanswered_s: NotNegative = 30 * 86400  # images that wait or failed, in half of the queue
    remember_s: NotNegative = 30 * 86400  # which images a series had, so that late ones are told
    object_mib: Positive = 256  # largest object; it takes twice that of memory while it arrives
    associations: Count = 4  # at once, each with an object; further ones are rejected for now
    spool_gib: Positive = 20  # largest queue
    strict: bool = False  # images unlike the validated data are not answered
    runtime: Runtime | None = None  # the fastest here if null

    @model_validator(mode="after")
    def _others_are_named(self) -> "NodeOptions":
        if not self.allow and not self._is_loopback:
            raise ValueError(
                f"host {self.host} lets other machines call; say which with --allow TITLE"
            )
        return self

    @property
    def object_bytes(self) -> int:
        """Size of the largest object."""
        return int(self.object_mib * 2**20)

    @property
    def spool_bytes(self) -> int:
        """Size of the largest queue."""
        return int(self.spool_gib * 2**30)

    @property
    def _is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def node_options(given: Mapping[str, Any], overrides: Sequence[str]) -> NodeOptions:
    """Return a node's options, with further ones as ``KEY=VALUE``.

    Raises:
        ConfigError: a key is unknown, or a value is none for it; all are listed.
    """
    values = dict(given)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: write KEY=VALUE")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:  # no YAML, or no such day
            raise ConfigError(f"--set {text}: the value is not valid YAML: {error}") from None
    try:
        return NodeOptions.model_validate(values)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, e['loc'])) or 'node'}: {e['msg']}" for e in error.errors()]
        known = ", ".join(NodeOptions.model_fields)
        raise ConfigError(f"{'; '.join(told)}; known: {known}") from None
