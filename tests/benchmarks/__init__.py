"""The benchmark: one command, one table. deploy/performance.md says what is measured."""
