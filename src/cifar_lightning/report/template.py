"""Pages that are one file each and ask nothing of the network; base.html has the looks that they share."""

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
    """The file of a page that a user asks for, which can be written; `name` is such as one might have.

    Raises:
        InputError: It is a folder, or in one that cannot be written; or it is called otherwise than a page.
    """
    page = user_path(html)
    if os.path.isdir(page):
        raise InputError(f"html {quoted(str(html))} is a folder: give a file, such as {page / name}")
    if page.suffix.lower() not in (".html", ".htm"):  # of `--html *.jpg` it is the first picture
        raise InputError(f"html {quoted(str(html))} is no .html file: give one, such as {name}")
    if why := why_unwritable(page.parent):
        raise InputError(f"html {page} cannot be written ({why}): give another")
    return page


def write_html(template: str, contents: Mapping[str, Any], page: Path) -> None:
    """Writes a page: a template, by the name of its file beside this one, and the contents that it places."""
    import jinja2  # not before: not every process draws

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
    write_atomically(page, lambda file: file.write(text.encode(errors="replace")))  # a file's name may be no text


def png(image: Image.Image, **options: Any) -> str:
    """An image as the page holds it, a data URI."""
    stream = io.BytesIO()
    image.save(stream, "png", **options)
    return uri(stream.getvalue())


def uri(content: bytes) -> str:
    """Likewise of the content of a .png file."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def percent(share: float | None, digits: int = 2) -> str:
    """A share as a page has it."""
    return console.percent(share, digits).replace(" ", "\N{NO-BREAK SPACE}")
