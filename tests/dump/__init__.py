"""Tests of the message dumper."""
