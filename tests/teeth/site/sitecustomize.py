"""On PYTHONPATH of a run with a fault: every Python process of the run, agents too, gets it before anything else."""

from teeth import plant

plant.from_environment()
