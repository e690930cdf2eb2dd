"""The documentation: its links, repeated sentences, and a reference and docstrings that cover every public name."""

import importlib
import inspect
import re
from collections import Counter

import pytest
from conftest import PROJECT

import cifar_lightning
from cifar_lightning.data.cifar10 import ARCHIVES
from cifar_lightning.data.download import MIRROR_VARIABLE

DOCUMENTS = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob("findings/*.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", re.MULTILINE)


def prose(document):
    """Returns the text of a document without code, in which brackets are not links."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`", lambda code: re.sub(r"[\[\]()]", "", code[0]), text)


def anchors(document):
    """Returns the anchors of a document's headings, as GitHub and MyST make them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found[anchor] = found.get(anchor, -1) + 1
        if found[anchor]:
            found[f"{anchor}-{found[anchor]}"] = 0
    return set(found)


def broken(document):
    """Returns the links of a document to files and headings that do not exist."""
    links = [one or other for one, other in LINK.findall(prose(document))]
    lost = []
    for link in links:
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", path):  # on another machine
            continue
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    return lost


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_links_of_a_document_have_targets(document):
    assert broken(document) == []


def test_broken_finds_links_without_a_target(tmp_path):
    (tmp_path / "other.md").write_text("# The `fit(x)` of [it](b)\n# Twice\n# Twice\n```\n# Code\n```\n")
    (tmp_path / "page.md").write_text(
        "[a](other.md) [b](gone.md) [c](other.md#the-fitx-of-it) [d](other.md#twice-1) [e](other.md#twice-2) `[f](x)`\n"
        "[g](https://example.com/gone) [h](#here) [i](other.md#code)\n[j]: lost.md\n## Here\n```\n[k](y)\n```\n"
    )
    assert broken(tmp_path / "page.md") == ["gone.md", "other.md#twice-2", "other.md#code", "lost.md"]


def repeated(text):
    """Returns the sentences that a page has more than once, outside code, headings and tables."""
    text = re.sub(r"^(```.*?^```|#.*?|\|.*?)$", "\n", text, flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"\n\s*\n|\n\s*[-*] |[.:?!]\s", text)
    sentences = Counter(" ".join(part.split()) for part in parts)
    return [sentence for sentence, count in sentences.items() if count > 1 and len(sentence) >= 70]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_a_page_repeats_no_long_sentence(document):
    assert repeated(document.read_text()) == []


def test_repeated_finds_a_long_sentence_that_stands_twice():
    long = "This sentence, which tells of 0.5 things in `one.py` or two,{}is longer than seventy letters"
    text = f"{long.format(' ')}. And more.\n\nShort.\n\n- {long.format(chr(10))}: short.\n\n```\n{long}\n{long}\n```\n"
    assert repeated(text) == [long.format(" ")]


def test_the_reference_lists_every_public_name_and_only_existing_ones():
    text = (PROJECT / "docs" / "reference.md").read_text()
    names = re.findall(r"^\.\. auto\w+:: (\S+)$", text, re.MULTILINE)
    public, others = ([name for name in names if ("." in name) == dotted] for dotted in (False, True))
    assert sorted(public) == sorted(cifar_lightning.__all__)
    for module, _, name in (other.rpartition(".") for other in others):
        assert hasattr(importlib.import_module(module), name)


def test_every_answer_of_the_faq_ends_in_code():
    """Every answer of docs/faq.md ends in a block of bash or Python; test_readme.py runs them."""
    answers = re.split(r"^## ", (PROJECT / "docs" / "faq.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(answers) == 17
    for answer in answers:
        assert re.search(r"```(bash|python)\n[^`]+```\s*$", answer), answer


def test_the_faq_lists_the_addresses_of_the_download():
    """The answer lists the download's addresses in the order in which they are tried, and the mirror variable."""
    answer = (PROJECT / "docs" / "faq.md").read_text().partition("## The download is slow")[2].partition("\n## ")[0]
    asked = [url.partition("?")[0] for url in ARCHIVES["cifar10"].urls]
    assert re.findall(r"^- <(.*)>$", answer, re.MULTILINE) == asked
    assert f"`{MIRROR_VARIABLE}`" in answer


def test_every_page_is_in_the_index():
    """docs/index.md lists every page; Sphinx checks this too, but the tests do not need Sphinx."""
    index = (PROJECT / "docs" / "index.md").read_text()
    pages = {path.stem for path in (PROJECT / "docs").glob("*.md")} - {"index"}
    assert pages == set(re.findall(r"^([\w.-]+)$", index, re.MULTILINE))


def test_the_users_program_uses_every_public_name():
    """tests/user.py uses every public name, so that mypy and pyright check each of them: see .ci/wheel."""
    program = (PROJECT / "tests" / "user.py").read_text()
    assert [name for name in cifar_lightning.__all__ if len(re.findall(rf"\b{name}\b", program)) < 2] == []


def public_callables():
    """Yields public functions, classes and their methods, except methods that another library defines and documents."""
    for name in cifar_lightning.__all__:
        public = getattr(cifar_lightning, name)
        if inspect.isfunction(public):
            yield name, public
        elif inspect.isclass(public) and not issubclass(public, Exception):  # exceptions take a message
            yield name, public
            others = [base for base in public.__mro__ if not base.__module__.startswith("cifar_lightning.")]
            for method, function in inspect.getmembers(public, inspect.isfunction):
                if not method.startswith("_") and not any(method in vars(base) for base in others):
                    yield f"{name}.{method}", function


CALLABLES = dict(public_callables())


@pytest.mark.parametrize("name", CALLABLES)
def test_a_public_docstring_is_complete(name):
    """A public docstring describes each argument in order, and what a function with arguments returns."""
    doc = inspect.getdoc(CALLABLES[name]) or ""
    signature = inspect.signature(CALLABLES[name])
    arguments = [argument for argument in signature.parameters if argument != "self"]
    section = re.search(r"^Args:\n(.*?)(\n\n|\Z)", doc, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^    \*{0,2}(\w+): ", section[1] if section else "", re.MULTILINE) == arguments
    if arguments and inspect.isfunction(CALLABLES[name]) and signature.return_annotation not in (None, "None"):
        assert "\nReturns:\n" in doc
