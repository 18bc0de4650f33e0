"""The images of a form (multipart/form-data), read from a body that is in memory already."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from kcv.common.text import printable, shortened
from kcv.serving.problems import Problem

_MOST_FIELDS = 20
_MOST_FIELD_BYTES = 1000


class _InMemory(MultiPartParser):
    """Never writes a part to disk: the whole body is within the limits, and in memory."""

    spool_max_size = sys.maxsize

    def close(self) -> None:
        """Closes all files, those of parts without an end as well."""
        for file in self._files_to_close_on_error:
            file.close()


async def images_of_form(body: bytes, content_type: str, most: int) -> tuple[list[str], list[bytes]]:
    """Returns the names and the contents of the files in a form.

    Args:
        body: the form.
        content_type: its media type, with the boundary.
        most: the most files.

    Raises:
        Problem: 400, the form is damaged, or has no file or too many; 415, forms cannot be read here.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    if not content_type.lower().startswith("multipart/form-data"):
        raise Problem(415, "of the multipart types only multipart/form-data is read.")
    headers = Headers({"content-type": content_type})
    parser = None
    try:
        parser = _InMemory(headers, stream(), max_files=most, max_fields=_MOST_FIELDS, max_part_size=_MOST_FIELD_BYTES)
        form: Any = await parser.parse()
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        names = [shortened(printable(file.filename or "")) for file in files]
        contents = [file.file.read() for file in files]
    except MultiPartException as error:
        raise Problem(400, f"the form is damaged: {error.message}") from None
    except AssertionError:
        raise Problem(415, "forms need python-multipart: pip install 'kcv[serve]'; or send one image alone.") from None
    except Exception as error:  # the parser lets errors of headers and texts through
        raise Problem(400, f"the form is damaged ({type(error).__name__}).") from None
    finally:
        if parser is not None:
            parser.close()
    if not files:
        raise Problem(400, "the form holds no file.")
    return names, contents
