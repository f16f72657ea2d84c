"""Prints deploy/cri.md."""

from multicri_proxy.plugins import named_plug_ins
from multicri_proxy.support.table import document

if __name__ == "__main__":
    print(document(named_plug_ins("support")), end="")
