"""Elements of an XML file that is written and never read here, so that no parser is exposed."""

import re
import xml.etree.ElementTree as ET  # nosec B405
from typing import Any

# Characters that XML 1.0 cannot hold, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Element = ET.Element


def element(tag: str, text: Any = "", /, **attributes: Any) -> Element:
    """An element with its text and attributes; characters that XML cannot hold become question marks."""
    made = ET.Element(tag, {key: plain(value) for key, value in attributes.items()})
    made.text = plain(text) or None
    return made


def add(parent: Element, tag: str, text: Any = "", /, **attributes: Any) -> Element:
    """element() at the end of its parent."""
    made = element(tag, text, **attributes)
    parent.append(made)
    return made


def xml_bytes(root: Element) -> bytes:
    """The file, in UTF-8 and indented."""
    ET.indent(root, " ")
    content: str = ET.tostring(root, "unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{content}\n'.encode()


def plain(value: Any) -> str:
    """Text in which question marks replace the characters that XML cannot hold."""
    return _NOT_XML.sub("?", str(value))
