"""The launcher: what a container runtime starts, in C (`launcher.c`, read that), and how it is built (`build.py`)."""
