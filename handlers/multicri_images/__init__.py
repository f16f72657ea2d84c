"""Images of all adapters: their names, the pool of those pulled, and what builds them."""

from multicri_images.pool import pool

__all__ = ["pool"]
