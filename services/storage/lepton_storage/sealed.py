"""Reading an encrypted object by ranges of its plain bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lepton_storage.encryption import HEADER_BYTES, TAG_BYTES, Header, SealBrokenError
from lepton_storage.errors import ObjectCorrupt
from lepton_storage.keys import Keyring
from lepton_storage.ports import StoredObject
from lepton_storage.records import Blob


class SealedReader:
    """An object whose end was authenticated, open for reading. Blocks: use a thread."""

    def __init__(self, source: StoredObject, keys: Keyring, blob: Blob) -> None:
        """Authenticates the header and the last segment, hence the length.

        Raises:
            ObjectCorrupt: The object was changed, cut off or swapped.
            KeyDestroyed: Its key was.
        """
        self._source = source
        with _corrupt(blob):
            header = Header.decode(source.read(0, HEADER_BYTES))
            if header.size != blob.size_bytes or header.sealed_size != source.size:
                raise SealBrokenError("its length is not what was stored")
            self._blob = blob
            self._cipher = keys.cipher(header, blob.workspace, blob.id)
            self._last = header.segments - 1
            self._last_plain = self._open(self._last)

    def pieces(self, offset: int, end: int) -> Iterator[bytes]:
        """Plain bytes from ``offset`` to before ``end``, each piece from one segment.

        Raises ObjectCorrupt at the first piece that does not authenticate.
        """
        while offset < end:
            number, skip = divmod(offset, self._cipher.header.segment_bytes)
            plain = self._last_plain if number == self._last else self._open(number)
            piece = plain[skip : skip + end - offset]
            yield piece
            offset += len(piece)

    def _open(self, number: int) -> bytes:
        header = self._cipher.header
        with _corrupt(self._blob):
            return self._cipher.open(
                number,
                self._source.read(
                    header.sealed_offset(number), header.plain_length(number) + TAG_BYTES
                ),
            )


@contextmanager
def _corrupt(blob: Blob) -> Iterator[None]:
    try:
        yield
    except SealBrokenError as error:
        raise ObjectCorrupt(
            f"the stored bytes with SHA-256 {blob.sha256} are damaged ({error}); restore object "
            f"{blob.id} from a backup or upload the file again",
            object=blob.id,
            sha256=blob.sha256,
        ) from error
