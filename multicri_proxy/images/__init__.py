"""The command ``images``: what was pulled for the adapter's pods, asked of the running daemon."""
