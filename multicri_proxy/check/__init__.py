"""``multicri-proxy check``: tries the settings of the adapter out."""
