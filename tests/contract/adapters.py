"""Which adapters the contract holds for, and where."""

import os

NODE = "CONTRACT_NODE"
"""Where an ordinary user, who cannot bring the bed up, finds what of it is needed: JSON."""

ADAPTERS = (
    ["charliecloud"] if NODE in os.environ else ["slurm-apptainer", "slurm-charliecloud", "slurm-rest", "charliecloud"]
)
