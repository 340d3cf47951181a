"""HTML read strictly with the standard library: a tree, and what is wrong with a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

# HTML standard, section 13.1.2: void elements have no end tag.
VOID = {
    "area",
    "base",
    "br",
    "col",
    "embed",
    "hr",
    "img",
    "input",
    "link",
    "meta",
    "source",
    "track",
    "wbr",
}


@dataclass
class Element:
    """An element with its attributes; children are elements and text."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)

    def walk(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Elements below with a tag and these attributes; `class_` is one of the classes."""
        wanted = dict(attributes)
        with_class = wanted.pop("class_", None)
        return [
            e
            for e in self.walk()
            if e.tag == tag
            and all(e.attributes.get(k) == v for k, v in wanted.items())
            and (with_class is None or with_class in e.attributes.get("class", "").split())
        ]

    @property
    def text(self) -> str:
        """Text with white space as a reader sees it."""
        return " ".join(self.raw.split())

    @property
    def raw(self) -> str:
        """Text with white space as it is written."""
        return "".join(c if isinstance(c, str) else c.raw for c in self.children)


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("")
        self.open = [self.root]
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        doubled = [name for name, count in Counter(name for name, _ in attrs).items() if count > 1]
        self.faults += [f"<{tag}> has {name} twice" for name in doubled]
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:  # SVG's way, as <path/>
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag != self.open[-1].tag:
            self.faults.append(f"</{tag}> where <{self.open[-1].tag}> is open")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(page: str) -> Element:
    """The tree of a page. Raises ValueError, naming every fault, if it is not well-formed."""
    builder = _Builder()
    builder.feed(page)
    builder.close()
    faults = builder.faults + [f"<{e.tag}> is never closed" for e in builder.open[1:]]
    elements = list(builder.root.walk())
    ids = Counter(e.attributes["id"] for e in elements if "id" in e.attributes)
    faults += [f"id {name!r} {count} times" for name, count in ids.items() if count > 1]
    for element in elements:
        for attribute in ("aria-labelledby", "aria-describedby"):
            for name in element.attributes.get(attribute, "").split():
                if name not in ids:
                    faults.append(f"{attribute}={name!r} names nothing")
        if " " in element.attributes.get("id", ""):
            faults.append(f"id {element.attributes['id']!r} has spaces")
    if faults:
        raise ValueError("; ".join(faults))
    return builder.root
