"""The documentation as a site: `sphinx-build -W docs site`, with the extra `docs`."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

import cifar_lightning
from cifar_lightning import commands

DOCS = Path(__file__).parent
# Texts of the project's own folder, and the pages that include them.
PAGES = {
    DOCS.parent / "README.md": "index.md",
    DOCS.parent / "CHANGELOG.md": "changelog.md",
    DOCS.parent / "CONTRIBUTING.md": "contributing.md",
}

project = "cifar_lightning"
version = release = cifar_lightning.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]

html_theme = "furo"
html_title = f"cifar_lightning {release}"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = html_show_copyright = html_show_sphinx = False
smartquotes = False  # `--flag` has no dash
highlight_language = "text"  # of commands, most of which have no language beside them
copybutton_prompt_text, copybutton_prompt_is_regexp = r">>> |\.\.\. ", True

myst_heading_anchors = 4  # `#a-heading`, as on GitHub

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_typehints_description_target = "documented_params"  # and what is returned, where that is not None
autodoc_preserve_defaults = True
maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]  # a list: each as an entry of its own would be there twice


class Commands(Directive):
    """`{commands}`: what each command says to --help, a section each."""

    def run(self) -> list[nodes.Node]:
        """The sections."""
        return [_section(name) for name in commands.NAMES]


def _section(name: str) -> nodes.section:
    ask = [sys.executable, "-m", "cifar_lightning", name, "--help"]
    said = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
    block = nodes.literal_block(said, said, language="text", classes=["help"])
    return nodes.section("", nodes.title(name, name), block, ids=[name], names=[name])


def _links(text: str, folder: Path) -> str:
    """Markdown whose relative links lead to pages and files of the site; to a folder, of which it has none, nowhere."""

    def link(match: re.Match[str]) -> str:
        target = (folder / match["path"]).resolve()
        if target.is_dir():
            return match["text"]
        path = PAGES.get(target) or os.path.relpath(target, DOCS)
        return f"[{match['text']}]({path}{match['anchor']})"

    return re.sub(r"\[(?P<text>[^\[\]]*)\]\((?P<path>[^)#:\s]+)(?P<anchor>(#[^)\s]*)?)\)", link, text)


def _page_read(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = _links(source[0], DOCS)


def _include_read(app: Sphinx, path: Path, page: str, source: list[str]) -> None:
    source[0] = _links(source[0], (DOCS / path).resolve().parent)


def _docstring_read(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Our docstrings have Markdown's backticks: a public name in them becomes a link, and all else code."""
    if what == "data":  # a constant's stands where it is defined, which is not where the package has it from
        constant = name.rpartition(".")[2]
        home = f"cifar_lightning.{cifar_lightning._MODULE_OF[constant]}"
        lines[:] = ModuleAnalyzer.for_module(home).find_attr_docs()["", constant]

    def code(match: re.Match[str]) -> str:
        words = match[1]
        return f":py:obj:`~cifar_lightning.{words}`" if words in cifar_lightning.__all__ else f"``{words}``"

    lines[:] = re.sub(r"(?<!`)`([^`]+)`(?!`)", code, "\n".join(lines)).split("\n")


def _by_public_name(app: Sphinx, environment: Any, reference: Any, text: nodes.Element) -> nodes.Node | None:
    """Annotations name a class by its module, and the reference by the package."""
    module, _, name = reference.get("reftarget", "").rpartition(".")
    if not module.startswith("cifar_lightning.") or name not in cifar_lightning.__all__:
        return None
    resolve = environment.get_domain("py").resolve_xref
    found: nodes.Node | None = resolve(
        *(environment, reference["refdoc"], app.builder, "obj", f"cifar_lightning.{name}", reference, text)
    )
    return found


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.add_directive("commands", Commands)
    app.connect("source-read", _page_read)
    app.connect("include-read", _include_read)
    app.connect("autodoc-process-docstring", _docstring_read, priority=400)  # before napoleon's
    app.connect("missing-reference", _by_public_name)
