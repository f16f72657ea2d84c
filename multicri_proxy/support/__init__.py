"""What of CRI each adapter honours, as a table: ``python -m multicri_proxy.support``."""
