"""What every output says about itself in its metadata: that it is AI-generated."""

from __future__ import annotations

import uuid

TITLE = "AI-generated talking portrait"
COMMENT = "AI-generated: this is not a recording of the person shown."
SOFTWARE = "Vivant"
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC NewsCodes, Digital Source Type: media created by a trained algorithm."""

XMP_BOX = uuid.UUID("be7acfcb-97a9-42e8-9c71-999491e3afac")
"""Type of the top-level ``uuid`` box that holds XMP in MP4 (Adobe XMP Specification, part 3)."""


def xmp() -> bytes:
    """XMP packet with title, description, tool and the IPTC digital source type; UTF-8."""
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmp:CreatorTool="{SOFTWARE}"
    Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}">
   <dc:title>
    <rdf:Alt><rdf:li xml:lang="x-default">{TITLE}</rdf:li></rdf:Alt>
   </dc:title>
   <dc:description>
    <rdf:Alt><rdf:li xml:lang="x-default">{COMMENT}</rdf:li></rdf:Alt>
   </dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>""".encode()


def mp4_box() -> bytes:
    """The XMP packet as a box that may stand at the end of any MP4 file."""
    body = XMP_BOX.bytes + xmp()
    return (8 + len(body)).to_bytes(4, "big") + b"uuid" + body
