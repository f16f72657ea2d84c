"""The only floor of the proxy that a plug-in may stand on."""
