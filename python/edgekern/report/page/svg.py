"""Charts that stand in a page as its own text: themed by its style sheet, with no address in them."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from markupsafe import Markup

from ...figures import COLOURS, INK, MUTED, PAPER, RULE

# What each colour of figures.py is called in page.css, where light and dark give it a value.
_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "card"} | {
    colour: f"series-{i}" for i, colour in enumerate(COLOURS)
}
_COLOUR = re.compile("|".join(_VARIABLES), re.IGNORECASE)
_DROPPED = ("metadata", "style")  # the first holds addresses, the second is in page.css


def inline_svg(document: str, name: str, label: str) -> Markup:
    """An SVG document as matplotlib writes it, as an element of an HTML page.

    Args:
        document: the text of the file.
        name: of the chart; ids begin with it, since a page has many charts.
        label: what a reader is told who does not see it.
    """
    root = ElementTree.fromstring(document)
    for parent in list(root.iter()):
        for child in list(parent):
            if _plain(child.tag) in _DROPPED:
                parent.remove(child)
    for element in root.iter():
        element.tag = _plain(element.tag)
        element.attrib = {_plain(key): _own(_plain(key), value, name) for key, value in element.attrib.items()}
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _plain(name: str) -> str:
    """A name without its namespace, which HTML knows by itself."""
    return name.rpartition("}")[2]


def _own(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    if key == "clip-path":
        return value.replace("url(#", f"url(#{name}-")
    if key == "style":
        return _COLOUR.sub(lambda found: f"var(--{_VARIABLES[found[0].lower()]})", value)
    return value
