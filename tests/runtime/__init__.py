"""Tests of CRI's rules, with an adapter that runs nothing."""
