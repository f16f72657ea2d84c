"""Many calls, slow and vanishing clients, a kubelet's day, and a runtime that is killed."""
