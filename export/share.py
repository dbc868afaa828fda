"""OpenVINO IR whose constants lie in the stage's ONNX file: one copy of the weights on disk.

IR names each constant by offset and size in a file of raw bytes, and any file may be that one. So
the IR of a graph points into its ONNX file where the same bytes are, and brings only the rest.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

SHARED = ("fp32", "w16", "w8")
"""Precisions in which both graphs have the same constants; each quantiser for INT8 has its own."""

LARGE = 256
"""Bytes from which a constant is looked for; fewer are found by accident."""


def share(graph: bytes, weights: bytes, base: bytes) -> tuple[bytes, bytes]:
    """The graph (XML) for the weights ``base`` + what is returned beside it, most of it in base.

    Equal arguments give equal bytes, and what was shared before is shared again the same way.
    """
    root = ElementTree.fromstring(graph)
    rest = bytearray()
    known: dict[bytes, int] = {}
    for data in root.iter("data"):
        if "offset" not in data.attrib or "size" not in data.attrib:
            continue
        start, size = int(data.attrib["offset"]), int(data.attrib["size"])
        content = weights[start : start + size]
        if content not in known:
            place = base.find(content) if size >= LARGE else -1
            if place < 0:
                rest += bytes(-(len(base) + len(rest)) % 64)  # as the serialiser aligns them
                place = len(base) + len(rest)
                rest += content
            known[content] = place
        data.attrib["offset"] = str(known[content])
    return ElementTree.tostring(root), bytes(rest) or bytes(64)  # no file of a bundle is empty
