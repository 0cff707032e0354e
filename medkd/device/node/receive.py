"""Receive: C-ECHO and C-STORE; an object is acknowledged once it is on the disk."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import uid

from medkd.data.dicom.header import read_encoded
from medkd.device.dicom.source import quietly
from medkd.device.node.log import log
from medkd.device.node.options import NodeOptions
from medkd.device.node.spool import Spool, SpoolFullError, key_of

# status codes of PS3.4 B.2.3 and PS3.7 C
SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
PDU_BYTES, MOST_PDU_BYTES = 2**17, 2**20  # that senders are asked for, and that are taken
IMAGES = (  # storage classes that a network may have been made for
    *("CTImageStorage", "EnhancedCTImageStorage", "MRImageStorage", "EnhancedMRImageStorage"),
    *("PositronEmissionTomographyImageStorage", "EnhancedPETImageStorage"),
    *("NuclearMedicineImageStorage", "ComputedRadiographyImageStorage"),
    *("DigitalXRayImageStorageForPresentation", "DigitalXRayImageStorageForProcessing"),
    "DigitalMammographyXRayImageStorageForPresentation",
    *("UltrasoundImageStorage", "UltrasoundMultiFrameImageStorage"),
    *("SecondaryCaptureImageStorage", "MultiFrameTrueColorSecondaryCaptureImageStorage"),
    "MultiFrameGrayscaleByteSecondaryCaptureImageStorage",
    *("XRayAngiographicImageStorage", "VLPhotographicImageStorage", "VLEndoscopicImageStorage"),
    *("OphthalmicPhotography8BitImageStorage", "OphthalmicTomographyImageStorage"),
)
SYNTAXES = (  # that pixels are decoded from; a deflated object may unpack to any size
    *(uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian),
    *(uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1),
    *(uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.JPEG2000Lossless, uid.JPEG2000),
    uid.RLELossless,
)


@dataclass
class _Association:
    """What an open association has done.

    Attributes:
        series: that it has sent objects of; or studies.
        refused: its objects that were not kept.
        unfinished: series that others left unfinished since it began, so that it does not make up
            for them: it may be another part of the same transfer.
        incoming: bytes of the object that is arriving.
    """

    series: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    unfinished: set[str] = field(default_factory=set)
    incoming: int = 0


class Receiver:
    """The listening half of a node."""

    def __init__(
        self,
        spool: Spool,
        options: NodeOptions,
        *,
        memory_bytes: int,
        together: str = "SeriesInstanceUID",
    ) -> None:
        """Make the half.

        Args:
            spool: keeps what comes.
            options: of the node.
            memory_bytes: that the attributes of an object may take.
            together: the UID that objects share which are answered together.
        """
        self._spool, self._options = spool, options
        self._memory_bytes, self._together = memory_bytes, together
        self._lock = threading.Lock()
        self._open: dict[int, _Association] = {}
        self._server: Any = None

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        from pynetdicom import AE, _config, evt, sop_class

        quietly()
        _config.LOG_HANDLER_LEVEL = "none"
        entity = AE(self._options.title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self._options.allow)
        entity.maximum_associations = self._options.associations
        entity.maximum_pdu_size = PDU_BYTES
        for name in ("Verification", *IMAGES):
            entity.add_supported_context(getattr(sop_class, name), list(SYNTAXES))
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_PDU_RECV, self._measure),
            (evt.EVT_PDU_RECV, self._finished),
            (evt.EVT_ABORTED, self._broken),
            (evt.EVT_CONN_CLOSE, self._broken),
            (evt.EVT_REJECTED, self._rejected),
        ]
        address = (self._options.host, self._options.port)
        self._server = entity.start_server(address, block=False, evt_handlers=handlers)

    def stop(self) -> None:
        """Stop listening; associations are aborted."""
        self._server.shutdown()
        self._server.server_close()

    def busy(self) -> set[str]:
        """Return the series that open associations have sent objects of."""
        with self._lock:
            return self._in_transfer()

    def _store(self, event: Any) -> int:  # noqa: ANN401
        status, uid = self._kept(event), str(event.request.AffectedSOPInstanceUID)
        with self._lock:
            refused = self._of(event).refused
            if status == SUCCESS:  # it may have been refused before
                refused.discard(uid)
            else:
                refused.add(uid)
        return status

    def _kept(self, event: Any) -> int:  # noqa: ANN401
        with self._lock:
            self._of(event).incoming = 0
        try:
            group_uid = self._group_uid(event)
            with self._lock:
                self._of(event).series.add(key_of(group_uid))
            content = event.encoded_dataset()
            self._spool.store(group_uid, event.request.AffectedSOPInstanceUID, content)
        except SpoolFullError:
            log("refused an object: the spool is full")
            return OUT_OF_RESOURCES
        except OSError as error:
            log(f"refused an object: {error.strerror}")
            return OUT_OF_RESOURCES
        except Exception as error:  # noqa: BLE001  whatever an object does to pydicom
            log(f"refused an object: not to be understood ({type(error).__name__})")
            return CANNOT_UNDERSTAND
        return SUCCESS

    def _group_uid(self, event: Any) -> str:  # noqa: ANN401
        """Return the UID of what an object belongs to.

        Raises:
            DataError: damaged, or harmful.
            ValueError: it does not say.
        """
        header = read_encoded(
            event.encoded_dataset(include_meta=False),
            event.context.transfer_syntax,
            up_to=self._together,
            memory_bytes=self._memory_bytes,
            name=Path("an object"),
        )
        if not (found := str(header.get(self._together, ""))):
            raise ValueError(f"no {self._together}")
        return found

    def _opened(self, event: Any) -> None:  # noqa: ANN401
        """Have a PDU that is too large end its connection: pynetdicom reads one of up to 4 GiB."""
        with self._lock:
            self._open[id(event.assoc)] = _Association()
        connection = event.assoc.dul.socket
        receive = connection.recv

        def guarded(size: int) -> bytearray:
            if size > MOST_PDU_BYTES:
                log(f"closed a connection: a PDU of {size} bytes")
                raise OSError
            return receive(size)

        connection.recv = guarded

    def _measure(self, event: Any) -> None:  # noqa: ANN401
        """Abort an association whose object is too large, before it fills the memory."""
        from pynetdicom.pdu import P_DATA_TF

        if not isinstance(event.pdu, P_DATA_TF):
            return
        with self._lock:
            association = self._of(event)
            association.incoming += event.pdu.pdu_length
        if association.incoming > self._options.object_bytes:
            log(
                f"aborted an association: an object of more than {self._options.object_bytes} bytes"
            )
            event.assoc.abort(block=False)

    def _finished(self, event: Any) -> None:  # noqa: ANN401
        """Note which series have come as a whole: no other association is in the middle of one.

        That is when the sender asks for the release, so that the reply finds it on the disk: who
        has that reply will not send again, whatever happens to this process.
        """
        from pynetdicom.pdu import A_RELEASE_RQ

        if not isinstance(event.pdu, A_RELEASE_RQ):
            return
        with self._lock:  # until it is noted, or another begins one meanwhile
            ended = self._forget(event)
            if ended.refused:  # the sender has finished, and we lack what was refused
                self._leave_unfinished(ended.series)
            else:
                whole = ended.series - ended.unfinished
                for each in self._open.values():
                    each.unfinished -= whole
                self._spool.release(whole - self._in_transfer())
        named = ", ".join(sorted(ended.series))
        if ended.refused:
            log(f"objects of an association were refused: {named}")
        elif ended.series:
            log(f"received {named}")

    def _broken(self, event: Any) -> None:  # noqa: ANN401
        with self._lock:
            ended = self._forget(event)
            self._leave_unfinished(ended.series)
        if ended.series:
            log(f"an association broke off in {', '.join(sorted(ended.series))}")

    def _of(self, event: Any) -> _Association:  # noqa: ANN401
        return self._open.get(id(event.assoc), _Association())

    def _forget(self, event: Any) -> _Association:  # noqa: ANN401
        return self._open.pop(id(event.assoc), _Association())

    def _in_transfer(self) -> set[str]:
        return set().union(*(each.series for each in self._open.values()))

    def _leave_unfinished(self, series: set[str]) -> None:
        """Let none that is open finish these series: only one that begins later, to send again."""
        for each in self._open.values():
            each.unfinished |= series

    def _rejected(self, event: Any) -> None:  # noqa: ANN401
        log(
            "rejected an association: its title is not allowed, it called another, or there are "
            "as many as may be"
        )
