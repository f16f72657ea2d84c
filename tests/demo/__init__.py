"""The main job, shown: one socket, an ordinary pod in containerd and a multicri pod in Slurm."""
