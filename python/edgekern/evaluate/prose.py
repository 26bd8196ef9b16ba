"""Plain prose for language models: 93 articles of the English Wikipedia, from a sample that ships with gensim.

What is read off the pages are their paragraphs, without markup, tables, notes and lists, under a title in the manner of
WikiText. The articles are under CC BY-SA, so they are made when needed and not kept.
"""

from __future__ import annotations

import bz2
import html
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from .packages import package_path

_CARRIER = "gensim==4.4.0"
_FILE = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_LEAST_PARAGRAPH, _LEAST_ARTICLE = 80, 1500  # characters

_ANY = re.DOTALL | re.IGNORECASE
_BLOCKS = "math|gallery|table|timeline|code|pre|score|source|syntaxhighlight"
_BACK_MATTER = "See also|References|Notes|External links|Further reading|Bibliography|Sources|Footnotes"
_BEFORE_LINKS = [
    (re.compile(r"<!--.*?-->", re.DOTALL), ""),
    (re.compile(r"<ref[^>/]*/>"), ""),
    (re.compile(r"<ref[^>]*>.*?</ref>", _ANY), ""),
    (re.compile(rf"<({_BLOCKS})[^>]*>.*?</\1>", _ANY), ""),
]
_LINKS = [
    (re.compile(r"\[\[[^\]|]*\|([^\]]*)\]\]"), r"\1"),
    (re.compile(r"\[\[([^\]]*)\]\]"), r"\1"),
    (re.compile(r"\[https?://\S+\s+([^\]]*)\]"), r"\1"),
    (re.compile(r"\[?https?://\S+\]?"), ""),
    (re.compile(r"'{2,5}"), ""),
    (re.compile(r"<[^>]+>"), ""),
]
_FILE_LINK = re.compile(r"\[\[\s*(?:File|Image|Category|[a-z\-]{2,12}):", re.IGNORECASE)
_END = re.compile(rf"^==+\s*({_BACK_MATTER})\s*==+", re.MULTILINE | re.IGNORECASE)
_HEADING = re.compile(r"==+.*==+$")


def wikipedia_prose() -> str:
    """About 2.5 million characters; raises MissingDataError when gensim is absent. Takes some seconds."""
    articles = ((title, plain_text(markup)) for title, markup in _pages(package_path("gensim", _FILE, _CARRIER)))
    return "".join(f" = {title} = \n\n{text}\n\n" for title, text in articles if len(text) >= _LEAST_ARTICLE)


def plain_text(markup: str) -> str:
    """The paragraphs of a page in MediaWiki's markup, one a line: no headings, lists, tables, or short lines."""
    text = _replaced(markup, _BEFORE_LINKS)
    text = _without_file_links(_without_nested(_without_nested(text, "{{", "}}"), "{|", "|}"))
    text = html.unescape(html.unescape(_replaced(text, _LINKS))).replace("\xa0", " ")  # sources escape twice
    end = _END.search(text)
    lines = (line.strip() for line in text[: end.start() if end else None].split("\n"))
    prose = (line for line in lines if len(line) >= _LEAST_PARAGRAPH and line[0] not in "*#:;|!{}")
    return "\n".join(re.sub(r"\s+", " ", line) for line in prose if not _HEADING.match(line))


def _pages(path: Path) -> Iterator[tuple[str, str]]:
    """Title and markup of the articles in a dump, without redirects and other kinds of page."""
    found: dict[str, str] = {}
    with bz2.open(path, "rb") as file:
        for _, element in ElementTree.iterparse(file, events=("end",)):
            name = element.tag.rpartition("}")[2]
            if name in ("title", "ns", "text"):
                found[name] = element.text or ""
            elif name == "page":
                if found["ns"] == "0" and not re.match(r"\s*#redirect", found["text"], re.IGNORECASE):
                    yield found["title"], found["text"]
                element.clear()


def _replaced(text: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _without_nested(text: str, opening: str, closing: str) -> str:
    """The text outside of all pairs, which may stand in one another; a closing mark without a pair stays."""
    kept, depth = [], 0
    for piece in re.split(f"({re.escape(opening)}|{re.escape(closing)})", text):
        if piece == opening:
            depth += 1
        elif piece == closing and depth:
            depth -= 1
        elif not depth:
            kept.append(piece)
    return "".join(kept)


def _without_file_links(text: str) -> str:
    """The text without links to pictures, categories and other languages, whose captions may hold links again."""
    kept, start = [], 0
    while (link := _FILE_LINK.search(text, start)) is not None:
        kept.append(text[start : link.start()])
        depth, start = 0, len(text)
        for mark in re.compile(r"\[\[|\]\]").finditer(text, link.start()):
            depth += 1 if mark[0] == "[[" else -1
            if depth == 0:
                start = mark.end()
                break
    return "".join([*kept, text[start:]])
