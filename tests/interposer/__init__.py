"""Tests of the proxy between a client and runtimes."""
