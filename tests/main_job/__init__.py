"""The main job, against the real parts: an ordinary pod in containerd, a multicri pod as a Slurm job."""
