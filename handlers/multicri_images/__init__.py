"""Images of all adapters: their names, the pool of those pulled, and what builds them."""
