"""netplane: Kubernetes Services, the Pod network and the packets that prove them.

Cluster objects become a snapshot (`model`, `sources`), a snapshot becomes a plan (`plan`), a backend spells the
plan as a program (`backends`, `programs`), and a driver applies the program to the kernel (`kernel`). Everything
up to the driver is a function of its arguments. Read `docs/architecture.md`, then `plan/services.py`.
"""

__version__ = "0.1.0"
