"""Wire interfaces as Python modules, generated from protos/ by protos/generate; never edited."""
