"""What can break between a proxy and its cluster, each broken for real, and what is left when all is whole again."""
