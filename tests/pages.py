"""Parses HTML pages for tests, and checks that a page is self-contained and can be opened anywhere."""

import base64
import re
from html.parser import HTMLParser

import numpy as np

VOID = {"meta", "link", "img", "input", "br"}
Z = 1.959963984540054


class Page(HTMLParser):
    """Parses a page, which must be well-formed, into elements: each has attributes, text and the elements around it."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes, empty=False):
        assert len(dict(attributes)) == len(attributes), attributes
        element = {"tag": tag, **dict(attributes), "text": "", "within": list(self.open)}
        self.elements.append(element)
        if not (empty or tag in VOID):
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes, empty=True)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, within=None, **attributes):
        found = [e for e in self.elements if e["tag"] == tag and attributes.items() <= e.items()]
        return [e for e in found if within is None or within in e["within"]]

    def one(self, tag, within=None, **attributes):
        (found,) = self.all(tag, within, **attributes)
        return found

    def rows(self, table):
        return [
            [
                " ".join(cell["text"].split())
                for cell in self.elements
                if cell["tag"] in ("th", "td") and row in cell["within"]
            ]
            for row in self.all("tr", table)
        ]


def assert_sound(page, size, text):
    """Checks that a page loads nothing, that its pictures have descriptions, and that its links lead somewhere."""
    assert size < 3_000_000
    assert not page.all("script")
    for element in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert element.get(name, "#").startswith(("#", "data:")), element
        if element["tag"] == "img":
            assert element["alt"]
            assert element["width"]
            assert element["height"]
        if element["tag"] == "figure":
            assert element["aria-label"]
        assert not any(name.startswith("on") for name in element), element
    assert "http" not in re.sub(r'http-equiv|"data:[^"]*"', "", text)
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    ids = [element["id"] for element in page.elements if "id" in element]
    assert len(ids) == len(set(ids))
    led_to = {e[name][1:] for e in page.elements for name in ("href", "xlink:href") if e.get(name, "").startswith("#")}
    assert led_to <= set(ids)
    assert page.one("html")["lang"] == "en"
    assert page.one("title")["text"]
    assert page.all("meta", name="viewport")


def percent(share, digits=2):
    return f"{100 * share:.{digits}f} %"


def interval(right, images):
    """Returns Wilson's 95 % interval, as the roots of (p - share)² = z² p (1 - p) / n."""
    share, z2 = right / images, Z**2 / images
    low, high = sorted(np.roots([1 + z2, -(2 * share + z2), share**2]))
    return low, high


def plain(text):
    return " ".join(text.split())


def bytes_of(picture):
    return base64.b64decode(picture["src"].removeprefix("data:image/png;base64,"))
