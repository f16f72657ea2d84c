"""Tests of the command `jobs`."""
