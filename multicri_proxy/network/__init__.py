"""A network of their own for pods that run elsewhere: a namespace by CNI, and listeners in it that lead to the job."""
