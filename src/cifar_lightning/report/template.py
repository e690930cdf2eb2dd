"""Pages that are one file each and load nothing from the network; base.html has the style that they share."""

import base64
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from cifar_lightning import console, stop
from cifar_lightning.errors import InputError, quoted
from cifar_lightning.files import user_path, why_unwritable, write_atomically


def page_at(html: str | Path, name: str) -> Path:
    """Returns the path of a page that a user asks for, checked to be writable; `name` is an example for messages.

    Raises:
        InputError: It is a folder, or in a folder that cannot be written to; or its name is not that of an HTML file.
    """
    page = user_path(html)
    if os.path.isdir(page):
        raise InputError(f"html {quoted(str(html))} is a folder: use a file name, such as {page / name}")
    if page.suffix.lower() not in (".html", ".htm"):  # for `--html *.jpg` it would be the first picture
        raise InputError(f"html {quoted(str(html))} is not an .html file: use a name such as {name}")
    if why := why_unwritable(page.parent):
        raise InputError(f"html {page} cannot be written ({why}): choose another path")
    return page


def write_html(template: str, contents: Mapping[str, Any], page: Path) -> None:
    """Writes a page from a template, the name of a file beside this one, and its contents."""
    import jinja2  # imported late: not every process draws

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, decimal=console.decimal)
    text = environment.get_template(template).render(contents)
    stop.raise_if_requested()
    write_atomically(page, text.encode(errors="replace"))  # a file's name may be no valid text


def png(image: Image.Image, **options: Any) -> str:
    """Encodes an image as a data URI for a page."""
    stream = io.BytesIO()
    image.save(stream, "png", **options)
    return uri(stream.getvalue())


def uri(content: bytes) -> str:
    """Encodes the content of a .png file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def percent(share: float | None, digits: int = 2) -> str:
    """Formats a share for a page, with a no-break space."""
    return console.percent(share, digits).replace(" ", "\N{NO-BREAK SPACE}")
