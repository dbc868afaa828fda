"""What a pixel of a synthetic person shows: the classes of a shard's segmentation."""

BACKGROUND, SKIN, HAIR, CLOTHES, EYES, MOUTH, BROWS, WORN = range(8)
"""Brows include lashes, mouth is everything behind the lips, and worn is also what is held:
glasses, hats, hands and what they hold."""
FACE = (SKIN, EYES, MOUTH, BROWS)
"""What is worn or held before a face is none of it."""
CAVITIES = (EYES, MOUTH)
"""Lids and lips that hide them look unlike them."""
SURFACES = (SKIN, BROWS)
"""Where they are drawn tells where lips and lids are."""
HIDING = (BACKGROUND, HAIR, CLOTHES, WORN)
"""What may lie before a mouth."""
