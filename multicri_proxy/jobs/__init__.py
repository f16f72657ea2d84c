"""The command ``jobs``: what became of the adapter's containers, asked of the running daemon."""
