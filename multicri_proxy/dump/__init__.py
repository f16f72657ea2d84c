"""The message dumper: writes down what the kubelet and the runtimes say to each other."""
